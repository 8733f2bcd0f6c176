package vdi

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// Bug, found by the simulation (seed 37): replicas had dropped a layer that the
// directory of a new coordinator still listed, and a guest's write failed because
// of it.
func TestTakeoverReadsTheDirectoryAgain(t *testing.T) {
	w, m, v := oneVDI(t, 4<<20)
	write(t, v, 0, fill(4096, 1))
	if _, err := m.Snapshot(t.Context(), directory.Snapshot{Name: "v", Tag: "s"}); err != nil {
		t.Fatal(err)
	}
	write(t, v, 4096, fill(4096, 2))
	if err := v.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	lists := map[sheepdog.LayerID]int{}
	w.listed = func(layer sheepdog.LayerID) error {
		if lists[layer]++; lists[layer] < 3 {
			return fmt.Errorf("layer %d: %w", layer, sheepdog.ErrNotFound)
		}
		return nil
	}
	m = w.manager(t, 2)
	v = open(t, m, "v", "")
	write(t, v, 8192, fill(4096, 3))
	expect(t, v, 0, fill(4096, 1))
	expect(t, v, 4096, fill(4096, 2))
	whole(t, topOf(t, w, m))
	expect(t, v, 0, fill(4096, 1))
	if len(lists) != 2 {
		t.Errorf("lists %v, want those of both layers", lists)
	}
}

// Bug, found by the simulation (seed 36): a snapshot that was tried again because
// nobody knew whether the first try had been committed met its own result and
// answered that it existed.
func TestSnapshotThatIsTriedAgainIsTaken(t *testing.T) {
	w, m, v := oneVDI(t, 1<<20)
	write(t, v, 0, fill(4096, 1))
	tries := 0
	w.committed = func(kind string) error {
		if kind != "vdi-snapshot" {
			return nil
		}
		if tries++; tries == 1 {
			return sheepdog.ErrNoQuorum
		}
		return nil
	}
	got, err := m.Snapshot(t.Context(), directory.Snapshot{Name: "v", Tag: "s"})
	if err != nil {
		t.Fatal(err)
	}
	if tries != 2 {
		t.Errorf("tried %d times, want twice", tries)
	}
	snap, err := w.dir.LookupSnapshot("v", "s")
	if err != nil || snap.VID != got.VID || snap.SnapID != got.SnapID || snap.Layer != got.Layer {
		t.Errorf("answered %+v, there is %+v, %v", got, snap, err)
	}
	write(t, v, 0, fill(4096, 2))
	expect(t, open(t, m, "v", "s"), 0, fill(4096, 1))
	if _, err := m.Snapshot(t.Context(), directory.Snapshot{Name: "v", Tag: "s"}); !errors.Is(err, sheepdog.ErrExists) {
		t.Errorf("another snapshot of that name: %v", err)
	}
}

// Bug: the same of a group.
func TestGroupSnapshotThatIsTriedAgainIsTaken(t *testing.T) {
	w := newWorld()
	m := w.manager(t, 1)
	var members []directory.Snapshot
	for _, name := range []string{"v", "w"} {
		create(t, m, name, 1<<20)
		write(t, open(t, m, name, ""), 0, fill(4096, 1))
		members = append(members, directory.Snapshot{Name: name, Tag: "s"})
	}
	tries := 0
	w.committed = func(kind string) error {
		if kind != "vdi-snapshot-group" {
			return nil
		}
		if tries++; tries == 1 {
			return sheepdog.ErrNoQuorum
		}
		return nil
	}
	got, err := m.SnapshotGroup(t.Context(), members)
	if err != nil {
		t.Fatal(err)
	}
	if tries != 2 {
		t.Errorf("tried %d times, want twice", tries)
	}
	for i, member := range members {
		snap, err := w.dir.LookupSnapshot(member.Name, "s")
		if err != nil || snap.VID != got.Snapped[i].VID || snap.Layer != got.Snapped[i].Layer {
			t.Errorf("answered %+v, there is %+v, %v", got.Snapped[i], snap, err)
		}
	}
	if _, err := m.SnapshotGroup(t.Context(), members); !errors.Is(err, sheepdog.ErrExists) {
		t.Errorf("another snapshot of that name: %v", err)
	}
}

// The same of another number of copies: the try that nobody knew of has done it. What
// had them before is told so.
func TestAlterThatIsTriedAgainIsDone(t *testing.T) {
	w, m, v := oneVDI(t, 1<<20)
	write(t, v, 0, fill(4096, 1))
	tries := 0
	w.committed = func(kind string) error {
		if kind != "vdi-alter-policy" {
			return nil
		}
		if tries++; tries == 1 {
			return sheepdog.ErrNoQuorum
		}
		return nil
	}
	two := directory.AlterPolicy{Name: "v", Policy: sheepdog.Policy{Copies: 2}}
	got, err := m.Alter(t.Context(), two)
	if err != nil {
		t.Fatal(err)
	}
	now, err := w.dir.Lookup("v")
	if err != nil || tries != 1 || got.Family != now.Family || got.Layer != now.Layer || !got.Moving || now.Policy != two.Policy {
		t.Errorf("after %d commits answered %+v, there is %+v, %v", tries, got, now, err)
	}
	expect(t, v, 0, fill(4096, 1))
	if _, err := m.Alter(t.Context(), two); !errors.Is(err, sheepdog.ErrExists) {
		t.Errorf("what it has already: %v", err)
	}
}

// A move into the trash whose first try was committed without anybody knowing is done,
// not "not found"; and another VDI that has got the name meanwhile stays.
func TestDiscardThatIsTriedAgainIsDone(t *testing.T) {
	for _, again := range []bool{false, true} {
		w, m, v := oneVDI(t, 1<<20)
		if err := m.SetTrash(t.Context(), time.Hour); err != nil {
			t.Fatal(err)
		}
		write(t, v, 0, fill(4096, 1))
		tries := 0
		w.committed = func(kind string) error {
			if kind != "vdi-delete" {
				return nil
			}
			if tries++; tries > 1 {
				return nil
			}
			if again {
				w.apply(&directory.Create{Name: "v", Size: 1 << 20, Policy: sheepdog.Policy{Copies: 3}, BlockSizeShift: testShift})
			}
			return sheepdog.ErrNoQuorum
		}
		if err := m.Delete(t.Context(), directory.Delete{Name: "v"}); err != nil {
			t.Errorf("name taken again: %v: %v", again, err)
		}
		if trash := w.dir.Trash(); len(trash) != 1 || trash[0].Name != "v" {
			t.Errorf("name taken again: %v: in the trash is %v", again, trash)
		}
		if _, err := w.dir.Lookup("v"); (err == nil) != again {
			t.Errorf("name taken again: %v: %v", again, err)
		}
		if err := m.Delete(t.Context(), directory.Delete{Name: "w"}); !errors.Is(err, sheepdog.ErrNotFound) {
			t.Errorf("a VDI that there never was: %v", err)
		}
	}
}

// lateWrite is a forwarded write that a connection brings late.
func lateWrite(v *Volume, c *coordinator, o sheepdog.Origin) *sheepdog.ForwardRequest {
	return &sheepdog.ForwardRequest{Family: v.family.Load().id, Token: c.scope.Token, Op: sheepdog.ForwardWrite, Length: 4096,
		Data: fill(4096, 9), Origin: o, OriginDone: o.Request}
}

// Bug: a gateway's connection stood still, it repeated its write over another one, had
// its answer, and wrote something newer; what the first connection brought then was
// applied again, over that.
func TestWriteThatWasAnsweredIsNotAppliedLate(t *testing.T) {
	w := newWorld()
	a, b := w.manager(t, 1), w.manager(t, 2)
	create(t, a, "v", 1<<20)
	va, vb := open(t, a, "v", ""), open(t, b, "v", "")
	write(t, va, 0, fill(4096, 1))
	c := a.local(va.family.Load().id)
	write(t, vb, 0, fill(4096, 9))
	late := lateWrite(va, c, sheepdog.Origin{Gateway: 200, Request: b.numbers.Load()})
	write(t, vb, 0, fill(4096, 3))
	if a.local(va.family.Load().id) != c {
		t.Fatal("the coordinator is another one by now")
	}
	_ = a.Forward(t.Context(), late, nil)
	expect(t, va, 0, fill(4096, 3))
	expect(t, vb, 0, fill(4096, 3))
}

// Bug: a gateway was killed; its guest went on through the process that was started in
// its place. A write of the first that was still on its way was applied when it came,
// over newer ones.
func TestWriteOfAnEndedGatewayIsRefused(t *testing.T) {
	w := newWorld()
	a := w.manager(t, 1)
	w.manager(t, 2)
	create(t, a, "v", 1<<20)
	v := open(t, a, "v", "")
	write(t, v, 0, fill(4096, 1))
	late := lateWrite(v, a.local(v.family.Load().id), sheepdog.Origin{Gateway: 200, Request: 5})
	a.lives.See(w.view) // which lists the first process
	restarted := *w.view
	restarted.Revision++
	restarted.Members = []sheepdog.Member{w.view.Members[0], {ID: 2, Incarnation: 201}}
	w.mu.Lock()
	w.view = &restarted
	w.mu.Unlock()
	if err := a.Forward(t.Context(), late, nil); !errors.Is(err, sheepdog.ErrFenced) {
		t.Errorf("Forward = %v, want %v", err, sheepdog.ErrFenced)
	}
	expect(t, v, 0, fill(4096, 1))
}

// A write of a process that no view has listed waits for one: until then it is not
// known which process has ended for it.
func TestWriteOfAGatewayThatIsNotListedYetWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, v := oneVDI(t, 1<<20)
		write(t, v, 0, fill(4096, 1))
		req := lateWrite(v, a.local(v.family.Load().id), sheepdog.Origin{Gateway: 200, Request: 5})
		answer := make(chan error, 1)
		go func() { answer <- a.Forward(t.Context(), req, nil) }()
		synctest.Wait()
		expect(t, v, 0, fill(4096, 1))
		w.setMembers(1, 2)
		if err := <-answer; err != nil {
			t.Fatal(err)
		}
		expect(t, v, 0, fill(4096, 9))
	})
}
