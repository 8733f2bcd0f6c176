package state

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"sheepdog"
	"sheepdog/cluster/ring"
)

// Change is one batch of joins, removals and weight changes: one epoch. It is
// also how partitions that wait for dead nodes are resolved: a Change with
// nothing but Confirmed lets the confirmed go on without them.
//
// References to another incarnation than the listed one, removals and weights
// of nodes that are no members, are skipped: the world has moved on.
type Change struct {
	// Join lists nodes to add, restarted nodes under their new incarnation, and
	// members whose address, zone or weight differs. A weight that was set by a
	// command stays, whatever the node says of itself.
	Join []sheepdog.Member `json:"join,omitempty"`
	// Remove lists members to remove. A node that also joins is not removed.
	Remove  []MemberRef `json:"remove,omitempty"`
	Weights []Weight    `json:"weights,omitempty"`
	// Confirmed lists members that have just answered under their listed
	// incarnation. Where an acting replica is confirmed, others may be dropped.
	Confirmed []MemberRef `json:"confirmed,omitempty"`
	// Demote lists members that lost a part of what they held, such as a disk:
	// where another acting replica is confirmed they do not act any more until
	// they are filled again.
	Demote []MemberRef `json:"demote,omitempty"`
	Time   time.Time   `json:"time"`
	Reason string      `json:"reason,omitempty"` // for the log; no effect
}

func (c *Change) check() error {
	if err := checkMembers(c.Join); err != nil {
		return err
	}
	if n := max(len(c.Remove), len(c.Weights), len(c.Confirmed), len(c.Demote)); n > MaxMembers {
		return fmt.Errorf("%w: a list of %d nodes, at most %d are possible", sheepdog.ErrInvalid, n, MaxMembers)
	}
	if len(c.Reason) > MaxReason {
		return fmt.Errorf("%w: reason has %d bytes, at most %d are possible", sheepdog.ErrInvalid, len(c.Reason), MaxReason)
	}
	return checkTime(c.Time)
}

func (s *State) change(c *Change) (*State, error) {
	next := s.successor()
	next.members = newMembers(s.members, s.weights, c)
	next.weights = newWeights(s.weights, next.members, c.Weights)
	if len(next.members) == 0 {
		return nil, fmt.Errorf("%w: no member would be left; the last node just stops", sheepdog.ErrInvalid)
	}
	if err := checkMembers(next.members); err != nil {
		return nil, err
	}
	moved := next.moveTables(s, c)
	if slices.Equal(next.members, s.members) {
		next.members = s.members
		if !moved {
			return nil, nil
		}
		return next, nil // waiting partitions were resolved: a revision, no epoch
	}
	next.newEpoch(c.Time)
	return next, nil
}

// newMembers is the membership after the change.
func newMembers(old []sheepdog.Member, weights []Weight, c *Change) []sheepdog.Member {
	out := slices.Clone(old)
	for _, ref := range c.Remove {
		if i, ok := searchMember(out, ref.ID); ok && out[i].Incarnation == ref.Incarnation {
			out = slices.Delete(out, i, i+1)
		}
	}
	for _, m := range c.Join {
		if i, ok := searchWeight(weights, m.ID); ok && m.VNodes > 0 {
			m.VNodes = weights[i].VNodes
		}
		if i, ok := searchMember(out, m.ID); ok {
			out[i] = m
		} else {
			out = slices.Insert(out, i, m)
		}
	}
	for _, w := range c.Weights {
		if i, ok := searchMember(out, w.ID); ok {
			out[i].VNodes = w.VNodes
		}
	}
	for _, ref := range c.Demote {
		if i, ok := searchMember(out, ref.ID); ok && out[i].Incarnation == ref.Incarnation {
			out[i].Incomplete = true
		}
	}
	return out
}

// maxWeights bounds the weights that are remembered, those of nodes that left
// included.
const maxWeights = 2 * MaxMembers

// newWeights remembers what commands set: a node that restarts, or leaves and
// returns, says what it was started with. Once there are too many those of nodes
// that are no members are forgotten.
func newWeights(old []Weight, members []sheepdog.Member, set []Weight) []Weight {
	if len(set) == 0 {
		return old
	}
	out := slices.Clone(old)
	for _, w := range set {
		i, known := searchWeight(out, w.ID)
		switch _, member := searchMember(members, w.ID); {
		case !member:
		case known:
			out[i] = w
		default:
			out = slices.Insert(out, i, w)
		}
	}
	if len(out) > maxWeights {
		out = slices.DeleteFunc(out, func(w Weight) bool {
			_, member := searchMember(members, w.ID)
			return !member
		})
	}
	return out
}

func searchWeight(weights []Weight, id sheepdog.NodeID) (int, bool) {
	return slices.BinarySearchFunc(weights, id, func(w Weight, id sheepdog.NodeID) int { return cmp.Compare(w.ID, id) })
}

// moveTables moves the rows that the change is about and reports whether any
// differs. s holds the new members already.
func (s *State) moveTables(old *State, c *Change) (moved bool) {
	m := newMove(old.members, s.members, c, s.revision)
	same := sameRing(old.members, s.members)
	s.tables = slices.Clone(old.tables)
	for i, t := range old.tables {
		var wanted [][]sheepdog.NodeID
		if !same {
			wanted = ring.Replace(old.members, s.members, t.policy.Width(), func(p sheepdog.Partition) []sheepdog.NodeID { return t.rows[p].Target })
		}
		s.tables[i] = m.table(t, wanted)
		moved = moved || s.tables[i] != t
	}
	return moved
}
