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
	if err := n.cluster.GivenUp(); err != nil {
		out = append(out, fmt.Sprintf("node %s takes no part: %v", n.self.Addr, err))
	}
	if n.cfg.NoSync {
		out = append(out, fmt.Sprintf("node %s was started with --nosync: flushes survive the death of processes, not the loss of power", n.self.Addr))
	}
	if p, ok := waiting(v); ok {
		live, missing := v.ActingMembers(p)
		out = append(out, fmt.Sprintf("a partition has %d of its replicas here and waits for %d; start the missing nodes", len(live), missing))
	}
	out = append(out, n.spaceWarnings()...)
	if p, z := v.Config.Policy, v.StorageZones(); p.Parity > 0 && z < p.Zones() {
		out = append(out, fmt.Sprintf("erasure coding %s needs %d zones with storage and there are %d: new data stay replicated; start or add nodes", p, p.Zones(), z))
	} else if z < p.Width() {
		out = append(out, fmt.Sprintf("%d copies are wanted but there are only %d zones with storage", p.Width(), z))
	}
	return out
}
