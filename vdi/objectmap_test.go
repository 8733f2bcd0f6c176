package vdi

import (
	"bytes"
	"context"
	"sync"
	"testing"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// heldLists is a world with a VDI v, of which the first and third MiB are written, the
// third after a snapshot s, and a manager that has not opened it and cannot list it
// before release is called.
func heldLists(t *testing.T) (w *world, m *Manager, release func()) {
	t.Helper()
	w, first, v := oneVDI(t, 8<<20)
	write(t, v, 0, fill(8192, 1))
	if _, err := first.Snapshot(t.Context(), directory.Snapshot{Name: "v", Tag: "s"}); err != nil {
		t.Fatal(err)
	}
	write(t, v, 2<<20, fill(8192, 3))
	if err := v.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	held := make(chan struct{})
	w.listing = func(ctx context.Context) {
		select {
		case <-held:
		case <-ctx.Done():
		}
	}
	m = w.manager(t, 2)
	return w, m, sync.OnceFunc(func() { close(held) })
}

// topOf is what the manager knows of v, which it coordinates.
func topOf(t *testing.T, w *world, m *Manager) *top {
	t.Helper()
	v, err := w.dir.Lookup("v")
	if err != nil {
		t.Fatal(err)
	}
	c := m.local(v.Family)
	if c == nil {
		t.Fatal("nobody coordinates the VDI here")
	}
	return c.top.Load()
}

// whole waits for the lists.
func whole(t *testing.T, top *top) {
	t.Helper()
	if err := top.own.await(t.Context()); err != nil {
		t.Fatal(err)
	}
	if top.below != nil {
		if err := top.below.await(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// Bug: the first request of a disk of a TiB waited for the list of its objects, 0.7 to
// 1.0 s, and a takeover with it.
func TestFirstRequestsWaitForNoList(t *testing.T) {
	w, m, release := heldLists(t)
	v := open(t, m, "v", "")
	write(t, v, 5<<20, fill(4096, 5))
	expect(t, v, 0, fill(8192, 1))
	expect(t, v, 2<<20, fill(8192, 3))
	expect(t, v, 1<<20, fill(4096, 0))
	p := fill(4096, 9)
	if !v.TryReadAt(p, 4<<20) || !bytes.Equal(p, fill(4096, 0)) {
		t.Error("a block that nothing was written to is not at hand")
	}
	if topOf(t, w, m).own.whole.Load() {
		t.Fatal("the list was there already")
	}
	release()
	at := topOf(t, w, m)
	whole(t, at)
	for i, want := range []bool{true, false, true, false, false, true, false, false} {
		if at.has(sheepdog.Index(i)) != want {
			t.Errorf("object %d: the map says %v", i, !want)
		}
	}
}

func TestCloneReadsItsBaseBeforeTheList(t *testing.T) {
	_, m, release := heldLists(t)
	defer release()
	if _, err := m.Clone(t.Context(), directory.Clone{Source: "v", Snapshot: "s", Name: "c"}); err != nil {
		t.Fatal(err)
	}
	c := open(t, m, "c", "")
	expect(t, c, 0, fill(8192, 1))
	expect(t, c, 2<<20, fill(8192, 0))
	write(t, c, 100, fill(100, 7)) // merges with the base's block
	expect(t, c, 0, append(append(fill(100, 1), fill(100, 7)...), fill(7992, 1)...))
}

// Zeros are written only where something is. Whether there is waits for the list.
func TestZerosWaitForTheList(t *testing.T) {
	w, m, release := heldLists(t)
	v := open(t, m, "v", "")
	w.mu.Lock()
	w.volatile = 0
	w.mu.Unlock()
	zeroed := make(chan error)
	go func() { zeroed <- v.ZeroAt(t.Context(), 1<<20, 1<<20) }()
	expect(t, v, 0, fill(8192, 1)) // others do not wait with it
	select {
	case err := <-zeroed:
		t.Fatalf("did not wait for the list: %v", err)
	default:
	}
	release()
	if err := <-zeroed; err != nil {
		t.Fatal(err)
	}
	if n := w.written(); n != 0 {
		t.Errorf("%d writes for zeros where nothing is", n)
	}
	if err := v.ZeroAt(t.Context(), 2<<20, 1<<20); err != nil {
		t.Fatal(err)
	}
	expect(t, v, 2<<20, fill(8192, 0))
}

// Snapshots do not wait for the list either. What was not known when they were taken
// is known later. (The simulation found, with seed 1, that after the second one it was
// not: a guest read zeros instead of what it had written.)
func TestSnapshotBeforeTheList(t *testing.T) {
	w, m, release := heldLists(t)
	v := open(t, m, "v", "")
	write(t, v, 4<<20, fill(4096, 4))
	if _, err := m.Snapshot(t.Context(), directory.Snapshot{Name: "v", Tag: "t"}); err != nil {
		t.Fatal(err)
	}
	write(t, v, 2<<20, fill(4096, 6))
	if _, err := m.Snapshot(t.Context(), directory.Snapshot{Name: "v", Tag: "u"}); err != nil {
		t.Fatal(err)
	}
	write(t, v, 5<<20, fill(4096, 5))
	at := topOf(t, w, m)
	if at.below == nil || at.below.whole.Load() {
		t.Fatal("the list was there already")
	}
	release()
	whole(t, at)
	for i, want := range []bool{true, false, true, false, true, true, false, false} {
		if at.has(sheepdog.Index(i)) != want {
			t.Errorf("object %d: the map says %v", i, !want)
		}
	}
	snap := open(t, m, "v", "t")
	expect(t, snap, 0, fill(8192, 1))
	expect(t, snap, 2<<20, fill(8192, 3))
	expect(t, snap, 4<<20, fill(4096, 4))
	expect(t, v, 2<<20, append(fill(4096, 6), fill(4096, 3)...))
}

// A layer below that moves into the working one before it was listed is in no list of
// either: the coordinator begins anew.
func TestLayerThatMovesUpBeforeTheList(t *testing.T) {
	w, m, release := heldLists(t)
	v := open(t, m, "v", "")
	expect(t, v, 0, fill(8192, 1))
	before := topOf(t, w, m)
	if err := m.DeleteSnapshot(t.Context(), directory.DeleteSnapshot{Name: "v", Snapshot: "s"}); err != nil {
		t.Fatal(err)
	}
	release()
	if err := before.own.await(t.Context()); err == nil {
		t.Error("the list of a layer that had moved up was there")
	}
	expect(t, v, 0, fill(8192, 1))
	expect(t, v, 2<<20, fill(8192, 3))
	at := topOf(t, w, m)
	if at == before {
		t.Fatal("the coordinator went on with what it had")
	}
	whole(t, at)
	if !at.has(0) || at.has(1) || !at.has(2) {
		t.Error("the new map is not what is there")
	}
	expect(t, v, 0, fill(8192, 1))
}

// A list that failed is asked for again.
func TestListThatFailedIsAskedForAgain(t *testing.T) {
	w, m, release := heldLists(t)
	release()
	tries := 0
	w.listed = func(sheepdog.LayerID) error {
		if tries++; tries < 3 {
			return sheepdog.ErrIO
		}
		return nil
	}
	v := open(t, m, "v", "")
	expect(t, v, 0, fill(8192, 1))
	at := topOf(t, w, m)
	for at.own.await(t.Context()) != nil {
		expect(t, v, 1<<20, fill(4096, 0))
	}
	if at.has(1) || !at.has(0) || !at.has(2) {
		t.Error("the map is not what is there")
	}
}
