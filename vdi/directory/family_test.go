package directory

import (
	"errors"
	"testing"

	"sheepdog"
)

// written makes a VDI with a coordinator and a written layer.
func (w *world) written(name string) (Family, Layer) {
	w.t.Helper()
	if err := errors.Join(w.newVDI(name), w.write(name)); err != nil {
		w.t.Fatal(err)
	}
	return w.familyOf(name)
}

func (w *world) newVDI(name string) error {
	_, err := w.run(&Create{Name: name, Size: 1 << 30, Policy: sheepdog.Policy{Copies: 3}, BlockSizeShift: 22})
	return err
}

func (w *world) familyOf(name string) (Family, Layer) {
	w.t.Helper()
	v, err := w.d.Lookup(name)
	if err != nil {
		w.t.Fatal(err)
	}
	f, ok := w.d.Family(v.Family)
	l, listed := w.d.Layer(v.Layer)
	if !ok || !listed || f.Working != l.ID {
		w.t.Fatalf("family %+v and layer %+v of VDI %+v", f, l, v)
	}
	return f, l
}

func (w *world) wantError(cmd Command, want error) {
	w.t.Helper()
	if _, err := w.run(cmd); !errors.Is(err, want) {
		w.t.Fatalf("%T %+v: %v, want %v", cmd, cmd, err, want)
	}
}

func TestAcquireNeedsTheTokenSeen(t *testing.T) {
	w := newWorld(t)
	f, _ := w.written("v")
	w.wantError(&Acquire{Family: f.ID, Node: 2, Incarnation: 2, IfToken: f.Token - 1}, sheepdog.ErrConflict)
	w.wantError(&Acquire{Family: f.ID, Node: 0, Incarnation: 2, IfToken: f.Token}, sheepdog.ErrInvalid)
	w.wantError(&Acquire{Family: 99, Node: 2, Incarnation: 2}, ErrNoVDI)

	got := decode[Acquired](t, w.must(&Acquire{Family: f.ID, Node: 2, Incarnation: 2, IfToken: f.Token}))
	now, _ := w.familyOf("v")
	if got.Token <= f.Token || now.Token != got.Token || now.Coordinator != (Coordinator{Node: 2, Incarnation: 2}) {
		t.Fatalf("token %d after %d, family %+v", got.Token, f.Token, now)
	}
}

func TestTokensAreNeverSharedByFamilies(t *testing.T) {
	w := newWorld(t)
	a, _ := w.written("a")
	b, _ := w.written("b")
	if b.Token <= a.Token {
		t.Fatalf("tokens %d and %d", a.Token, b.Token)
	}
}

func TestOnlyTheCoordinatorMarksAndReleases(t *testing.T) {
	w := newWorld(t)
	f, l := w.written("v")
	w.must(&MarkWritten{Layer: l.ID, Token: f.Token})
	w.wantError(&MarkWritten{Layer: l.ID, Token: f.Token - 1}, sheepdog.ErrFenced)
	w.wantError(&MarkWritten{Layer: l.ID + 1, Token: f.Token}, sheepdog.ErrFrozen)
	w.wantError(&Release{Family: f.ID, Node: 2, Incarnation: 1, Token: f.Token}, sheepdog.ErrConflict)
	w.wantError(&Release{Family: f.ID, Node: 1, Incarnation: 1, Token: f.Token + 1}, sheepdog.ErrFenced)
	w.wantError(&Release{Family: f.ID + 1, Node: 1, Incarnation: 1, Token: f.Token}, sheepdog.ErrFenced)

	w.must(&Release{Family: f.ID, Node: 1, Incarnation: 1, Token: f.Token})
	w.must(&Release{Family: f.ID, Node: 1, Incarnation: 1, Token: f.Token})
	w.wantError(&MarkWritten{Layer: l.ID, Token: f.Token}, sheepdog.ErrFenced)
}

// A gateway that is not the coordinator, or was, must not freeze a layer under
// writes in flight.
func TestSnapshotOfAWrittenLayerNeedsTheToken(t *testing.T) {
	w := newWorld(t)
	f, l := w.written("v")
	w.wantError(&Snapshot{Name: "v"}, sheepdog.ErrConflict)
	w.wantError(&Snapshot{Name: "v", IfToken: f.Token - 1}, sheepdog.ErrConflict)
	w.wantError(&Snapshot{Name: "v", IfToken: f.Token, IfFamily: f.ID + 1}, sheepdog.ErrConflict)
	w.must(&Snapshot{Name: "v", IfToken: f.Token, IfFamily: f.ID})
	w.wantError(&MarkWritten{Layer: l.ID, Token: f.Token}, sheepdog.ErrFrozen)
	w.must(&Snapshot{Name: "v"}) // nothing was written since
	w.check()
}

// A coordinator deposed by a rollback can neither mark nor release nor freeze.
func TestRollbackAndDeleteFence(t *testing.T) {
	w := newWorld(t)
	f, _ := w.written("v")
	w.must(&Snapshot{Name: "v", Tag: "s", IfToken: f.Token})
	w.wantError(&Rollback{Name: "v", Snapshot: "s"}, sheepdog.ErrBusy)
	back := decode[RolledBack](t, w.must(&Rollback{Name: "v", Snapshot: "s", IfToken: f.Token}))
	if back.Token <= f.Token {
		t.Fatalf("token %d after %d", back.Token, f.Token)
	}
	w.wantError(&Rollback{Name: "v", Snapshot: "s", IfToken: f.Token}, sheepdog.ErrConflict)
	w.wantError(&MarkWritten{Layer: back.Layer, Token: f.Token}, sheepdog.ErrFenced)
	w.wantError(&MarkWritten{Layer: back.Layer, Token: back.Token}, sheepdog.ErrFenced)
	w.wantError(&Acquire{Family: f.ID, Node: 1, Incarnation: 1, IfToken: f.Token}, sheepdog.ErrConflict)

	w.must(&Acquire{Family: f.ID, Node: 1, Incarnation: 1, IfToken: back.Token})
	w.must(&Delete{Name: "v"})
	now, ok := w.d.Family(f.ID)
	if !ok || now.Working != 0 || now.VID != 0 || now.Name != "" || !now.Coordinator.IsZero() || now.Token <= back.Token {
		t.Fatalf("family after the deletion: %+v", now)
	}
	w.wantError(&Acquire{Family: f.ID, Node: 1, Incarnation: 1, IfToken: now.Token}, ErrNoVDI)
}

func TestSnapshotByVID(t *testing.T) {
	w := newWorld(t)
	if err := w.newVDI("v"); err != nil {
		t.Fatal(err)
	}
	v, _ := w.d.Lookup("v")
	r := decode[Snapped](t, w.must(&Snapshot{VID: v.VID, Description: "first"}))
	w.wantError(&Snapshot{VID: v.VID}, sheepdog.ErrInvalid) // a snapshot now
	w.wantError(&Snapshot{VID: 77}, ErrNoVDI)
	w.wantError(&Snapshot{}, sheepdog.ErrInvalid)
	w.wantError(&Snapshot{Name: "v", VID: r.NewVID}, sheepdog.ErrInvalid)
	e, ok := w.d.ByVID(v.VID)
	if !ok || e.SnapID != 1 || e.Description != "first" || e.Taken.IsZero() || !e.Created.Equal(v.Created) {
		t.Fatalf("snapshot %+v", e)
	}
}

func TestParseAcquire(t *testing.T) {
	want := Acquire{Family: 7, Node: 2, Incarnation: 3, IfToken: 4}
	kind, body, err := Encode(&want)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok, err := ParseAcquire(kind, body); !ok || err != nil || got != want {
		t.Errorf("%+v, %v, %v", got, ok, err)
	}
	if _, ok, err := ParseAcquire(kindRelease, body); ok || err != nil {
		t.Errorf("a Release is taken for an Acquire: %v", err)
	}
	if _, ok, err := ParseAcquire(kind, []byte(`{"family":7}`)); !ok || !errors.Is(err, sheepdog.ErrInvalid) {
		t.Errorf("nobody as coordinator: %v", err)
	}
}

// A snapshot for which writes wait leaves a working layer that they may go to at
// once; one that freezes nothing marks nothing.
func TestSnapshotUnderWritesMarksTheNewLayer(t *testing.T) {
	w := newWorld(t)
	f, l := w.written("v")
	out := decode[Snapped](t, w.must(&Snapshot{Name: "v", Tag: "a", IfToken: f.Token, Writing: true}))
	now, ok := w.d.Layer(out.Working)
	if !ok || now.ID == l.ID || !now.Written || now.Frozen {
		t.Errorf("working layer %+v, want a new one that is written", now)
	}
	out = decode[Snapped](t, w.must(&Snapshot{Name: "v", Tag: "b", IfToken: f.Token}))
	if now, _ := w.d.Layer(out.Working); now.Written {
		t.Errorf("working layer %+v, want one that is not written", now)
	}
	again := decode[Snapped](t, w.must(&Snapshot{Name: "v", Tag: "c", IfToken: f.Token, Writing: true}))
	if now, _ := w.d.Layer(again.Working); again.Working != out.Working || now.Written {
		t.Errorf("working layer %+v, want the same as before, not written", now)
	}
	w.check()
}
