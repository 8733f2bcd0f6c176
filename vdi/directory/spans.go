package directory

import (
	"slices"

	"sheepdog"
)

// span is a run of VDI ids, both ends included.
type span [2]sheepdog.VID

// spans is a set of ids as ascending runs with gaps between them.
type spans []span

// push adds an id higher than all others.
func (s spans) push(v sheepdog.VID) spans {
	if n := len(s); n > 0 && s[n-1][1]+1 == v {
		s[n-1][1] = v
		return s
	}
	return append(s, span{v, v})
}

// insert adds any id that is not in the set.
func (s spans) insert(v sheepdog.VID) spans {
	i, _ := slices.BinarySearchFunc(s, v, func(r span, v sheepdog.VID) int { return int(r[0]) - int(v) })
	below := i > 0 && s[i-1][1]+1 == v
	above := i < len(s) && s[i][0] == v+1
	switch {
	case below && above:
		s[i-1][1] = s[i][1]
		return slices.Delete(s, i, i+1)
	case below:
		s[i-1][1] = v
	case above:
		s[i][0] = v
	default:
		return slices.Insert(s, i, span{v, v})
	}
	return s
}

// each visits the ids in ascending order.
func (s spans) each(visit func(sheepdog.VID)) {
	for _, r := range s {
		for v := r[0]; v <= r[1]; v++ {
			visit(v)
		}
	}
}

func (s spans) check() error {
	for i, r := range s {
		if r[0] < 1 || r[0] > r[1] || r[1] >= vidSpace || i > 0 && r[0] <= s[i-1][1]+1 {
			return invalid("run %d of VDI ids (%s to %s) is out of range or order", i, r[0], r[1])
		}
	}
	return nil
}
