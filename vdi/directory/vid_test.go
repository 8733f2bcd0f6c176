package directory

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"sheepdog"
)

// Ids that scripts written for sheepdog hard-code.
func TestNameVID(t *testing.T) {
	for name, want := range map[string]sheepdog.VID{
		"test": 0x7c2b25, "x": 0x21707, "ec": 0x3933f9, "clone1": 0xc8f989, "hyper": 0x5b5b59,
	} {
		if got := NameVID(name); got != want {
			t.Errorf("id of %q is %s, want %s", name, got, want)
		}
	}
}

func TestVIDSetWrapsAndSkips(t *testing.T) {
	s := new(vidSet)
	for v := sheepdog.VID(vidSpace - 200_000); v < vidSpace; v++ {
		s.add(v)
	}
	if v, ok := s.next(vidSpace - 150_000); !ok || v != 1 {
		t.Fatalf("next is %s, %v; want 1: zero is never given", v, ok)
	}
	if v, ok := s.next(vidSpace); !ok || v != 1 {
		t.Fatalf("next after the last is %s, %v", v, ok)
	}
	s.remove(vidSpace - 1)
	if v, ok := s.next(vidSpace - 150_000); !ok || v != vidSpace-1 {
		t.Fatalf("next is %s, %v", v, ok)
	}
}

func TestVIDSetAndSpansAgainstAMap(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, runs, want := new(vidSet), spans(nil), map[sheepdog.VID]bool{}
		near := rapid.SampledFrom([]sheepdog.VID{60, pageVIDs - 3, vidSpace - 70}).Draw(rt, "near")
		for range rapid.IntRange(0, 60).Draw(rt, "n") {
			v := near + sheepdog.VID(rapid.IntRange(0, 69).Draw(rt, "v"))
			if !want[v] {
				runs = runs.insert(v)
			}
			want[v] = true
			s.add(v)
		}
		var got []sheepdog.VID
		runs.each(func(v sheepdog.VID) { got = append(got, v) })
		if !slices.Equal(got, slices.Sorted(maps.Keys(want))) || !slices.Equal(runs, s.spans()) || runs.check() != nil {
			rt.Fatalf("%v: runs %v, bitmap %v", want, runs, s.spans())
		}
		start := near + sheepdog.VID(rapid.IntRange(0, 69).Draw(rt, "start"))
		next := start
		for want[next] {
			next = max(1, (next+1)%vidSpace)
		}
		if v, ok := s.next(start); !ok || v != next || s.count != len(want) {
			rt.Fatalf("next from %s is %s, want %s", start, v, next)
		}
	})
}

// When every id was used once, those of the deleted are used again.
func TestExhaustedIDsAreUsedAgain(t *testing.T) {
	w := newWorld(t)
	w.bare = true
	for _, name := range []string{"alive", "gone"} {
		if err := w.newVDI(name); err != nil {
			t.Fatal(err)
		}
	}
	w.must(&Snapshot{Name: "gone", Tag: "kept"})
	gone, _ := w.d.Lookup("gone")
	w.must(&Delete{Name: "gone"})
	s := w.d.state.Load()
	for v := sheepdog.VID(1); v < vidSpace; v++ {
		s.used.add(v)
	}
	w.must(&Create{Name: "gone", Size: 1, Policy: sheepdog.Policy{Copies: 1}, BlockSizeShift: 22})
	again, _ := w.d.Lookup("gone")
	if again.VID != gone.VID {
		t.Fatalf("id %s, want that of the deleted, %s", again.VID, gone.VID)
	}
	w.must(&DeleteSnapshot{Name: "gone", Snapshot: "kept", RecycleVIDs: true})
	w.check() // the old family's retired id belongs to the new VDI: it is not freed
	w.restart()
}

func TestFullVIDSetHasNoNext(t *testing.T) {
	s := new(vidSet)
	for v := sheepdog.VID(1); v < vidSpace; v++ {
		s.add(v)
	}
	if v, ok := s.next(4711); ok {
		t.Fatalf("next is %s", v)
	}
	s.remove(4710)
	if v, ok := s.next(4711); !ok || v != 4710 {
		t.Fatalf("next is %s, %v", v, ok)
	}
}
