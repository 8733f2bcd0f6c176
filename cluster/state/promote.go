package state

import (
	"fmt"
	"slices"

	"sheepdog"
)

// Promote makes a backfilled target act in the partitions that have not moved
// since. Where all targets act then, the former acting nodes leave. The whole
// batch is one revision of the same epoch; a batch of which everything is
// refused changes nothing.
type Promote struct {
	Policy      sheepdog.Policy      `json:"policy"`
	Node        sheepdog.NodeID      `json:"node"`
	Incarnation sheepdog.Incarnation `json:"incarnation"`
	Items       Items                `json:"items"`
}

// Clean says that the acting replicas of unclean partitions were compared and
// made equal by one of them. Otherwise as Promote.
type Clean struct {
	Policy      sheepdog.Policy      `json:"policy"`
	Node        sheepdog.NodeID      `json:"node"`
	Incarnation sheepdog.Incarnation `json:"incarnation"`
	Items       Items                `json:"items"`
}

func (s *State) promote(c *Promote) (*State, []sheepdog.Partition, error) {
	ref := MemberRef{ID: c.Node, Incarnation: c.Incarnation}
	return s.step(c.Policy, ref, c.Items, func(r *row) *row { return s.promoted(r, c.Node) })
}

func (s *State) clean(c *Clean) (*State, []sheepdog.Partition, error) {
	ref := MemberRef{ID: c.Node, Incarnation: c.Incarnation}
	return s.step(c.Policy, ref, c.Items, func(r *row) *row { return s.cleaned(r, c.Node) })
}

// step replaces the rows of items by what next makes of them, nil where it
// refuses, in one revision.
func (s *State) step(policy sheepdog.Policy, ref MemberRef, items []PartitionSince, next func(*row) *row) (*State, []sheepdog.Partition, error) {
	old, ok := s.table(policy)
	if !ok {
		return nil, nil, fmt.Errorf("%w: no table for policy %s", sheepdog.ErrConflict, policy)
	}
	if m, ok := s.member(ref.ID); !ok || m.Incarnation != ref.Incarnation {
		return nil, nil, fmt.Errorf("%w: node %s is no member under incarnation %s", sheepdog.ErrConflict, ref.ID, ref.Incarnation)
	}
	var (
		refused  []sheepdog.Partition
		done     = make(map[*row]*row)
		out      = old.own()
		revision = s.revision + 1
		changed  bool
	)
	for _, item := range items {
		r := out.rows[item.Partition]
		if r.Since != item.Since {
			refused = append(refused, item.Partition)
			continue
		}
		to, ok := done[r]
		if !ok {
			if to = next(r); to != nil {
				to.Since = revision
			}
			done[r] = to
		}
		if to == nil {
			refused = append(refused, item.Partition)
			continue
		}
		out.put(item.Partition, to)
		changed = true
	}
	slices.Sort(refused)
	if !changed {
		return nil, refused, nil
	}
	after := s.successor()
	after.putTable(out)
	return after, refused, nil
}

// promoted is r with one more acting node; nil if it may not act. Backfill reads
// from an acting replica that lives in this very revision, so there must be one,
// and nobody that r still waits for is needed once all targets act.
func (s *State) promoted(r *row, node sheepdog.NodeID) *row {
	if r.State != sheepdog.Clean || r.IsActing(node) || !slices.Contains(r.Target, node) {
		return nil
	}
	if !slices.ContainsFunc(r.Acting, s.isMember) {
		return nil
	}
	acting := append(slices.Clip(r.Acting), node)
	if allAct(acting, r.Target) {
		acting = r.Target
	}
	acting = inRingOrder(acting, r.Target)
	out := &row{Placement: sheepdog.Placement{Acting: acting, Target: r.Target, Lost: r.Lost}, Lives: s.lives(acting)}
	for i, id := range acting {
		if id != node {
			out.Lives[i] = r.lifeOf(id)
		}
	}
	return out
}

// cleaned is r with equal replicas, which have what any of them remembered; nil if it is clean already, the node does
// not act, or an acting node is no member and so cannot have been compared.
func (s *State) cleaned(r *row, node sheepdog.NodeID) *row {
	if r.State != sheepdog.Unclean || !r.IsActing(node) {
		return nil
	}
	for _, id := range r.Acting {
		if !s.isMember(id) {
			return nil
		}
	}
	acting := r.Acting
	if allAct(acting, r.Target) {
		acting = r.Target
	}
	acting = inRingOrder(acting, r.Target)
	out := &row{Placement: sheepdog.Placement{Acting: acting, Target: r.Target, Lost: r.Lost}, Lives: s.lives(acting)}
	if s.forgot(r) {
		out.Lost = s.revision + 1
	}
	return out
}
