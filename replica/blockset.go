package replica

import (
	"slices"

	"sheepdog"
)

// span is a half-open run of blocks.
type span struct{ from, to uint64 }

func blocks(start sheepdog.BlockNo, count uint32) span {
	return span{uint64(start), uint64(start) + uint64(count)}
}

// blockSet is a set of blocks of one object: ascending spans that do not touch.
type blockSet []span

// search finds the first span that ends at or after from.
func (b blockSet) search(from uint64) int {
	i, _ := slices.BinarySearchFunc(b, from, func(s span, from uint64) int {
		if s.to < from {
			return -1
		}
		return 1
	})
	return i
}

// add puts x into the set.
func (b *blockSet) add(x span) {
	i := b.search(x.from)
	j := i
	for j < len(*b) && (*b)[j].from <= x.to {
		x.from, x.to = min(x.from, (*b)[j].from), max(x.to, (*b)[j].to)
		j++
	}
	*b = slices.Replace(*b, i, j, x)
}

// remove takes x out of the set.
func (b *blockSet) remove(x span) {
	var out blockSet
	for _, s := range *b {
		if s.to <= x.from || s.from >= x.to {
			out = append(out, s)
			continue
		}
		if s.from < x.from {
			out = append(out, span{s.from, x.from})
		}
		if s.to > x.to {
			out = append(out, span{x.to, s.to})
		}
	}
	*b = out
}

// split cuts x into the parts that are in the set and those that are not, in
// ascending order.
func (b blockSet) split(x span, visit func(part span, in bool)) {
	for i := b.search(x.from); i < len(b) && b[i].from < x.to; i++ {
		s := b[i]
		if s.from > x.from {
			visit(span{x.from, s.from}, false)
			x.from = s.from
		}
		end := min(s.to, x.to)
		if end > x.from {
			visit(span{x.from, end}, true)
			x.from = end
		}
	}
	if x.from < x.to {
		visit(x, false)
	}
}
