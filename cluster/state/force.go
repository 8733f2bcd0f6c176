package state

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"sheepdog"
)

// Refound gives the cluster a new id after its voters were lost and an operator
// had the survivors go on without them (docs/adr/0009). Whoever still has the
// old id, a node that was given up and returns for example, is a stranger from
// then on. It is an epoch of its own, so that it shows in the history.
type Refound struct {
	Former  sheepdog.ClusterID `json:"former"`
	Cluster sheepdog.ClusterID `json:"cluster"`
	Time    time.Time          `json:"time"`
}

func (c *Refound) check() error {
	if c.Former.IsZero() || c.Cluster.IsZero() {
		return fmt.Errorf("%w: a new foundation needs the former and the new id", sheepdog.ErrInvalid)
	}
	return checkTime(c.Time)
}

// refound does nothing the second time.
func (s *State) refound(c *Refound) (*State, error) {
	switch {
	case s.cluster == c.Cluster:
		return nil, nil
	case s.cluster != c.Former:
		return nil, fmt.Errorf("%w: the cluster is %s, not %s", sheepdog.ErrConflict, s.cluster, c.Former)
	}
	next := s.successor()
	next.cluster = c.Cluster
	next.newEpoch(c.Time)
	return next, nil
}

// Force lets the partitions of a policy whose last acting replicas are all no
// members any more go on with what is left: the members that hold something of
// a partition, or the targets, empty, where nobody does. They are unclean, so
// that the newest of each block wins. It is what an operator may do who knows
// that the nodes waited for are lost for ever; it never touches a partition of
// which a last acting replica is a member.
type Force struct {
	Policy  sheepdog.Policy `json:"policy"`
	Holders []Holder        `json:"holders,omitempty"`
}

// Holder is a member that has old or incomplete replicas of partitions.
type Holder struct {
	MemberRef
	Partitions PartitionList `json:"partitions"`
}

// PartitionList is an ascending list of partitions. As text it is the base64 of
// their distances as uvarints, about a byte and a third each.
type PartitionList []sheepdog.Partition

// MarshalText encodes an ascending list.
func (l PartitionList) MarshalText() ([]byte, error) {
	var b []byte
	next := 0
	for _, p := range l {
		if int(p) < next {
			return nil, fmt.Errorf("%w: partition %d is out of order", sheepdog.ErrInvalid, p)
		}
		b = binary.AppendUvarint(b, uint64(int(p)-next))
		next = int(p) + 1
	}
	return base64.StdEncoding.AppendEncode(nil, b), nil
}

// UnmarshalText reads what MarshalText wrote.
func (l *PartitionList) UnmarshalText(text []byte) error {
	b, err := base64.StdEncoding.AppendDecode(nil, text)
	if err != nil {
		return fmt.Errorf("%w: list of partitions: %w", sheepdog.ErrInvalid, err)
	}
	out := make(PartitionList, 0, min(len(b), sheepdog.Partitions))
	for next := 0; len(b) > 0; {
		d, n := binary.Uvarint(b)
		if n <= 0 || d >= uint64(sheepdog.Partitions-next) {
			return fmt.Errorf("%w: list of partitions goes beyond their number", sheepdog.ErrInvalid)
		}
		next += int(d)
		out = append(out, sheepdog.Partition(next))
		next, b = next+1, b[n:]
	}
	*l = out
	return nil
}

func (c *Force) check() error {
	if len(c.Holders) > MaxMembers {
		return fmt.Errorf("%w: %d holders, at most %d are possible", sheepdog.ErrInvalid, len(c.Holders), MaxMembers)
	}
	return checkPolicy(c.Policy)
}

func (s *State) force(c *Force) (*State, error) {
	old, ok := s.table(c.Policy)
	if !ok {
		return nil, fmt.Errorf("%w: no table for policy %s", sheepdog.ErrConflict, c.Policy)
	}
	held := make(map[sheepdog.Partition][]sheepdog.NodeID)
	for _, h := range c.Holders {
		if m, ok := s.member(h.ID); !ok || m.Incarnation != h.Incarnation || m.VNodes == 0 {
			continue // the world has moved on
		}
		for _, p := range h.Partitions {
			if !slices.Contains(held[p], h.ID) {
				held[p] = append(held[p], h.ID)
			}
		}
	}
	next, rows, changed := s.successor(), slices.Clone(old.rows), false
	for p, r := range old.rows {
		to := s.forced(r, held[sheepdog.Partition(p)])
		if to == nil {
			continue
		}
		to.Since = next.revision
		rows[p], changed = to, true
	}
	if !changed {
		return nil, nil
	}
	next.putTable(&table{policy: c.Policy, rows: rows})
	return next, nil
}

// Lost reports whether only force has a partition go on: none of its acting
// replicas is a member, or those that are lack a disk and wait for the others.
func Lost(p *sheepdog.Placement, member func(sheepdog.NodeID) (sheepdog.Member, bool)) bool {
	missing := false
	for _, id := range p.Acting {
		m, ok := member(id)
		if ok && (p.State == sheepdog.Clean || !m.Incomplete) {
			return false
		}
		missing = missing || !ok
	}
	return missing
}

// forced is the row of a partition that nobody acting is left of; nil if there
// is somebody, or nobody could.
func (s *State) forced(r *row, holders []sheepdog.NodeID) *row {
	if !Lost(&r.Placement, s.member) {
		return nil
	}
	acting := holders
	if len(acting) == 0 {
		acting = slices.DeleteFunc(slices.Clone(r.Target), func(id sheepdog.NodeID) bool { return !s.isMember(id) })
	}
	if len(acting) == 0 {
		return nil
	}
	acting = inRingOrder(acting, r.Target)
	return &row{
		Placement: sheepdog.Placement{Acting: acting, Target: r.Target, Lost: r.Lost, State: sheepdog.Unclean},
		Restarted: acting, // should one of them be lost before they are equal, the others go on
		// None of them remembers what was acknowledged last: flushes will tell.
		Lives: make([]sheepdog.StoreLife, len(acting)),
	}
}
