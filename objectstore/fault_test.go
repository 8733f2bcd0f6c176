package objectstore

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"sheepdog"
	"sheepdog/objectstore/storetest"
)

func dataOp(index sheepdog.Index, layer sheepdog.LayerID, start sheepdog.BlockNo, b []byte, seq uint64) sheepdog.Op {
	return sheepdog.Op{Object: sheepdog.ObjectID{Family: 1, Index: index}, Layer: layer, Start: start,
		Count: uint32(len(b) / blockSize), Data: b, Stamp: sheepdog.Stamp{Token: 1, Seq: seq}}
}

func zeroOp(index sheepdog.Index, layer sheepdog.LayerID, start sheepdog.BlockNo, blocks int, seq uint64) sheepdog.Op {
	return sheepdog.Op{Object: sheepdog.ObjectID{Family: 1, Index: index}, Layer: layer, Start: start,
		Count: uint32(blocks), Stamp: sheepdog.Stamp{Token: 1, Seq: seq}}
}

func writeOne(e sheepdog.Engine, op sheepdog.Op) error {
	errs := make([]error, 1)
	e.Write([]sheepdog.Op{op}, errs)
	return errs[0]
}

func mustWrite(t testing.TB, e sheepdog.Engine, op sheepdog.Op) {
	t.Helper()
	if err := writeOne(e, op); err != nil {
		t.Fatal(err)
	}
}

func readBlocks(t testing.TB, e sheepdog.Engine, index sheepdog.Index, layer sheepdog.LayerID, start sheepdog.BlockNo, n int) ([]byte, error) {
	t.Helper()
	buf := make([]byte, n*blockSize)
	obj, chain, states := sheepdog.ObjectID{Family: 1, Index: index}, []sheepdog.LayerID{layer}, make([]sheepdog.BlockState, n)
	err := e.Read(obj, chain, start, uint32(n), buf, states)
	checkPrompt(t, e, obj, chain, start, buf, states, err)
	return buf, err
}

// TestFailEveryOperation runs a short script once for every file operation and
// commit of it, and fails that one. Whatever was acknowledged must be readable
// then or be an error, and must be there after the store is opened again.
func TestFailEveryOperation(t *testing.T) {
	for _, fault := range []error{unix.EIO, unix.ENOSPC} {
		for n := 1; ; n++ {
			g := newCrashRig(t, 7)
			hit := false
			count := 0
			fail := func() error {
				if count++; count == n {
					hit = true
					return fault
				}
				return nil
			}
			base := g.beforeAll(fail)
			g.script()
			g.abandon()
			g.open()
			g.verify(fmt.Sprintf("operation %d of %d failed with %v", n, g.files.ops-base, fault))
			g.abandon()
			if !hit {
				break
			}
		}
	}
}

// script does one of everything; steps that fail leave their outcome open.
func (g *crashRig) script() {
	write := func(op sheepdog.Op) {
		ops := []sheepdog.Op{op}
		before := g.records(ops)
		err := writeOne(g.d, op)
		g.note(&op, before, err)
		if err == nil {
			b := rigBlock{op.Layer, op.Object, op.Start}
			g.may[b] = g.may[b][len(g.may[b])-1:]
		}
	}
	write(dataOp(0, 1, 0, storetest.Fill(1, 2), 1))
	write(dataOp(0, 1, 10, storetest.Fill(2, 40), 2))
	_ = g.flush()
	write(dataOp(0, 2, 20, storetest.Fill(3, 3), 3))
	_ = g.d.destage(true)
	write(dataOp(0, 1, 10, storetest.Fill(4, 20), 4))
	_ = g.mergeLayers(1, 2)
	_ = g.d.destage(true)
	write(dataOp(1, 3, 5, storetest.Fill(5, 30), 5))
	write(zeroOp(1, 3, 7, 20, 6)) // of an extent
	write(zeroOp(0, 1, 0, 60, 7)) // of what was destaged, and more
	_ = g.flush()
	_ = g.d.destage(true)
	write(dataOp(1, 3, 10, storetest.Fill(8, 3), 8))
	write(zeroOp(1, 3, 0, rigBlocks, 9))
	_ = g.changeAll(func() error { return g.d.DropLayer(2) }, func(b rigBlock) *rigBlock {
		if b.layer == 2 {
			return nil
		}
		return &b
	})
	_ = g.d.destage(true)
}

func TestFullFileSystem(t *testing.T) {
	files := newSimFiles()
	files.limit = 16 << 20
	u := openDisk(t, Options{files: files, openMeta: newFakeMeta().open, LogBytes: 1 << 20, ReserveBytes: 2 << 20, ExtentFileBytes: 4 << 20, headerSlack: 1})
	written := 0
	var err error
	for i := 0; err == nil && i < 100; i++ {
		if err = writeOne(u.d, dataOp(sheepdog.Index(i), sheepdog.LayerID(1+i%2), 0, storetest.Fill(uint64(i), 64), 1)); err == nil {
			written++
		}
	}
	if !errors.Is(err, sheepdog.ErrNoSpace) || written < 30 {
		t.Fatalf("after %d objects: %v", written, err)
	}
	for i := 0; i < 400; i++ { // small ones end too
		if err = writeOne(u.d, dataOp(500, 1, sheepdog.BlockNo(i), storetest.Fill(9, 1), uint64(i+1))); err != nil {
			break
		}
	}
	if err != nil && !errors.Is(err, sheepdog.ErrNoSpace) {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		for i := range written {
			if i%2 == 1 {
				continue
			}
			got, err := readBlocks(t, u.d, sheepdog.Index(i), 1, 0, 64)
			if err != nil || !bytes.Equal(got, storetest.Fill(uint64(i), 64)) {
				t.Fatalf("object %d: %v", i, err)
			}
		}
	}
	check()
	u.Reopen(t) // a full store starts
	check()
	if err := u.d.DropLayer(2); err != nil { // and can delete
		t.Fatal(err)
	}
	for range 2 {
		if err := u.d.destage(true); err != nil {
			t.Fatal(err)
		}
	}
	mustWrite(t, u.d, dataOp(900, 1, 0, storetest.Fill(1, 64), 1))
	check()
}

// A file system got full when an extent file was to be made, and was full at the
// next start: the header that the file lacked could not be written, and the store
// did not open.
func TestStoreOpensBesideAnExtentFileWithoutAHeader(t *testing.T) {
	files := newSimFiles()
	files.limit = 32 << 20
	u := openDisk(t, Options{files: files, openMeta: newFakeMeta().open, LogBytes: 1 << 20, ReserveBytes: 1 << 20, ExtentFileBytes: 4 << 20, headerSlack: 1})
	mustWrite(t, u.d, dataOp(1, 1, 0, storetest.Fill(1, 10), 1))
	files.mu.Lock()
	files.fake = files.limit - files.allocated()
	files.mu.Unlock()
	if err := u.d.destage(true); !errors.Is(err, sheepdog.ErrNoSpace) {
		t.Fatalf("destage: %v", err)
	}
	if err := u.d.Close(); err != nil && !errors.Is(err, sheepdog.ErrNoSpace) {
		t.Fatalf("close: %v", err)
	}
	u.open(t)
	if got, err := readBlocks(t, u.d, 1, 1, 0, 10); err != nil || !bytes.Equal(got, storetest.Fill(1, 10)) {
		t.Errorf("what the log has: %v", err)
	}
	files.mu.Lock()
	files.fake = 0
	files.mu.Unlock()
	u.Reopen(t)
	if got, err := readBlocks(t, u.d, 1, 1, 0, 10); err != nil || !bytes.Equal(got, storetest.Fill(1, 10)) {
		t.Errorf("when there is space again: %v", err)
	}
}

func TestOutsiderFillsFileSystem(t *testing.T) {
	// Something else takes the reserve while data wait in the log.
	files := newSimFiles()
	files.limit = 32 << 20
	u := openDisk(t, Options{files: files, openMeta: newFakeMeta().open, LogBytes: 1 << 20, ReserveBytes: 1 << 20, ExtentFileBytes: 4 << 20, headerSlack: 1})
	mustWrite(t, u.d, dataOp(1, 1, 0, storetest.Fill(1, 10), 1))
	mustWrite(t, u.d, dataOp(2, 1, 0, storetest.Fill(2, 10), 1))
	files.mu.Lock()
	files.fake = files.limit - files.allocated()
	files.mu.Unlock()
	if err := u.d.destage(true); !errors.Is(err, sheepdog.ErrNoSpace) {
		t.Fatalf("destage: %v", err)
	}
	if err := u.d.DropObject(sheepdog.ObjectID{Family: 1, Index: 2}, 1); err != nil {
		t.Fatal(err)
	}
	if got, err := readBlocks(t, u.d, 1, 1, 0, 10); err != nil || !bytes.Equal(got, storetest.Fill(1, 10)) {
		t.Fatal(err)
	}
	files.mu.Lock()
	files.fake = 0
	files.mu.Unlock()
	u.Reopen(t)
	if got, err := readBlocks(t, u.d, 1, 1, 0, 10); err != nil || !bytes.Equal(got, storetest.Fill(1, 10)) {
		t.Fatal(err)
	}
}

func TestBitFlips(t *testing.T) {
	files := newSimFiles()
	u := openDisk(t, Options{files: files, openMeta: newFakeMeta().open})
	small, large := storetest.Fill(1, 3), storetest.Fill(2, 40)
	mustWrite(t, u.d, dataOp(1, 1, 0, small, 1))
	mustWrite(t, u.d, dataOp(1, 1, 10, large, 1))
	wantBad := func(want ...sheepdog.BlockNo) {
		t.Helper()
		got, err := readBlocks(t, u.d, 1, 1, 0, 60)
		var bad *sheepdog.BadBlocksError
		if !errors.As(err, &bad) || !errors.Is(err, sheepdog.ErrChecksum) || fmt.Sprint(bad.Blocks) != fmt.Sprint(want) {
			t.Fatalf("read: %v, bad %v", err, bad)
		}
		clean := make([]byte, 60*blockSize)
		copy(clean, small)
		copy(clean[10*blockSize:], large)
		for _, no := range want {
			clear(clean[int(no)*blockSize:][:blockSize])
		}
		if !bytes.Equal(got, clean) {
			t.Fatal("rotten bytes were delivered, or good ones were not")
		}
	}
	if !files.flip("log.", small[blockSize:2*blockSize]) || !files.flip("extents.", large[5*blockSize:6*blockSize]) {
		t.Fatal("blocks are not where they should be")
	}
	wantBad(1, 15)
	if s := u.d.Status(); s.RottenBlocks != 2 || s.UnreadBlocks != 0 || s.BacklogBytes == 0 || s.LogBytes < s.BacklogBytes || s.LogLimitBytes < s.LogBytes {
		t.Errorf("status: %+v, want two rotten blocks and a log with the others", s)
	}
	u.Reopen(t) // destaged as it was: still found
	wantBad(1, 15)
	op := dataOp(1, 1, 1, small[blockSize:2*blockSize], 1)
	op.Force = true // healed, with the stamp that it had
	mustWrite(t, u.d, op)
	wantBad(15)
}

// TestRotInDurableLog: a record that was durable and is gone must not be taken
// for the end of the log.
func TestRotInDurableLog(t *testing.T) {
	g := newCrashRig(t, 1)
	first, second := storetest.Fill(1, 2), storetest.Fill(2, 2)
	mustWrite(t, g.d, dataOp(0, 1, 0, first, 1))
	if err := g.d.Flush(); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, g.d, dataOp(0, 1, 100, second, 2)) // carries the claim
	g.abandon()
	if !g.files.flip("log.", first[:blockSize]) {
		t.Fatal("not in the log")
	}
	g.open() // data: the block is bad, all else is there
	if got, err := readBlocks(t, g.d, 0, 1, 100, 2); err != nil || !bytes.Equal(got, second) {
		t.Fatalf("behind the rot: %v", err)
	}
	if _, err := readBlocks(t, g.d, 0, 1, 0, 1); !errors.Is(err, sheepdog.ErrChecksum) {
		t.Fatalf("rotten block: %v", err)
	}
	g.abandon()
	g.corruptHead()
	if _, err := Open(g.opts); !errors.Is(err, sheepdog.ErrChecksum) {
		t.Fatalf("open with a rotten record: %v", err)
	}
}

// corruptHead damages the first record of the log.
func (g *crashRig) corruptHead() {
	g.files.mu.Lock()
	defer g.files.mu.Unlock()
	f := g.files.files[segmentName(g.opts.Meta, 0)]
	b := bytes.Clone(f.blocks[1])
	b[70] ^= 1
	f.blocks[1] = b
}

func TestTornTail(t *testing.T) {
	for cut := range 4 {
		g := newCrashRig(t, uint64(cut))
		before, after := storetest.Fill(1, 3), storetest.Fill(2, 3)
		mustWrite(t, g.d, dataOp(0, 1, 0, before, 1))
		if err := g.d.Flush(); err != nil {
			t.Fatal(err)
		}
		at := int64(g.d.journal.at)
		mustWrite(t, g.d, dataOp(0, 1, 0, after, 2))
		g.abandon()
		g.files.mu.Lock()
		f := g.files.files[segmentName(g.opts.Meta, 0)]
		f.blocks[at+int64(cut)] = make([]byte, blockSize) // head or one of the data
		g.files.mu.Unlock()
		g.open()
		if got, err := readBlocks(t, g.d, 0, 1, 0, 3); err != nil || !bytes.Equal(got, before) {
			t.Fatalf("cut %d: %v", cut, err)
		}
		mustWrite(t, g.d, dataOp(0, 1, 50, after, 3))
		g.abandon()
		g.open()
		if got, err := readBlocks(t, g.d, 0, 1, 50, 3); err != nil || !bytes.Equal(got, after) {
			t.Fatalf("cut %d, after the torn tail: %v", cut, err)
		}
		if got, err := readBlocks(t, g.d, 0, 1, 0, 3); err != nil || !bytes.Equal(got, before) {
			t.Fatalf("cut %d: the torn record came back: %v", cut, err)
		}
		g.abandon()
	}
}

// TestFailingDisk: one of two disks dies; what is on the other goes on.
func TestFailingDisk(t *testing.T) {
	files := newSimFiles()
	dir := t.TempDir()
	u := openDisk(t, Options{Meta: dir, Disks: []string{dir + "/a", dir + "/b"}, files: files, openMeta: newFakeMeta().open})
	for i := range sheepdog.Index(40) {
		mustWrite(t, u.d, dataOp(i, 1, 0, storetest.Fill(uint64(i), 20), 1))
	}
	if err := u.d.Flush(); err != nil {
		t.Fatal(err)
	}
	files.mu.Lock()
	files.fault = func(op, name string) error {
		if bytes.HasPrefix([]byte(name), []byte(dir+"/b")) {
			return unix.EIO
		}
		return nil
	}
	files.mu.Unlock()
	failed := 0
	for i := range sheepdog.Index(40) {
		if err := writeOne(u.d, dataOp(i, 1, 0, storetest.Fill(uint64(100+i), 20), 2)); err != nil {
			t.Fatalf("object %d: %v", i, err) // the other disk takes it
		}
	}
	for _, v := range u.d.volumes.all() {
		if v.failed.Load() {
			failed++
		}
	}
	if failed != 1 {
		t.Fatalf("%d disks count as failed", failed)
	}
	for i := range sheepdog.Index(40) {
		if got, err := readBlocks(t, u.d, i, 1, 0, 20); err != nil || !bytes.Equal(got, storetest.Fill(uint64(100+i), 20)) {
			t.Fatalf("object %d: %v", i, err)
		}
	}
	if err := u.d.destage(true); err != nil {
		t.Fatal(err)
	}
	files.mu.Lock()
	files.fault = nil
	files.mu.Unlock()
}
