package objectstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sheepdog"
	"sheepdog/objectstore/storetest"
)

// raggedStore is a store with objects that were written in sequence, and then again at
// random, block by block. Nothing is moved unless the test asks for it.
type raggedStore struct {
	*diskUnderTest
	t       testing.TB
	objects int
	blocks  int // of each
	want    [][]byte
	seq     uint64
}

func newRaggedStore(t testing.TB, objects, blocks int, opts Options) *raggedStore {
	t.Helper()
	s := &raggedStore{diskUnderTest: openDisk(t, opts), t: t, objects: objects, blocks: blocks, want: make([][]byte, objects)}
	for i := range objects {
		s.want[i] = make([]byte, blocks*blockSize)
		for at := 0; at < blocks; at += 256 {
			s.write(1, i, at, min(256, blocks-at))
		}
	}
	s.scatter(1)
	return s
}

func (s *raggedStore) write(layer sheepdog.LayerID, index, start, n int) {
	s.t.Helper()
	s.seq++
	b := storetest.Fill(s.seq, n)
	mustWrite(s.t, s.d, dataOp(sheepdog.Index(index), layer, sheepdog.BlockNo(start), b, s.seq))
	copy(s.want[index][start*blockSize:], b)
}

// scatter writes all blocks of a layer again in random order, and destages them.
func (s *raggedStore) scatter(layer sheepdog.LayerID) {
	s.t.Helper()
	r := rand.New(rand.NewPCG(s.seq, 1))
	for n, k := range r.Perm(s.objects * s.blocks) {
		if s.write(layer, k/s.blocks, k%s.blocks, 1); n%40 == 39 {
			s.destage()
		}
	}
	s.destage()
}

func (s *raggedStore) destage() {
	s.t.Helper()
	if err := s.d.destage(true); err != nil {
		s.t.Fatal(err)
	}
}

func (s *raggedStore) obj(index int) sheepdog.ObjectID {
	return sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(index)}
}

// windows are all that the store has.
func (s *raggedStore) windows() (out []window) {
	for i := range s.objects {
		for at := 0; at < s.blocks; at += windowBlocks {
			out = append(out, window{obj: s.obj(i), start: sheepdog.BlockNo(at)})
		}
	}
	return out
}

// move moves all windows, and tells how many bytes that were.
func (s *raggedStore) move() uint64 {
	s.t.Helper()
	m := defragmentation{d: s.d}
	n, err := m.move(s.windows())
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// rows counts the rows of a layer, all objects together.
func (s *raggedStore) rows(layer sheepdog.LayerID) (rows int) {
	s.t.Helper()
	for i := range s.objects {
		slots, err := s.d.resolve(s.obj(i), []sheepdog.LayerID{layer}, 0, uint32(s.blocks), nil)
		if err != nil {
			s.t.Fatal(err)
		}
		n, _, _ := rowsOf(slots)
		rows += n
	}
	return rows
}

// verify reads everything through a chain, and compares the space in use with what is
// there.
func (s *raggedStore) verify(used int, chain ...sheepdog.LayerID) {
	s.t.Helper()
	buf, states := make([]byte, s.blocks*blockSize), make([]sheepdog.BlockState, s.blocks)
	for i := range s.objects {
		if err := s.d.Read(s.obj(i), chain, 0, uint32(s.blocks), buf, states); err != nil {
			s.t.Fatal(err)
		}
		if !bytes.Equal(buf, s.want[i]) {
			s.t.Fatalf("object %d has other bytes than were written", i)
		}
	}
	if got := s.d.volumes.usedBlocks(); got != uint64(used) {
		s.t.Errorf("%d blocks are in use, want %d", got, used)
	}
	if n := s.d.freedBlocks.Load(); n != 0 {
		s.t.Errorf("%d blocks wait to be freed", n)
	}
}

// What was written at random lies in long rows after it was moved, with the same bytes, in
// the same space, and still so after the store was closed, or its process has died.
func TestDefragment(t *testing.T) {
	for _, end := range []string{"close", "kill"} {
		t.Run(end, func(t *testing.T) {
			s := newRaggedStore(t, 3, 700, Options{openMeta: newFakeMeta().open, DestageEvery: time.Hour})
			if n := s.rows(1); n < 3*700/2 {
				t.Fatalf("%d rows before", n)
			}
			if got := s.move(); got != 3*700*blockSize {
				t.Errorf("%d bytes were moved", got)
			}
			if n := s.rows(1); n > 3*3+3 {
				t.Errorf("%d rows after", n)
			}
			if got := s.d.Status().DefragmentedBytes; got != 3*700*blockSize {
				t.Errorf("the status tells of %d bytes", got)
			}
			s.verify(3*700, 1)
			if got := s.move(); got != 0 {
				t.Errorf("%d bytes were moved again, though they lie in rows", got)
			}
			if end == "kill" {
				s.d.abandonProcess()
				s.open(t)
			} else {
				s.Reopen(t)
			}
			if n := s.rows(1); n > 3*3+3 {
				t.Errorf("%d rows after it was opened again", n)
			}
			s.verify(3*700, 1)
		})
	}
}

// Each layer is put in the order of its blocks, so that snapshots lie as well as the disk
// does, and to read them in turns moves nothing to and fro.
func TestDefragmentLayers(t *testing.T) {
	s := newRaggedStore(t, 1, 256, Options{openMeta: newFakeMeta().open, DestageEvery: time.Hour})
	for i := 0; i < 256; i += 2 {
		s.write(2, 0, (i*7)%256, 1)
	}
	s.destage()
	s.move()
	if a, b := s.rows(1), s.rows(2); a > 2 || b > 128 {
		t.Errorf("%d rows below and %d above", a, b)
	}
	if got := s.move(); got != 0 {
		t.Errorf("%d bytes were moved again", got)
	}
	s.verify(256+128, 2, 1)
	if err := s.d.Merge(1, 2); err != nil {
		t.Fatal(err)
	}
	s.destage()
	s.verify(256, 2)
}

// What is written, dropped or merged between the copy and the change of the map is as it
// would be without, and the copies of it are free again.
func TestDefragmentBesideChanges(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(s *raggedStore) (layer sheepdog.LayerID, used int)
	}{
		{"write", func(s *raggedStore) (sheepdog.LayerID, int) {
			s.write(1, 0, 10, 40)
			s.write(1, 0, 200, 1)
			return 1, 256
		}},
		{"write and destage", func(s *raggedStore) (sheepdog.LayerID, int) {
			s.write(1, 0, 10, 40)
			s.write(1, 0, 200, 1)
			s.destage()
			return 1, 256
		}},
		{"zero", func(s *raggedStore) (sheepdog.LayerID, int) {
			s.seq++
			mustWrite(s.t, s.d, zeroOp(0, 1, 20, 30, s.seq))
			clear(s.want[0][20*blockSize:][:30*blockSize])
			return 1, 226
		}},
		{"drop", func(s *raggedStore) (sheepdog.LayerID, int) {
			if err := s.d.DropLayer(1); err != nil {
				s.t.Fatal(err)
			}
			clear(s.want[0])
			return 1, 0
		}},
		{"merge", func(s *raggedStore) (sheepdog.LayerID, int) {
			if err := s.d.Merge(1, 2); err != nil {
				s.t.Fatal(err)
			}
			return 2, 256
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newRaggedStore(t, 1, 256, Options{openMeta: newFakeMeta().open, DestageEvery: time.Hour})
			m := defragmentation{d: s.d}
			copies, err := m.copyWindow(s.windows()[0])
			if err != nil || len(copies) != 1 {
				t.Fatal(copies, err)
			}
			layer, used := c.change(s)
			if err := s.d.settleCopies(copies); err != nil {
				t.Fatal(err)
			}
			s.destage()
			s.verify(used, layer)
			s.Reopen(t)
			s.verify(used, layer)
		})
	}
}

// A reader that has found out where its blocks are may read them there, whatever is moved
// and written meanwhile.
func TestDefragmentKeepsWhatIsRead(t *testing.T) {
	s := newRaggedStore(t, 1, 256, Options{openMeta: newFakeMeta().open, DestageEvery: time.Hour})
	side := s.d.guard.enter()
	slots, err := s.d.resolve(s.obj(0), []sheepdog.LayerID{1}, 0, 256, nil)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.move()
	}()
	within(t, "the map leads to the copies", func() bool { return s.rows(1) < 3 })
	old := bytes.Clone(s.want[0])
	s.write(1, 0, 0, 256) // takes what is free
	buf := make([]byte, 256*blockSize)
	if bad, err := s.d.readSlots(slots, buf); len(bad) > 0 || err != nil || !bytes.Equal(buf, old) {
		t.Errorf("blocks %v are bad, %v", bad, err)
	}
	side.RUnlock()
	<-done
	s.destage()
	s.verify(256, 1)
}

// A block that fails its checksum is told of and not copied, nor is what is beside it.
func TestDefragmentLeavesBadBlocks(t *testing.T) {
	files := newSimFiles()
	s := newRaggedStore(t, 2, 256, Options{openMeta: newFakeMeta().open, DestageEvery: time.Hour, files: files})
	if !files.flip("extents.", s.want[0][77*blockSize:][:blockSize]) {
		t.Fatal("the block is nowhere")
	}
	m := defragmentation{d: s.d}
	n, err := m.move(s.windows())
	var bad *sheepdog.BadBlocksError
	if !errors.As(err, &bad) || fmt.Sprint(bad.Blocks) != "[77]" || bad.Object != s.obj(0) {
		t.Errorf("the error is %v", err)
	}
	if n != 256*blockSize {
		t.Errorf("%d bytes were moved, want the other object", n)
	}
	if got := s.d.Status().RottenBlocks; got != 1 {
		t.Errorf("%d bad blocks are counted", got)
	}
	if _, err := readBlocks(t, s.d, 0, 1, 77, 1); !errors.As(err, &bad) {
		t.Errorf("a read of the block: %v", err)
	}
	copy(s.want[0][77*blockSize:], storetest.Fill(1<<40, 1))
	op := dataOp(0, 1, 77, storetest.Fill(1<<40, 1), s.seq)
	op.Force = true // as healing does
	mustWrite(t, s.d, op)
	s.destage()
	if got := s.move(); got != 256*blockSize {
		t.Errorf("%d bytes were moved once it was healed", got)
	}
	s.verify(2*256, 1)
}

// Where there is little room nothing is moved, and nothing is lost of it.
func TestDefragmentNeedsRoom(t *testing.T) {
	files := newSimFiles()
	s := newRaggedStore(t, 1, 256, Options{openMeta: newFakeMeta().open, DestageEvery: time.Hour, files: files})
	files.fake = files.limit - plenty
	if got := s.move(); got != 0 {
		t.Errorf("%d bytes were moved on a disk without room", got)
	}
	s.verify(256, 1)
	files.fake = 0
	if got := s.move(); got != 256*blockSize {
		t.Errorf("%d bytes were moved once there was room", got)
	}
	s.verify(256, 1)
}

// Copies that their disk did not keep are not used, and the store goes on with what it has.
func TestDefragmentOnDiskThatFails(t *testing.T) {
	files := newSimFiles()
	s := newRaggedStore(t, 1, 256, Options{openMeta: newFakeMeta().open, DestageEvery: time.Hour, files: files})
	files.mu.Lock()
	files.fault = func(op, _ string) error {
		if op == "sync" {
			return errors.New("no")
		}
		return nil
	}
	files.mu.Unlock()
	m := defragmentation{d: s.d}
	if _, err := m.move(s.windows()); err == nil {
		t.Error("a sync that failed is no error")
	}
	if n := s.rows(1); n < 128 {
		t.Errorf("the map leads to %d rows, which the disk may not have", n)
	}
	s.verify(256, 1)
	s.d.abandonProcess()
}

// Disks are emptied and taken back while all is moved again and again: everything stays, and
// nothing is left in use of a disk that is gone.
func TestDefragmentWhileDisksChange(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	s := newRaggedStore(t, 4, 256, Options{Meta: dir, Disks: []string{a, b}, openMeta: newFakeMeta().open, DestageEvery: time.Hour, files: newSimFiles(), ExtentFileBytes: 8 << 20})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	all, done := s.windows(), make(chan error, 1)
	go func() {
		m := defragmentation{d: s.d}
		for ctx.Err() == nil {
			if _, err := m.move(all); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for i := range 3 {
		out := []string{a, b}[i%2]
		if err := s.d.Unplug(out); err != nil {
			t.Fatal(err)
		}
		s.scatter(1)
		if err := s.d.Plug(out); err != nil {
			t.Fatal(err)
		}
		s.scatter(1)
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if s.d.defragmented.Load() == 0 {
		t.Error("nothing was moved")
	}
	s.destage()
	s.verify(4*256, 1)
	s.Reopen(t)
	s.verify(4*256, 1)
}

// What is not written lately, and is in short rows, is noted by the second read; nothing
// else is.
func TestRaggedIsNoted(t *testing.T) {
	s := newRaggedStore(t, 2, 512, Options{openMeta: newFakeMeta().open, DestageEvery: time.Hour})
	s.d.ragged.wake = make(chan struct{}, 1)
	read := func(index, start, n int) []window {
		if _, err := readBlocks(t, s.d, sheepdog.Index(index), 1, sheepdog.BlockNo(start), n); err != nil {
			t.Fatal(err)
		}
		return s.d.ragged.take(10)
	}
	check := func(what string, got []window, want ...sheepdog.BlockNo) {
		t.Helper()
		if len(got) != len(want) {
			t.Fatalf("%s: %v wait, want %v", what, got, want)
		}
		for i := range got {
			if got[i].start != want[i] {
				t.Fatalf("%s: %v wait, want %v", what, got, want)
			}
		}
	}
	check("a first read", read(0, 0, 256))
	check("another one", read(0, 256, 256))
	check("a read again", read(0, 0, 256), 0)
	check("once more", read(0, 0, 256))
	check("a first read of two windows", read(1, 128, 256))
	check("a second one", read(1, 128, 256), 0, 256)
	check("a short read", read(1, 0, 16))
	check("a second short read", read(1, 0, 16))
	s.write(1, 0, 300, 1)
	check("a read of what is in the log", read(0, 256, 256))
	check("a second one of that", read(0, 256, 256))
	s.destage()
	check("a first read after the destage", read(0, 256, 256))
	s.d.ragged.forget()
	check("a second one, a turn later", read(0, 256, 256), 256)
	for range 2 {
		s.d.ragged.forget()
	}
	check("a read when all is forgotten", read(0, 0, 256))

	s.move()
	for range 3 {
		check("a read of long rows", read(0, 0, 256))
	}
	if s.d.ragged.wake = nil; s.d.ragged.count() != 0 {
		t.Error("something waits")
	}
}

// An object with changes in the log waits for them, and is asked for again after that.
func TestRaggedWaitsForDestage(t *testing.T) {
	s := newRaggedStore(t, 1, 512, Options{openMeta: newFakeMeta().open, DestageEvery: time.Hour})
	s.d.ragged.wake = make(chan struct{}, 1)
	read := func() []window {
		if _, err := readBlocks(t, s.d, 0, 1, 0, 256); err != nil {
			t.Fatal(err)
		}
		return s.d.ragged.take(10)
	}
	read()
	all := read()
	s.write(1, 0, 400, 1) // beside the window
	m := defragmentation{d: s.d}
	if n, err := m.move(all); n != 0 || err != nil {
		t.Fatalf("%d bytes were moved: %v", n, err)
	}
	s.destage()
	if all = read(); len(all) != 1 {
		t.Fatalf("%v wait after the destage", all)
	}
	if n, err := m.move(all); n != 256*blockSize || err != nil {
		t.Errorf("%d bytes were moved: %v", n, err)
	}
	s.verify(512, 1)
}

// The waiting list is bounded; what found no room in it may come again.
func TestRaggedIsBounded(t *testing.T) {
	r := ragged{wake: make(chan struct{}, 1)}
	for i := range sheepdog.Index(raggedWaiting) {
		r.push(sheepdog.ObjectID{Family: 1, Index: i}, 0, windowBlocks, uint64(i))
	}
	slots := make([]slot, 64)
	for i := range slots {
		slots[i] = slot{state: sheepdog.Data, at: extentPlace(0, uint64(2*i+1))}
	}
	for range 3 {
		if r.note(sheepdog.ObjectID{Family: 2}, 0, slots); r.count() != raggedWaiting {
			t.Fatalf("%d wait, at most %d", r.count(), raggedWaiting)
		}
	}
	r.take(1)
	if r.note(sheepdog.ObjectID{Family: 2}, 0, slots); r.count() != raggedWaiting {
		t.Error("what found no room does not come again")
	}
}

// The defragmenter moves what is read twice, and rests as its rate asks: longer while
// clients are busy.
func TestDefragmenter(t *testing.T) {
	var busy atomic.Bool
	s := newRaggedStore(t, 2, 1024, Options{openMeta: newFakeMeta().open, DestageEvery: time.Hour, DefragmentRate: 1 << 30, Busy: busy.Load})
	for range 2 {
		for _, w := range s.windows() {
			if _, err := readBlocks(t, s.d, w.obj.Index, 1, w.start, windowBlocks); err != nil {
				t.Fatal(err)
			}
		}
	}
	within(t, "what is read twice lies in rows", func() bool { return s.d.Status().DefragmentedBytes == 8<<20 })
	within(t, "nothing waits", func() bool { return s.d.Status().WaitingBytes == 0 })
	if n := s.rows(1); n > 8+4 {
		t.Errorf("%d rows are left", n)
	}
	if got := s.d.defragmentPause(256 << 20); got != time.Second/4 {
		t.Errorf("a pause of %v after a quarter of what may be moved in a second", got)
	}
	busy.Store(true)
	if got := s.d.defragmentPause(256 << 20); got != defragmentBusy*time.Second/4 {
		t.Errorf("a pause of %v beside busy clients", got)
	}
	s.Reopen(t) // ends what waits
	s.verify(2*1024, 1)
}

// Writers, readers, snapshots that are merged, and destages go on while all is moved again
// and again: no read sees a block older than it was when the read began.
func TestDefragmentUnderLoad(t *testing.T) {
	const objects, blocks = 3, 300
	s := newRaggedStore(t, objects, blocks, Options{LogBytes: 1 << 20, MapCacheBytes: 1 << 20, ExtentFileBytes: 8 << 20, openMeta: newFakeMeta().open, DestageEvery: 20 * time.Millisecond})
	ctx, stop := context.WithTimeout(t.Context(), time.Second)
	defer stop()
	var latest [objects][blocks]atomic.Uint64 // of seq; each block is written by one writer
	fill := func(seq uint64) []byte {
		return bytes.Repeat([]byte{byte(seq), byte(seq >> 8), byte(seq >> 16), 1}, blockSize/4)
	}
	var seq atomic.Uint64
	seq.Store(s.seq)
	write := func(i, no int) {
		n := seq.Add(1)
		if err := writeOne(s.d, dataOp(sheepdog.Index(i), 2, sheepdog.BlockNo(no), fill(n), n)); err != nil {
			t.Error(err)
		}
		latest[i][no].Store(n)
	}
	for i := range objects {
		for no := range blocks {
			write(i, no)
		}
	}
	var wg sync.WaitGroup
	loop := func(step func(r *rand.Rand)) {
		r := rand.New(rand.NewPCG(seq.Add(1), 1))
		wg.Go(func() {
			for ctx.Err() == nil && !t.Failed() {
				step(r)
			}
		})
	}
	for half := range 2 {
		loop(func(r *rand.Rand) {
			write(r.IntN(objects), half*blocks/2+r.IntN(blocks/2))
			if r.IntN(50) == 0 {
				time.Sleep(5 * time.Millisecond) // so that something is clean at times
			}
		})
	}
	loop(func(r *rand.Rand) {
		i, from := r.IntN(objects), make([]uint64, blocks)
		for no := range from {
			from[no] = latest[i][no].Load()
		}
		buf, states := make([]byte, blocks*blockSize), make([]sheepdog.BlockState, blocks)
		if err := s.d.Read(s.obj(i), []sheepdog.LayerID{2, 1}, 0, blocks, buf, states); err != nil {
			t.Error(err)
			return
		}
		for no := range from {
			b := buf[no*blockSize:]
			if got := uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16; got < from[no] || !bytes.Equal(b[:blockSize], fill(got)) {
				t.Errorf("object %d block %d holds write %d, after %d was acknowledged", i, no, got, from[no])
			}
		}
	})
	loop(func(r *rand.Rand) {
		if err := s.d.destage(true); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Duration(r.IntN(5)) * time.Millisecond)
	})
	m := defragmentation{d: s.d}
	loop(func(*rand.Rand) {
		if _, err := m.move(s.windows()); err != nil {
			t.Error(err)
		}
	})
	wg.Wait()
	if s.d.defragmented.Load() == 0 {
		t.Error("nothing was moved")
	}
	if err := s.d.Merge(1, 2); err != nil {
		t.Fatal(err)
	}
	s.destage()
	for i := range objects {
		for no := range blocks {
			copy(s.want[i][no*blockSize:], fill(latest[i][no].Load()))
		}
	}
	s.move()
	s.verify(objects*blocks, 2)
	s.Reopen(t)
	s.verify(objects*blocks, 2)
}
