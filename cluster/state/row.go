package state

import (
	"cmp"
	"slices"

	"sheepdog"
)

// row is who holds one partition: the published placement, and what only the
// rules need. Rows are immutable and shared by partitions and states.
type row struct {
	sheepdog.Placement
	// Restarted lists the acting nodes of an unclean partition that restarted
	// since it was last clean and were kept because no other replica was known to
	// live. They hold every flushed write and have been seen since.
	Restarted []sheepdog.NodeID
	// Lives has, for each acting node, the life of its store in which it last was
	// complete: as it began to act, or as the partition was last clean.
	Lives []sheepdog.StoreLife
}

// lifeOf is the entry of Lives of a node; zero if it does not act.
func (r *row) lifeOf(id sheepdog.NodeID) sheepdog.StoreLife {
	if i := slices.Index(r.Acting, id); i >= 0 {
		return r.Lives[i]
	}
	return 0
}

// lives lists the present lives of the stores of nodes; zero for one that is no
// member.
func (s *State) lives(nodes []sheepdog.NodeID) []sheepdog.StoreLife {
	out := make([]sheepdog.StoreLife, len(nodes))
	for i, id := range nodes {
		if m, ok := s.member(id); ok {
			out[i] = m.StoreLife
		}
	}
	return out
}

// forgot reports whether none of the acting nodes remembers what it had
// acknowledged when the partition was last clean.
func (s *State) forgot(r *row) bool {
	for i, id := range r.Acting {
		if m, ok := s.member(id); ok && m.StoreLife != 0 && m.StoreLife == r.Lives[i] {
			return false
		}
	}
	return true
}

// table is all rows of one policy. Only the state has the rows; a step of recovery
// replaces some where they are.
type table struct {
	policy sheepdog.Policy
	rows   []*row
	public sheepdog.Table // the same for views; nil until one was made
	seen   bool           // a view has public: it must not change any more
}

// published is the table as views show it.
func (t *table) published() sheepdog.Table {
	if t.public == nil {
		t.public = make(sheepdog.Table, len(t.rows))
		for p, r := range t.rows {
			t.public[p] = &r.Placement
		}
	}
	t.seen = true
	return t.public
}

// own is the table for the state's successor, to be changed by put, after which t
// is void. What no view has is not copied: steps that follow each other cost little.
func (t *table) own() *table {
	out := *t
	if t.seen {
		out.public, out.seen = slices.Clone(t.public), false
	}
	return &out
}

// put replaces one row.
func (t *table) put(p sheepdog.Partition, r *row) {
	t.rows[p] = r
	if t.public != nil {
		t.public[p] = &r.Placement
	}
}

// freshTable is a table for a policy under which nothing is stored yet: what
// the ring wants acts. s has its members and revision already.
func (s *State) freshTable(policy sheepdog.Policy, ring [][]sheepdog.NodeID) *table {
	t := &table{policy: policy, rows: make([]*row, len(ring))}
	shared := make(map[*sheepdog.NodeID]*row)
	for p, nodes := range ring {
		key := &nodes[0] // the caller checked that the ring has storage
		if shared[key] == nil {
			shared[key] = &row{Placement: sheepdog.Placement{Acting: nodes, Target: nodes, Since: s.revision}, Lives: s.lives(nodes)}
		}
		t.rows[p] = shared[key]
	}
	return t
}

// allAct reports whether all targets act (and there is a target).
func allAct(acting, target []sheepdog.NodeID) bool {
	for _, id := range target {
		if !slices.Contains(acting, id) {
			return false
		}
	}
	return len(target) > 0
}

// inRingOrder lists acting in the order of target, then the others as they were.
func inRingOrder(acting, target []sheepdog.NodeID) []sheepdog.NodeID {
	out := make([]sheepdog.NodeID, 0, len(acting))
	for _, id := range target {
		if slices.Contains(acting, id) {
			out = append(out, id)
		}
	}
	for _, id := range acting {
		if !slices.Contains(target, id) {
			out = append(out, id)
		}
	}
	return out
}

// isInRingOrder reports whether inRingOrder would leave acting as it is.
func isInRingOrder(acting, target []sheepdog.NodeID) bool {
	i := 0
	for _, id := range target {
		if !slices.Contains(acting, id) {
			continue
		}
		if acting[i] != id {
			return false
		}
		i++
	}
	return true
}

func comparePolicies(a, b sheepdog.Policy) int {
	return cmp.Or(cmp.Compare(a.Copies, b.Copies), cmp.Compare(a.Parity, b.Parity))
}
