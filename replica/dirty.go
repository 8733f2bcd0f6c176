package replica

import (
	"slices"

	"sheepdog"
)

// Limits of the dirty map. Beyond them the runs of an object become one, and
// Seal asks the engine for the true stamps. Of an object that is not large that is
// soon done, and it becomes one run early: then the note of a write costs no more
// where many others were written, and touches as little memory.
const (
	fewRuns       = 64
	smallRange    = 4096 // blocks
	maxObjectRuns = 4096
	maxFamilyRuns = 1 << 20
)

// stampedRun is a run of blocks written with one stamp.
type stampedRun struct {
	span
	stamp sheepdog.Stamp
}

// dirtyObject is what was written to one replica since the last completed
// flush: ascending runs that do not overlap.
type dirtyObject struct {
	born   sheepdog.Revision // interval of the partition at the first mark
	runs   []stampedRun
	coarse bool          // runs is one run that covers more than what is dirty
	one    [1]stampedRun // room for one run: what is coarse takes no other memory
}

func newDirtyObject(born sheepdog.Revision) *dirtyObject {
	d := &dirtyObject{born: born}
	d.runs = d.one[:0]
	return d
}

// mark adds a run; where runs overlap the higher stamp stays.
func (d *dirtyObject) mark(x span, stamp sheepdog.Stamp) {
	if d.coarse {
		d.runs[0].cover(stampedRun{x, stamp})
		return
	}
	i := d.search(x.from)
	if d.markAlone(i, stampedRun{x, stamp}) {
		return
	}
	j := i
	var repl []stampedRun
	for ; j < len(d.runs) && d.runs[j].from < x.to; j++ {
		repl = appendMerged(repl, d.runs[j], x, stamp)
		x.from = max(x.from, min(d.runs[j].to, x.to))
	}
	if x.from < x.to {
		repl = append(repl, stampedRun{x, stamp})
	}
	// The neighbours come along, for the stamp may be theirs.
	before, after := max(i-1, 0), min(j+1, len(d.runs))
	repl = slices.Concat(d.runs[before:i], repl, d.runs[j:after])
	d.runs = slices.Replace(d.runs, before, after, joined(repl)...)
	if d.full(len(d.runs)) {
		d.coarsen()
	}
}

// full reports whether so many runs are too many.
func (d *dirtyObject) full(n int) bool {
	return n > maxObjectRuns || n > fewRuns && d.runs[len(d.runs)-1].to-d.runs[0].from <= smallRange
}

// search finds the first run that ends after a block.
func (d *dirtyObject) search(block uint64) int {
	i, j := 0, len(d.runs)
	for i < j {
		if m := int(uint(i+j) / 2); d.runs[m].to <= block {
			i = m + 1
		} else {
			j = m
		}
	}
	return i
}

// markAlone adds a run that is to go before the i-th, or replaces that one, if
// nothing else is touched. So it mostly is: this is done for every write.
func (d *dirtyObject) markAlone(i int, r stampedRun) bool {
	if i > 0 && d.runs[i-1].to == r.from && d.runs[i-1].stamp == r.stamp {
		return false
	}
	next := i
	if i < len(d.runs) && d.runs[i].span == r.span {
		if !d.runs[i].stamp.Less(r.stamp) {
			return true
		}
		next++
	}
	if next < len(d.runs) && (d.runs[next].from < r.to || d.runs[next].from == r.to && d.runs[next].stamp == r.stamp) {
		return false
	}
	if next > i {
		d.runs[i] = r
		return true
	}
	if d.full(len(d.runs) + 1) {
		return false
	}
	d.runs = slices.Insert(d.runs, i, r)
	return true
}

// appendMerged appends old and what of x lies before its end, in order.
func appendMerged(out []stampedRun, old stampedRun, x span, stamp sheepdog.Stamp) []stampedRun {
	if x.from < old.from {
		out = append(out, stampedRun{span{x.from, old.from}, stamp})
		x.from = old.from
	}
	if !old.stamp.Less(stamp) {
		return append(out, old)
	}
	if old.from < x.from {
		out = append(out, stampedRun{span{old.from, x.from}, old.stamp})
	}
	end := min(old.to, x.to)
	out = append(out, stampedRun{span{x.from, end}, stamp})
	if end < old.to {
		out = append(out, stampedRun{span{end, old.to}, old.stamp})
	}
	return out
}

// joined merges neighbours of one stamp.
func joined(runs []stampedRun) []stampedRun {
	out := runs[:0]
	for _, r := range runs {
		if n := len(out); n > 0 && out[n-1].to == r.from && out[n-1].stamp == r.stamp {
			out[n-1].to = r.to
			continue
		}
		out = append(out, r)
	}
	return out
}

// coarsen replaces all runs by one that covers them, with the highest stamp, so
// that it is cleared no earlier than they would be.
func (d *dirtyObject) coarsen() {
	all := d.runs[0]
	for _, r := range d.runs[1:] {
		all.cover(r)
	}
	d.one[0] = all
	d.runs, d.coarse = d.one[:], true
}

// cover makes the run one that covers another as well, with the higher stamp.
func (all *stampedRun) cover(r stampedRun) {
	all.from, all.to = min(all.from, r.from), max(all.to, r.to)
	if all.stamp.Less(r.stamp) {
		all.stamp = r.stamp
	}
}

// clear drops the runs up to a stamp; true if none is left.
func (d *dirtyObject) clear(upTo sheepdog.Stamp) bool {
	d.runs = slices.DeleteFunc(d.runs, func(r stampedRun) bool { return !upTo.Less(r.stamp) })
	return len(d.runs) == 0
}
