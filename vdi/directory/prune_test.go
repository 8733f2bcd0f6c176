package directory

import (
	"slices"
	"testing"

	"sheepdog"
)

// A prune proposed a while ago meets layers that were absorbed, are somebody
// else's, live, or are gone.
func TestPruneTakesOnlyWhatTheLayerAbsorbed(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"a", "b"} {
		w.written(name)
		for range 2 {
			w.must(&Snapshot{Name: name, IfToken: w.tokenOf(name, 0)})
			if err := w.write(name); err != nil {
				t.Fatal(err)
			}
		}
		w.must(&DeleteSnapshot{Name: name, Snapshot: "1"})
	}
	_, a := w.familyOf("a")
	_, b := w.familyOf("b")
	ofA, ofB := w.d.Logical(a.Parent), w.d.Logical(b.Parent)
	if len(ofA) != 2 || len(ofB) != 2 {
		t.Fatalf("absorbed %v and %v", ofA, ofB)
	}
	w.must(&Prune{Layers: map[sheepdog.LayerID][]sheepdog.LayerID{
		a.Parent: {a.Parent, ofB[1], b.ID, 99}, 98: {ofA[1]}, 0: nil,
	}})
	if !slices.Equal(w.d.Logical(a.Parent), ofA) || !slices.Equal(w.d.Logical(b.Parent), ofB) {
		t.Fatalf("absorbed %v and %v", w.d.Logical(a.Parent), w.d.Logical(b.Parent))
	}
	w.must(&DeleteSnapshot{Name: "a", Snapshot: "2"}) // the working layer absorbs both
	w.must(&Prune{Layers: map[sheepdog.LayerID][]sheepdog.LayerID{a.Parent: {ofA[1]}}})
	if got, want := w.d.Logical(a.ID), []sheepdog.LayerID{a.ID, a.Parent}; !slices.Equal(got, want) {
		t.Fatalf("absorbed %v, want %v", got, want)
	}
	w.check()
}
