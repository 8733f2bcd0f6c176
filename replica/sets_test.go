package replica

import (
	"math/rand/v2"
	"slices"
	"testing"

	"sheepdog"
)

// FuzzBlockSet compares a blockSet with a table of bools.
func FuzzBlockSet(f *testing.F) {
	f.Add([]byte{0, 1, 4, 0, 4, 4, 1, 2, 3})
	f.Add([]byte{0, 10, 5, 0, 0, 30, 1, 12, 1, 0, 3, 3})
	f.Fuzz(func(t *testing.T, script []byte) {
		var set blockSet
		var model [64]bool
		for ; len(script) >= 3; script = script[3:] {
			from := uint64(script[1] % 48)
			x := span{from, from + 1 + uint64(script[2]%16)}
			if script[0]%2 == 0 {
				set.add(x)
			} else {
				set.remove(x)
			}
			for b := x.from; b < x.to; b++ {
				model[b] = script[0]%2 == 0
			}
			checkSet(t, set, model)
		}
	})
}

func checkSet(t *testing.T, set blockSet, model [64]bool) {
	for i := 1; i < len(set); i++ {
		if set[i].from <= set[i-1].to {
			t.Fatalf("spans touch: %v", set)
		}
	}
	next := uint64(0)
	set.split(span{0, 64}, func(part span, in bool) {
		if part.from != next || part.from >= part.to {
			t.Fatalf("parts are not in order: %v after %d", part, next)
		}
		next = part.to
		for b := part.from; b < part.to; b++ {
			if model[b] != in {
				t.Fatalf("block %d: in the set %v, want %v", b, in, model[b])
			}
		}
	})
	if next != 64 {
		t.Fatalf("parts end at %d, want 64", next)
	}
}

// FuzzDirtyObject compares the runs with a table of stamps.
func FuzzDirtyObject(f *testing.F) {
	f.Add([]byte{1, 4, 5, 3, 6, 9, 2, 0, 12, 128, 0, 2})
	f.Add([]byte{9, 0, 15, 8, 2, 3, 10, 4, 1})
	f.Fuzz(func(t *testing.T, script []byte) {
		d := new(dirtyObject)
		var model [64]uint64
		for ; len(script) >= 3; script = script[3:] {
			seq := uint64(script[0] % 128)
			if script[0] >= 128 {
				d.clear(sheepdog.Stamp{Token: 1, Seq: seq})
				for b := range model {
					if model[b] <= seq {
						model[b] = 0
					}
				}
			} else {
				from := uint64(script[1] % 48)
				x := span{from, from + 1 + uint64(script[2]%16)}
				d.mark(x, sheepdog.Stamp{Token: 1, Seq: seq + 1})
				for b := x.from; b < x.to; b++ {
					model[b] = max(model[b], seq+1)
				}
			}
			checkRuns(t, d, model)
		}
	})
}

func checkRuns(t *testing.T, d *dirtyObject, model [64]uint64) {
	var got [64]uint64
	last := uint64(0)
	for _, r := range d.runs {
		if r.from < last || r.from >= r.to {
			t.Fatalf("runs are not in order: %v", d.runs)
		}
		last = r.to
		for b := r.from; b < r.to; b++ {
			got[b] = r.stamp.Seq
		}
	}
	if got != model {
		t.Fatalf("stamps\n%v, want\n%v", got, model)
	}
}

// The search of dirty runs finds what a look at one after the other does: in sets
// without gaps, with few, and with many.
func TestSearchOfDirtyRuns(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, gap := range []uint64{1, 2, 9} {
		for _, long := range []uint64{1, 2, 9} {
			d, at := new(dirtyObject), rnd.Uint64N(3)
			for range 50 {
				at += rnd.Uint64N(gap)
				r := span{at, at + 1 + rnd.Uint64N(long)}
				d.runs, at = append(d.runs, stampedRun{span: r}), r.to
			}
			for block := range at + 3 {
				want := slices.IndexFunc(d.runs, func(r stampedRun) bool { return r.to > block })
				if want < 0 {
					want = len(d.runs)
				}
				if got := d.search(block); got != want {
					t.Fatalf("block %d is found at %d, want %d of %v", block, got, want, d.runs)
				}
			}
		}
	}
	if got := new(dirtyObject).search(7); got != 0 {
		t.Errorf("found at %d of nothing", got)
	}
}

func TestDirtyObjectIsBounded(t *testing.T) {
	for _, c := range []struct{ gap, runs uint64 }{{2, fewRuns}, {smallRange, maxObjectRuns}} {
		d := new(dirtyObject)
		n := c.runs
		for i := range n {
			d.mark(span{c.gap * i, c.gap*i + 1}, sheepdog.Stamp{Token: 1, Seq: i + 1})
		}
		if d.coarse || len(d.runs) != int(n) {
			t.Errorf("%d runs, coarse %v, want %d", len(d.runs), d.coarse, n)
		}
		for i := n; i < 3*n; i++ {
			d.mark(span{c.gap * i, c.gap*i + 1}, sheepdog.Stamp{Token: 1, Seq: i + 1})
		}
		if !d.coarse || len(d.runs) != 1 || d.runs[0].stamp.Seq != 3*n || d.runs[0].span != (span{0, c.gap*(3*n-1) + 1}) {
			t.Errorf("%d runs, coarse %v", len(d.runs), d.coarse)
		}
		if d.clear(sheepdog.Stamp{Token: 1, Seq: 5}) || !d.clear(sheepdog.Stamp{Token: 1, Seq: 3 * n}) {
			t.Error("a coarse run is cleared with its highest stamp and not before")
		}
	}
}
