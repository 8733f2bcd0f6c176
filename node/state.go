package node

import (
	"fmt"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/cluster"
)

// state is what the cluster can do, as this node sees it.
func (n *Node) state() api.ClusterState {
	switch n.cluster.Status() {
	case cluster.StatusUnformatted:
		return api.StateUnformatted
	case cluster.StatusStopping:
		return api.StateShutdown
	case cluster.StatusRunning:
	default:
		return api.StateWaiting
	}
	v := n.cluster.View()
	if p, ok := waiting(v); ok {
		if live, missing := v.ActingMembers(p); missing > 0 || len(live) == 0 {
			return api.StateWaiting
		}
		return api.StateHalted
	}
	return api.StateRunning
}

// waiting finds a partition that cannot serve writes now.
func waiting(v *sheepdog.View) (*sheepdog.Placement, bool) {
	for policy, t := range v.Tables {
		var last *sheepdog.Placement // rows are shared
		for _, p := range t {
			if p == last {
				continue
			}
			last = p
			live, missing := v.ActingMembers(p)
			if missing > 0 || len(live) < v.MinCopies(policy) || p.State != sheepdog.Clean {
				return p, true
			}
		}
	}
	return nil, false
}

// raftRole tells the leader's id, zero if unknown, and whether this node votes.
func (n *Node) raftRole() (sheepdog.NodeID, bool) {
	addr, self := n.cluster.Leader()
	voter := n.cluster.Voter()
	if self {
		return n.self.ID, voter
	}
	if v := n.cluster.View(); v != nil {
		for _, m := range v.Members {
			if m.Addr == addr {
				return m.ID, voter
			}
		}
	}
	return 0, voter
}

// warnings are for operators.
func (n *Node) warnings(v *sheepdog.View) []string {
	var out []string
	if n.cfg.NoSync {
		out = append(out, fmt.Sprintf("node %s was started with --nosync: flushes survive the death of processes, not the loss of power", n.self.Addr))
	}
	if p, ok := waiting(v); ok {
		live, missing := v.ActingMembers(p)
		out = append(out, fmt.Sprintf("a partition has %d of its replicas here and waits for %d; start the missing nodes", len(live), missing))
	}
	for _, full := range n.fullNodes() {
		out = append(out, full+"; writes wait when it has no space left: delete VDIs or snapshots, or add nodes or disks")
	}
	if z := v.StorageZones(); z < v.Config.Policy.Width() {
		out = append(out, fmt.Sprintf("%d copies are wanted but there are only %d zones with storage", v.Config.Policy.Width(), z))
	}
	return out
}

// fullRatio is how much of a node's store may be used before new VDIs, clones
// and snapshots are refused, in percent.
const fullRatio = 95

// room refuses what would grow the cluster when one of its nodes is full.
func (n *Node) room() error {
	if full := n.fullNodes(); len(full) > 0 {
		return fmt.Errorf("%s: %w", full[0], sheepdog.ErrNoSpace)
	}
	return nil
}

// fullNodes describes the nodes over the full ratio: this one as it is, the
// others by what gossip knows of their space, which may be half a minute old.
func (n *Node) fullNodes() []string {
	var out []string
	for _, m := range n.cluster.Alive() {
		h := m.Hints
		if m.ID == n.self.ID {
			h = n.hints()
		}
		if m.VNodes > 0 && overRatio(h.Used, h.Capacity) {
			out = append(out, fmt.Sprintf("node %s has used %d of %d bytes, over %d %%", m.Addr, h.Used, h.Capacity, fullRatio))
		}
	}
	return out
}

// overRatio compares bytes with the full ratio; of an unknown capacity nothing
// is said.
func overRatio(used, capacity uint64) bool {
	return capacity > 0 && used/fullRatio >= capacity/100
}
