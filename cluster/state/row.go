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
}

// table is all rows of one policy. Immutable but for the cached view of it.
type table struct {
	policy sheepdog.Policy
	rows   []*row
	public sheepdog.Table
}

// published is the table as views show it.
func (t *table) published() sheepdog.Table {
	if t.public == nil {
		t.public = make(sheepdog.Table, len(t.rows))
		for p, r := range t.rows {
			t.public[p] = &r.Placement
		}
	}
	return t.public
}

// freshTable is a table for a policy under which nothing is stored yet: what
// the ring wants acts.
func freshTable(policy sheepdog.Policy, ring [][]sheepdog.NodeID, since sheepdog.Revision) *table {
	t := &table{policy: policy, rows: make([]*row, len(ring))}
	shared := make(map[*sheepdog.NodeID]*row)
	for p, nodes := range ring {
		key := &nodes[0] // the caller checked that the ring has storage
		if shared[key] == nil {
			shared[key] = &row{Placement: sheepdog.Placement{Acting: nodes, Target: nodes, Since: since}}
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

func comparePolicies(a, b sheepdog.Policy) int {
	return cmp.Or(cmp.Compare(a.Copies, b.Copies), cmp.Compare(a.Parity, b.Parity))
}
