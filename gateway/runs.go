package gateway

import (
	"cmp"
	"slices"

	"sheepdog"
)

// maxRun bounds a window of reconciled blocks, so that its bytes fit one message.
const maxRun = 1024

// window is a range of blocks of one layer of an object, at most maxRun of them,
// and which of them are dirty.
type window struct {
	object sheepdog.ObjectID
	layer  sheepdog.LayerID
	start  sheepdog.BlockNo
	count  uint32
	runs   []sheepdog.DirtyBlocks // ascending
}

// windows gathers ascending runs of at most maxRun blocks, so that many small
// ones cost one request.
func windows(runs []sheepdog.DirtyBlocks) []window {
	var out []window
	for _, r := range runs {
		end := r.Start + sheepdog.BlockNo(r.Count)
		if n := len(out); n > 0 && out[n-1].object == r.Object && out[n-1].layer == r.Layer && end-out[n-1].start <= maxRun {
			w := &out[n-1]
			w.count = uint32(end - w.start)
			w.runs = append(w.runs, r)
			continue
		}
		out = append(out, window{object: r.Object, layer: r.Layer, start: r.Start, count: r.Count, runs: []sheepdog.DirtyBlocks{r}})
	}
	return out
}

// within lists the blocks of the window that the runs cover.
func (w *window) within(runs []sheepdog.DirtyBlocks) map[sheepdog.BlockNo]bool {
	out := make(map[sheepdog.BlockNo]bool)
	end := w.start + sheepdog.BlockNo(w.count)
	for _, d := range runs {
		if d.Object != w.object || d.Layer != w.layer {
			continue
		}
		for b := max(d.Start, w.start); b < min(d.Start+sheepdog.BlockNo(d.Count), end); b++ {
			out[b] = true
		}
	}
	return out
}

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
