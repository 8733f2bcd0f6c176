package node

import (
	"fmt"
	"strings"

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
	if p, _, ok := n.waiting(v); ok {
		if live, missing := v.ActingMembers(p); missing > 0 || len(live) == 0 {
			return api.StateWaiting
		}
		return api.StateHalted
	}
	return api.StateRunning
}

// stuck is a partition that cannot serve writes in a view, and its policy; nil if
// there is none.
type stuck struct {
	view      *sheepdog.View
	placement *sheepdog.Placement
	policy    sheepdog.Policy
}

// waiting finds a partition that cannot serve writes now, and its policy. It looks
// at all of them, once per view: whoever asks for the state of the cluster asks.
func (n *Node) waiting(v *sheepdog.View) (*sheepdog.Placement, sheepdog.Policy, bool) {
	s := n.stuck.Load()
	if s == nil || s.view != v {
		s = findStuck(v)
		n.stuck.Store(s)
	}
	return s.placement, s.policy, s.placement != nil
}

func findStuck(v *sheepdog.View) *stuck {
	for policy, t := range v.Tables {
		need := v.MinCopies(policy)
		for _, p := range t {
			if len(p.Acting) < need || !v.Serves(p) {
				return &stuck{v, p, policy}
			}
		}
	}
	return &stuck{view: v}
}

// why says what a partition that waiting found waits for.
func (n *Node) why(v *sheepdog.View, p *sheepdog.Placement, policy sheepdog.Policy) string {
	live, missing := v.ActingMembers(p)
	switch {
	case missing > 0 || len(live) == 0:
		return fmt.Sprintf("%d complete replicas of some data are on nodes that are away, and %d are here; start the missing nodes: %s", missing, len(live), strings.Join(n.missing(v, p), ", "))
	case p.State != sheepdog.Clean:
		return "all replicas of some data restarted and are being compared; guests wait for it"
	case v.Config.RecoveryDisabled:
		return fmt.Sprintf("%d complete replicas of some data are left and a write needs %d, but recovery is disabled; enable it, or start the missing nodes", len(live), v.MinCopies(policy))
	default:
		return fmt.Sprintf("%d complete replicas of some data are left and a write needs %d; writes wait until recovery has made them, or the missing nodes are back", len(live), v.MinCopies(policy))
	}
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

// twinWarnings name nodes of which more than one process runs.
func (n *Node) twinWarnings() (out []string) {
	for _, t := range n.cluster.Twins() {
		out = append(out, t.String())
	}
	return out
}

// warnings are for operators.
func (n *Node) warnings(v *sheepdog.View) []string {
	var out []string
	if err := n.cluster.GivenUp(); err != nil {
		out = append(out, fmt.Sprintf("node %s takes no part: %v", n.self.Addr, err))
	}
	out = append(out, n.twinWarnings()...)
	if n.cfg.standIn != nil {
		out = append(out, n.cfg.standIn.warning(n))
	}
	if n.cfg.NoSync {
		out = append(out, fmt.Sprintf("node %s was started with --nosync: flushes survive the death of processes, not the loss of power", n.self.Addr))
	}
	for _, m := range v.Members {
		if n.cluster.Flapping(m.ID) > 1 {
			out = append(out, fmt.Sprintf("node %s answers late, and was removed and came back at once: its processor or its network is overloaded", m.Addr))
		}
	}
	if n.cluster.Unrest() > 1 {
		out = append(out, "leaders of the cluster were elected one after the other: processors or the network of its nodes are overloaded; nodes wait longer for each other by now")
	}
	if p, policy, ok := n.waiting(v); ok {
		out = append(out, n.why(v, p, policy))
	}
	out = append(out, n.spaceWarnings()...)
	if p, z := v.Config.Policy, v.StorageZones(); p.Parity > 0 && z < p.Zones() {
		out = append(out, fmt.Sprintf("erasure coding %s needs %d zones with storage and there are %d: new data stay replicated; start or add nodes", p, p.Zones(), z))
	} else if z < p.Width() {
		out = append(out, fmt.Sprintf("%d copies are wanted but there are only %d zones with storage", p.Width(), z))
	}
	return out
}

// redundancy is what a view says of the replicas of all partitions.
type redundancy struct {
	view                          *sheepdog.View
	partitions, degraded, waiting int
	missing                       int // replicas
}

// redundancyOf looks at a view that nobody has asked about before.
func (n *Node) redundancyOf(v *sheepdog.View) *redundancy {
	r := n.redundancy.Load()
	if r == nil || r.view != v {
		r = newRedundancy(v)
		n.redundancy.Store(r)
	}
	return r
}

func newRedundancy(v *sheepdog.View) *redundancy {
	r := &redundancy{view: v}
	for policy, t := range v.Tables {
		need := v.MinCopies(policy)
		type verdict struct {
			missing int
			waits   bool
		}
		seen := make(map[*sheepdog.Placement]verdict) // rows are shared
		for _, p := range t {
			is, ok := seen[p]
			if !ok {
				live, _ := v.ActingMembers(p)
				is = verdict{max(policy.Width()-len(live), 0), len(p.Acting) < need || !v.Serves(p)}
				seen[p] = is
			}
			r.partitions++
			r.missing += is.missing
			if is.missing > 0 {
				r.degraded++
			}
			if is.waits {
				r.waiting++
			}
		}
	}
	return r
}
