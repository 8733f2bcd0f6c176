package gateway

import (
	"cmp"
	"slices"

	"sheepdog"
)

// maxRun bounds a reconciled run, in blocks, so that its bytes fit one message.
const maxRun = 1024

// union sorts runs and joins those that overlap or touch, so that each dirty
// block is compared once. Stamps are dropped: the records decide.
func union(runs []sheepdog.DirtyBlocks) []sheepdog.DirtyBlocks {
	runs = slices.Clone(runs)
	slices.SortFunc(runs, compareRuns)
	var out []sheepdog.DirtyBlocks
	for _, r := range runs {
		r.Stamp = sheepdog.Stamp{}
		if n := len(out); n > 0 && joins(out[n-1], r) {
			last := &out[n-1]
			last.Count = max(last.Count, uint32(r.Start-last.Start)+r.Count)
			continue
		}
		out = append(out, r)
	}
	return split(out)
}

func compareRuns(a, b sheepdog.DirtyBlocks) int {
	return cmp.Or(
		cmp.Compare(a.Object.Family, b.Object.Family),
		cmp.Compare(a.Object.Index, b.Object.Index),
		cmp.Compare(a.Layer, b.Layer),
		cmp.Compare(a.Start, b.Start))
}

func joins(a, b sheepdog.DirtyBlocks) bool {
	return a.Object == b.Object && a.Layer == b.Layer && uint32(b.Start) <= uint32(a.Start)+a.Count
}

// split cuts runs into pieces of at most maxRun blocks.
func split(runs []sheepdog.DirtyBlocks) []sheepdog.DirtyBlocks {
	var out []sheepdog.DirtyBlocks
	for _, r := range runs {
		for r.Count > maxRun {
			head := r
			head.Count = maxRun
			out = append(out, head)
			r.Start += maxRun
			r.Count -= maxRun
		}
		out = append(out, r)
	}
	return out
}
