package objectstore

import (
	"cmp"
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"sheepdog"
	"sheepdog/objectstore/storetest"
)

// TestAGreedyFamilyLeavesRoom has one family write all that it may while nothing is
// destaged: another that writes little does not wait.
func TestAGreedyFamilyLeavesRoom(t *testing.T) {
	u := openDisk(t, Options{LogBytes: 16 << 20, openMeta: newFakeMeta().open, DestageEvery: time.Hour})
	d := u.d
	const greedy, modest = sheepdog.FamilyID(1), sheepdog.FamilyID(2)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	d.destageMu.Lock() // the disks are as slow as can be
	data := storetest.Fill(1, 15)
	ended := make(chan error, 1)
	go func() {
		for seq := uint64(1); ctx.Err() == nil; seq++ {
			d.AwaitRoom(ctx, greedy)
			if err := writeOne(d, dataOp(0, 1, sheepdog.BlockNo(seq%60*15), data, seq)); err != nil {
				ended <- err
				return
			}
		}
		ended <- nil
	}()
	within(t, "the greedy family fills its part", func() bool { return d.level() >= tightLevel })
	if !d.Crowded(greedy) || d.Crowded(modest) {
		t.Errorf("crowded: greedy %v, modest %v; want the greedy one", d.Crowded(greedy), d.Crowded(modest))
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if d.AwaitRoom(short, greedy); short.Err() == nil {
		t.Error("the greedy family is let in while the store is full")
	}
	wrote := make(chan error, 1)
	go func() {
		for seq := uint64(1); seq <= 100; seq++ {
			op := dataOp(0, 2, sheepdog.BlockNo(seq), data[:blockSize], seq)
			op.Object.Family = modest
			d.AwaitRoom(ctx, modest)
			if err := writeOne(d, op); err != nil {
				wrote <- err
				return
			}
		}
		wrote <- nil
	}()
	select {
	case err := <-wrote:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the modest family waits for room that the greedy one took")
	}
	d.destageMu.Unlock()
	within(t, "the greedy family goes on", func() bool { return !d.Crowded(greedy) })
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	d.journal.seal()
	if err := d.destage(true); err != nil {
		t.Fatal(err)
	}
	if s := &d.journal.shares; s.total != 0 || len(s.used) != 0 {
		t.Errorf("%d blocks of %d families are charged in an empty log", s.total, len(s.used))
	}
}

// Whoever is held back because of maps that are not destaged has them destaged,
// though no part of the log is full.
func TestHeldBackWritersHaveAllDestaged(t *testing.T) {
	u := openDisk(t, Options{openMeta: newFakeMeta().open, DestageEvery: time.Hour})
	mustWrite(t, u.d, dataOp(0, 1, 0, storetest.Fill(1, 1), 1))
	u.d.maxDirtyBytes = u.d.dirtyBytes.Load()
	if !u.d.Crowded(1) {
		t.Fatal("a store with as many changed maps as it may have takes more")
	}
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	if u.d.AwaitRoom(ctx, 1); ctx.Err() != nil {
		t.Error("nothing was destaged for a writer that waits for it")
	}
}

func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

func TestHoldGrowsWithTheLevel(t *testing.T) {
	if got := holdFor(easyLevel); got != 0 {
		t.Errorf("writers are held for %v where there is room", got)
	}
	last := time.Duration(-1)
	for level := easyLevel; level < tightLevel; level += 0.01 {
		if got := holdFor(level); got <= last {
			t.Errorf("at %.2f writers are held for %v, no longer than before", level, got)
		} else {
			last = got
		}
	}
	if got := holdFor(2); got != longHold {
		t.Errorf("at most %v, want %v", got, longHold)
	}
}

func TestEvenShares(t *testing.T) {
	var s shares
	a, b := &segment{}, &segment{}
	if s.even(1) {
		t.Error("a family that has nothing has an even share")
	}
	s.charge(a, 1, 60)
	s.charge(a, 2, 20)
	s.charge(b, 3, 40)
	for f, want := range map[sheepdog.FamilyID]bool{1: true, 2: false, 3: true, 4: false} {
		if s.even(f) != want {
			t.Errorf("family %d of 60, 20 and 40 blocks: %v, want %v", f, !want, want)
		}
	}
	s.release(a)
	if s.even(1) || !s.even(3) || s.total != 40 {
		t.Errorf("after a segment has left: %v, %d", s.used, s.total)
	}
}

// Bug: the deletion of ten disks made the writers of all others wait, for up to
// 100 ms, until a destage had freed what they had had; so did a large discard. Only
// data that replace others are written to space that a destage has yet to free.
func TestDeletionHoldsNoWriterBack(t *testing.T) {
	u := openDisk(t, Options{openMeta: newFakeMeta().open, DestageEvery: time.Hour})
	d := u.d
	const objects = enough/1024 + 2
	data := storetest.Fill(1, 1024)
	fill := func(seq uint64) {
		for i := range sheepdog.Index(objects) {
			op := dataOp(0, 1, 0, data, seq)
			op.Object.Index = i
			mustWrite(t, d, op)
		}
	}
	fill(1)
	if err := d.destage(true); err != nil {
		t.Fatal(err)
	}
	notHeld := func() {
		t.Helper()
		if d.crowded(0) || d.level() >= easyLevel {
			t.Fatalf("writers are held back at level %.2f: %d blocks are to be replaced", d.level(), d.replaced.Load())
		}
	}
	func() {
		d.destageMu.Lock() // the disks are as slow as can be
		defer d.destageMu.Unlock()
		for i := range sheepdog.Index(objects / 2) {
			notHeld()
			obj := dataOp(0, 1, 0, nil, 0).Object
			obj.Index = i
			if err := d.DropObject(obj, 1); err != nil {
				t.Fatal(err)
			}
		}
		for i := range sheepdog.Index(objects) {
			op := sheepdog.Op{Object: dataOp(0, 1, 0, nil, 0).Object, Layer: 1, Count: 1024, Stamp: sheepdog.Stamp{Token: 1, Seq: 2}}
			op.Object.Index = i
			notHeld()
			mustWrite(t, d, op)
		}
		if n := d.freedBlocks.Load(); n <= enough {
			t.Fatalf("%d blocks wait to be freed, the test wants more than %d", n, enough)
		}
		notHeld()
	}()
	if err := d.destage(true); err != nil {
		t.Fatal(err)
	}
	func() {
		d.destageMu.Lock()
		defer d.destageMu.Unlock()
		fill(3) // in place of zeros: nothing is freed
		if d.crowded(0) {
			t.Errorf("%d blocks are to be replaced where there were none", d.replaced.Load())
		}
		for seq := uint64(4); d.replaced.Load() < enough/2; seq++ {
			mustWrite(t, d, dataOp(0, 1, 0, data, seq))
		}
		if !d.crowded(0.49) {
			t.Error("writers that replace data are not held back")
		}
	}()
	if err := d.destage(true); err != nil {
		t.Fatal(err)
	}
	if freed, replaced := d.freedBlocks.Load(), d.replaced.Load(); freed != 0 || replaced != 0 {
		t.Errorf("%d blocks wait after a destage of everything, %d replaced ones", freed, replaced)
	}
}

// Bug: the deletion of a disk with many objects filled the bound of maps that wait for
// a destage, and then all writers waited for that, up to a second each.
func TestLargeDeletionLeavesRoomForWriters(t *testing.T) {
	d := openDisk(t, Options{MapCacheBytes: 4 << 20, DestageEvery: time.Hour, NoSync: true}).d
	const objects = 4096 // as dirty maps they take twice the bound
	sparse(t, d, objects)
	d.destageMu.Lock() // the disks are as slow as can be
	dropped := make(chan error, 1)
	go func() { // a layer would wait for them; single objects do not
		var err error
		for i := range sheepdog.Index(objects) {
			err = cmp.Or(err, d.DropObject(sheepdog.ObjectID{Family: 1, Index: i}, 1))
		}
		dropped <- err
	}()
	for last := int64(-1); ; {
		time.Sleep(20 * time.Millisecond) // until the deletion does not go on; sooner the test would see less
		n := d.dirtyBytes.Load()
		if n == last && n > d.maxDirtyBytes/2 {
			break
		}
		last = n
	}
	wrote := make(chan error, 1)
	go func() {
		wrote <- writeOne(d, sheepdog.Op{Object: sheepdog.ObjectID{Family: 2}, Layer: 2, Count: 1, Stamp: sheepdog.Stamp{Token: 1, Seq: 1}})
	}()
	select {
	case err := <-wrote:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("a writer waits for a deletion")
	}
	d.destageMu.Unlock()
	if err := <-dropped; err != nil {
		t.Error(err)
	}
	if ids, err := d.LayerObjects(1, 0, 0); err != nil || len(ids) > 0 {
		t.Errorf("%d objects are left: %v", len(ids), err)
	}
}

// Bug: the deletion of a sparse disk of 512 GiB took both processors for six seconds,
// in which another disk got 15 of the 500 writes a second that it asked for.
func TestLargeDeletionTakesItsTime(t *testing.T) {
	d, meta := countedDisk(t, Options{MapCacheBytes: 4 << 20, DestageEvery: time.Hour})
	const objects = 4096
	sparse(t, d, objects)
	meta.largest.Store(0)
	began := time.Now()
	if err := d.DropLayer(1); err != nil {
		t.Fatal(err)
	}
	if took, least := time.Since(began), (objects-structuralBatch)*time.Second/structuralRate; took < least {
		t.Errorf("%d objects were dropped in %v, as fast as can be: want %v", objects, took, least)
	}
	if n := meta.largest.Load(); n > 6*structuralBatch {
		t.Errorf("%d changes were committed at once, want few times %d", n, structuralBatch)
	}
	if n := d.dirtyBytes.Load(); n > 2*structuralBatch*chunkBytes {
		t.Errorf("%d KiB of maps are left to one destage", n>>10)
	}
	if err := d.destage(true); err != nil {
		t.Fatal(err)
	}
	if n := d.headers.live.Load(); n > 0 || d.dirtyBytes.Load() != 0 {
		t.Errorf("%d bytes of headers are left, and %d bytes of changed maps", n, d.dirtyBytes.Load())
	}
}

// A store that is wiped because the cluster was formatted anew does not rest: all wait
// for it.
func TestWipeHurries(t *testing.T) {
	d := openDisk(t, Options{openMeta: newFakeMeta().open, DestageEvery: time.Hour, NoSync: true}).d
	const objects = 16 << 10
	for i := range sheepdog.Index(objects) {
		mustWrite(t, d, sheepdog.Op{Object: sheepdog.ObjectID{Family: 1, Index: i}, Layer: 1, Count: 1, Stamp: sheepdog.Stamp{Token: 1, Seq: 1}})
	}
	began := time.Now()
	if err := d.Wipe(); err != nil {
		t.Fatal(err)
	}
	if took, paced := time.Since(began), objects*time.Second/structuralRate; took > paced {
		t.Errorf("%d objects were wiped in %v, as slowly as a deletion: %v", objects, took, paced)
	}
	if ids, err := d.LayerObjects(1, 0, 0); err != nil || len(ids) > 0 {
		t.Errorf("%d objects are left: %v", len(ids), err)
	}
}

// A deletion that rests does not hold up who closes the store, or is about to, and goes
// on in its next life.
func TestCloseEndsADeletion(t *testing.T) {
	u := openDisk(t, Options{DestageEvery: time.Hour})
	const objects = 16 << 10
	sparse(t, u.d, objects)
	left := objects
	for _, end := range []string{"about to be closed", "closed"} {
		d := u.d
		dropped := make(chan error, 1)
		go func() { dropped <- d.DropLayer(1) }()
		for freed := d.freedBlocks.Load(); d.freedBlocks.Load() == freed && len(dropped) == 0; {
			runtime.Gosched()
		}
		if end != "closed" {
			d.Ending()
			if err := <-dropped; !errors.Is(err, sheepdog.ErrClosed) {
				t.Errorf("%s: the deletion ended with %v", end, err)
			}
			u.Reopen(t)
		} else {
			u.Reopen(t)
			if err := <-dropped; !errors.Is(err, sheepdog.ErrClosed) {
				t.Errorf("%s: the deletion ended with %v", end, err)
			}
		}
		ids, err := u.d.LayerObjects(1, 0, 0)
		if err != nil || len(ids) == 0 || len(ids) >= left {
			t.Errorf("%s: of %d objects %d are left: %v", end, left, len(ids), err)
		}
		left = len(ids)
	}
	if err := u.d.DropLayer(1); err != nil {
		t.Fatal(err)
	}
	if ids, err := u.d.LayerObjects(1, 0, 0); err != nil || len(ids) > 0 {
		t.Errorf("%d objects are left: %v", len(ids), err)
	}
}
