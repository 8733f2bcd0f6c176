package recovery

import (
	"math/bits"
	"slices"

	"sheepdog"
)

// lookout knows the partitions that ask anything of one node. Views that follow
// each other share the placements that did not change, so that it looks closely
// at few: in a large cluster there is a view for every handful of promotions.
type lookout struct {
	self   sheepdog.NodeID
	tables map[sheepdog.Policy]*lookedAt
}

// lookedAt is a table and the partitions in it that are not idle.
type lookedAt struct {
	table sheepdog.Table
	asks  partitions
}

func newLookout(self sheepdog.NodeID) *lookout {
	return &lookout{self: self, tables: make(map[sheepdog.Policy]*lookedAt)}
}

// look takes account of a view.
func (l *lookout) look(v *sheepdog.View) {
	for policy := range l.tables {
		if _, ok := v.Tables[policy]; !ok {
			delete(l.tables, policy)
		}
	}
	for policy, table := range v.Tables {
		t := l.tables[policy]
		if t == nil || len(t.table) != len(table) {
			t = &lookedAt{table: make(sheepdog.Table, len(table))}
			l.tables[policy] = t
		}
		for p, pl := range table {
			if pl != t.table[p] {
				t.asks.set(sheepdog.Partition(p), !idle(pl, l.self))
			}
		}
		t.table = table
	}
}

// idle reports, for most partitions, that a placement asks nothing of a node.
func idle(pl *sheepdog.Placement, self sheepdog.NodeID) bool {
	return pl.State == sheepdog.Clean && (pl.IsActing(self) || !slices.Contains(pl.Target, self))
}

// partitions is a set of partitions.
type partitions [sheepdog.Partitions / 64]uint64

func (s *partitions) set(p sheepdog.Partition, in bool) {
	if in {
		s[p/64] |= 1 << (p % 64)
	} else {
		s[p/64] &^= 1 << (p % 64)
	}
}

// all yields the members in ascending order.
func (s *partitions) all(yield func(sheepdog.Partition) bool) {
	for i, word := range s {
		for ; word != 0; word &= word - 1 {
			if !yield(sheepdog.Partition(i*64 + bits.TrailingZeros64(word))) {
				return
			}
		}
	}
}
