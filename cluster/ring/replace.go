package ring

import (
	"slices"

	"sheepdog"
)

// Replace is Place(after, width), made of what Place(before, width) was: list gives
// the nodes that the ring wanted for a partition. Only partitions that lose a node,
// or get one, are computed anew; the others keep their list, memory and all.
func Replace(before, after []sheepdog.Member, width int, list func(sheepdog.Partition) []sheepdog.NodeID) [][]sheepdog.NodeID {
	d := differ(before, after)
	r := newPlacer(after, width)
	rows := make([][]sheepdog.NodeID, sheepdog.Partitions)
	for p := range rows {
		part := sheepdog.Partition(p)
		if row := list(part); d.keeps(row) && !r.intrudes(part, row, d.came) {
			rows[p] = row
			continue
		}
		rows[p] = r.row(part)
	}
	return rows
}

// difference is what a change of members means to the ring. A member of another
// zone or weight has left and come.
type difference struct {
	left []sheepdog.NodeID
	came []candidate
}

func differ(before, after []sheepdog.Member) (d difference) {
	was, is := storing(before), storing(after)
	for _, c := range was {
		if !slices.Contains(is, c) {
			d.left = append(d.left, c.id)
		}
	}
	for _, c := range is {
		if !slices.Contains(was, c) {
			d.came = append(d.came, c)
		}
	}
	return d
}

// keeps reports whether a list has none of those that left.
func (d *difference) keeps(row []sheepdog.NodeID) bool {
	for _, id := range row {
		if slices.Contains(d.left, id) {
			return false
		}
	}
	return true
}

// intrudes reports whether one of those that came may belong into a list: there is
// room, or it beats the last one. If it does not, it beats nobody, of its own zone
// or another.
func (r *placer) intrudes(p sheepdog.Partition, row []sheepdog.NodeID, came []candidate) bool {
	if len(came) == 0 {
		return false
	}
	if len(row) < r.best.size {
		return true
	}
	seed := partitionSeed(p)
	last := r.entry(seed, r.positions[row[len(row)-1]])
	for _, c := range came {
		if e := r.entry(seed, r.positions[c.id]); e.beats(&last) {
			return true
		}
	}
	return false
}
