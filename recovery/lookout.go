package recovery

import (
	"math/bits"

	"sheepdog"
)

// lookout knows the partitions whose placement is of a kind. Views that follow each
// other share the placements that did not change, so that it looks closely at few: in
// a large cluster there is a view for every handful of promotions.
type lookout struct {
	kind   func(*sheepdog.Placement) bool
	tables map[sheepdog.Policy]*lookedAt
}

// lookedAt is a table and the partitions in it that are of the kind.
type lookedAt struct {
	table sheepdog.Table
	found partitions
}

func newLookout(kind func(*sheepdog.Placement) bool) *lookout {
	return &lookout{kind: kind, tables: make(map[sheepdog.Policy]*lookedAt)}
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
				t.found.set(sheepdog.Partition(p), l.kind(pl))
			}
		}
		t.table = table
	}
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

func (s *partitions) has(p sheepdog.Partition) bool { return s[p/64]&(1<<(p%64)) != 0 }

// add puts another set in, and reports whether that has any.
func (s *partitions) add(other *partitions) (some bool) {
	for i, word := range other {
		s[i] |= word
		some = some || word != 0
	}
	return some
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
