package directory

import (
	"slices"
	"testing"
	"time"

	"sheepdog"
)

// Who asks for what has gone since is told all of it, or that it is not all.
func TestDepartedIsCompleteOrSaysThatItIsNot(t *testing.T) {
	w := newWorld(t)
	_, upTo, complete := w.d.Departed(0)
	if complete {
		t.Error("complete from the beginning, before which there may have been others")
	}
	ask := func() (ids []sheepdog.LayerID, complete bool) {
		ids, upTo, complete = w.d.Departed(upTo)
		return ids, complete
	}
	_, layer := w.written("v")
	if ids, complete := ask(); len(ids) != 0 || !complete {
		t.Errorf("departed %v, %v; want nothing", ids, complete)
	}
	w.must(&Delete{Name: "v"})
	if ids, complete := ask(); !slices.Equal(ids, []sheepdog.LayerID{layer.ID}) || !complete {
		t.Errorf("departed %v, %v; want %d", ids, complete, layer.ID)
	}
	w.bare = true
	pass := func() {
		w.must(&Create{Name: "w", Size: 1 << 20, Policy: sheepdog.Policy{Copies: 1}, BlockSizeShift: sheepdog.DefaultObjectShift})
		w.must(&Delete{Name: "w"})
	}
	before := upTo
	for range departedKept - 1 {
		pass()
	}
	if ids, complete := ask(); len(ids) != departedKept-1 || !complete {
		t.Errorf("%d departed, %v; want all of them", len(ids), complete)
	}
	pass()
	if _, _, complete := w.d.Departed(before); complete {
		t.Error("complete though the oldest are forgotten")
	}
	for _, forget := range []func(){w.d.Clear, w.d.Reset, func() { _ = w.d.Restore(w.image()) }} {
		ask()
		forget()
		if _, complete := ask(); complete {
			t.Error("complete though the directory was replaced")
		}
	}
}

// Bug: each second after a change of the directory every node looked through all layers
// for those that are coded or to be, 7 ms for 10,000 VDIs, in the way of the next change.
func TestLooksForCodingWorkDoNotGrowWithVDIs(t *testing.T) {
	cost := func(vdis int) time.Duration {
		w := crowd(t, vdis)
		best := time.Hour
		for range 20 {
			began := time.Now()
			for range 10 {
				w.d.CodingWork()
				w.d.AllCoded()
				w.d.Departed(0)
			}
			best = min(best, time.Since(began))
		}
		return best
	}
	few, many := cost(10), cost(2000)
	if many > 10*few {
		t.Errorf("it takes %v with 10 VDIs and %v with 2,000", few, many)
	}
}
