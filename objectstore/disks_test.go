package objectstore

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sheepdog"
	"sheepdog/objectstore/storetest"
)

// twoDisks opens a store with disks a and b on simulated files.
func twoDisks(t *testing.T, opts Options) (u *diskUnderTest, files *simFiles, a, b string) {
	t.Helper()
	files = newSimFiles()
	dir := t.TempDir()
	a, b = filepath.Join(dir, "a"), filepath.Join(dir, "b")
	opts.Meta, opts.Disks, opts.files, opts.openMeta, opts.ExtentFileBytes = dir, []string{a, b}, files, newFakeMeta().open, 8<<20
	return openDisk(t, opts), files, a, b
}

func fault(files *simFiles, f func(op, name string) error) {
	files.mu.Lock()
	defer files.mu.Unlock()
	files.fault = f
}

// Blocks that the disk cannot read are bad, like rotten ones, so that another
// replica serves and mends them; their neighbours are read.
func TestUnreadableBlocksAreBad(t *testing.T) {
	u, files, _, _ := twoDisks(t, Options{})
	data := storetest.Fill(1, 20)
	mustWrite(t, u.d, dataOp(1, 1, 0, data, 1))
	p, err := u.d.load(sheepdog.ObjectID{Family: 1, Index: 1})
	if err != nil {
		t.Fatal(err)
	}
	at := p.find(1).slot(7).at
	u.d.cache.unpin(p)
	files.mu.Lock()
	files.unreadable = map[int64]bool{int64(at.block()): true}
	files.mu.Unlock()
	got, err := readBlocks(t, u.d, 1, 1, 0, 20)
	var bad *sheepdog.BadBlocksError
	if !errors.As(err, &bad) || len(bad.Blocks) != 1 || bad.Blocks[0] != 7 {
		t.Fatalf("read: %v", err)
	}
	clear(data[7*blockSize:][:blockSize])
	if !bytes.Equal(got, data) {
		t.Error("the other blocks were not read")
	}
	mend := dataOp(1, 1, 7, storetest.Fill(3, 1), 1)
	mend.Force = true
	mustWrite(t, u.d, mend)
	if got, err := readBlocks(t, u.d, 1, 1, 7, 1); err != nil || !bytes.Equal(got, storetest.Fill(3, 1)) {
		t.Errorf("after it was mended: %v", err)
	}
}

// A disk that fails a sync is never trusted again: flushes fail until its blocks
// are known to be lost, and then go on without it.
func TestFailedSyncLosesDisk(t *testing.T) {
	told := make(chan string, 10)
	u, files, a, b := twoDisks(t, Options{OnDiskFailed: func(dir string, err error) { told <- dir }})
	for i := range sheepdog.Index(40) {
		mustWrite(t, u.d, dataOp(i, 1, 0, storetest.Fill(uint64(i), 20), 1))
	}
	once := true
	fault(files, func(op, name string) error {
		if op == "sync" && filepath.Dir(name) == b && once {
			once = false
			return unix.EIO
		}
		return nil
	})
	for range 3 {
		if err := u.d.Flush(); !errors.Is(err, sheepdog.ErrIO) {
			t.Fatalf("a flush after a failed sync: %v", err)
		}
	}
	if dir := <-told; dir != b || len(told) > 0 {
		t.Fatalf("told of %s and %d more", dir, len(told))
	}
	if err := u.d.LoseDisk(b); err != nil {
		t.Fatal(err)
	}
	lost := 0
	for i := range sheepdog.Index(40) {
		recs := make([]sheepdog.Record, 1)
		if err := u.d.Records(sheepdog.ObjectID{Family: 1, Index: i}, []sheepdog.LayerID{1}, 3, 1, recs); err != nil {
			t.Fatal(err)
		}
		switch recs[0].Stamp {
		case lostStamp:
			lost++
			mustWrite(t, u.d, dataOp(i, 1, 0, storetest.Fill(uint64(i), 20), 1)) // what backfill does
		case sheepdog.Stamp{Token: 1, Seq: 1}:
		default:
			t.Fatalf("object %d: stamp %v", i, recs[0].Stamp)
		}
	}
	if lost == 0 || lost == 40 {
		t.Errorf("%d of 40 objects were on the failed disk", lost)
	}
	if err := u.d.Flush(); !errors.Is(err, sheepdog.ErrIO) {
		t.Errorf("a flush before the disk was retired: %v", err)
	}
	if err := u.d.RetireDisk(b); err != nil {
		t.Fatal(err)
	}
	if err := u.d.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := u.d.Unplug(b); err != nil {
		t.Fatal(err)
	}
	u.Reopen(t)
	if u.d.Incomplete() {
		t.Error("the store is said to lack something, though all was replaced")
	}
	for i := range sheepdog.Index(40) {
		if got, err := readBlocks(t, u.d, i, 1, 0, 20); err != nil || !bytes.Equal(got, storetest.Fill(uint64(i), 20)) {
			t.Fatalf("object %d: %v", i, err)
		}
	}
	if disks, err := u.d.Disks(); err != nil || len(disks) != 1 || disks[0].Dir != a {
		t.Errorf("disks: %+v, %v", disks, err)
	}
	fault(files, func(op, name string) error {
		if op == "write" && filepath.Dir(name) == a {
			return unix.EIO
		}
		return nil
	})
	defer fault(files, nil)
	if err := writeOne(u.d, dataOp(1, 1, 0, storetest.Fill(9, 20), 9)); !errors.Is(err, sheepdog.ErrIO) {
		t.Errorf("a write without any disk: %v", err)
	}
}

// A disk leaves and another comes while guests write: every byte is there, the
// disk is empty and the store remembers which disks it has.
func TestUnplugAndPlugUnderWrites(t *testing.T) {
	u, files, a, b := twoDisks(t, Options{})
	c := filepath.Join(filepath.Dir(a), "c")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	last := make([]uint64, 8)
	for w := range last {
		wg.Go(func() {
			for seq := uint64(1); ; seq++ {
				for i := range sheepdog.Index(6) {
					if err := writeOne(u.d, dataOp(i+sheepdog.Index(w)*6, 1, 0, storetest.Fill(seq<<8|uint64(w), 17), seq)); err != nil {
						t.Error(err)
						return
					}
				}
				last[w] = seq
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	stopped := sync.OnceFunc(func() { close(stop); wg.Wait() })
	defer stopped()
	for range 3 {
		for _, step := range []struct {
			do  func(string) error
			dir string
		}{{u.d.Unplug, b}, {u.d.Plug, c}, {u.d.Unplug, a}, {u.d.Plug, a}, {u.d.Plug, b}, {u.d.Unplug, c}} {
			if err := step.do(step.dir); err != nil {
				t.Fatal(err)
			}
		}
	}
	stopped()
	check := func() {
		t.Helper()
		for w, seq := range last {
			for i := range sheepdog.Index(6) {
				if got, err := readBlocks(t, u.d, i+sheepdog.Index(w)*6, 1, 0, 17); err != nil || !bytes.Equal(got, storetest.Fill(seq<<8|uint64(w), 17)) {
					t.Fatalf("object %d of writer %d: %v", i, w, err)
				}
			}
		}
	}
	check()
	if err := u.d.Unplug(a); err != nil {
		t.Fatal(err)
	}
	if err := u.d.Unplug(b); !errors.Is(err, sheepdog.ErrInvalid) {
		t.Errorf("the last disk was unplugged: %v", err)
	}
	if err := u.d.Unplug(c); !errors.Is(err, sheepdog.ErrNotFound) {
		t.Errorf("a disk that is not there was unplugged: %v", err)
	}
	if err := u.d.Plug(b); !errors.Is(err, sheepdog.ErrExists) {
		t.Errorf("a disk was plugged twice: %v", err)
	}
	u.Reopen(t) // it was told of a and b: a stays out
	check()
	if disks, err := u.d.Disks(); err != nil || fmt.Sprint(len(disks), disks[0].Dir) != fmt.Sprint(1, b) {
		t.Errorf("disks after a restart: %+v, %v", disks, err)
	}
	files.mu.Lock()
	files.limit = files.allocated() // nothing is left
	files.mu.Unlock()
	if err := u.d.Plug(a); err == nil {
		if err := u.d.Unplug(b); !errors.Is(err, sheepdog.ErrNoSpace) {
			t.Errorf("a disk was emptied into a full one: %v", err)
		}
	}
	files.mu.Lock()
	files.limit = 1 << 40
	files.mu.Unlock()
	check()
}

// TestFailEveryOperationOfDiskChanges fails each file operation and commit of a
// script that empties, adds and loses disks once, with an error and with the
// death of the process: what was acknowledged is there after the next start.
func TestFailEveryOperationOfDiskChanges(t *testing.T) {
	for _, fault := range []error{unix.EIO, unix.ENOSPC, errDead} {
		for n := 1; ; n++ {
			g := newCrashRig(t, 9)
			a, b := g.opts.Meta+"/obj", g.opts.Meta+"/b"
			g.abandon()
			g.opts.Disks = []string{a, b}
			g.open()
			count, hit := 0, false
			fail := func() error {
				if count++; count == n || hit && fault == errDead {
					hit = true
					return fault
				}
				return nil
			}
			g.beforeAll(fail)
			for i := range rigObjects {
				op := dataOp(sheepdog.Index(i), 1, 3, storetest.Fill(uint64(i)+1, 20), uint64(i)+1)
				before := g.records([]sheepdog.Op{op})
				g.note(&op, before, writeOne(g.d, op))
			}
			if g.d.Flush() == nil {
				g.settle()
			}
			trim := zeroOp(0, 1, 5, 30, 100)
			before := g.records([]sheepdog.Op{trim})
			g.note(&trim, before, writeOne(g.d, trim))
			g.unplugSound(b)
			_ = g.d.Plug(b)
			g.unplugSound(a)
			_ = g.d.Plug(a)
			g.abandon()
			if fault == errDead {
				g.files.losePower(g.r)
			}
			g.open()
			g.verify(fmt.Sprintf("operation %d failed with %v", n, fault))
			g.abandon()
			if !hit {
				break
			}
		}
	}
}

// unplugSound unplugs a disk unless it failed: what that one had would be lost,
// as it should.
func (g *crashRig) unplugSound(dir string) {
	disks, err := g.d.Disks()
	if err != nil {
		return
	}
	for _, u := range disks {
		if u.Dir == dir && u.State == DiskOK {
			_ = g.d.Unplug(dir)
		}
	}
}

// reopenWithout starts the store again with a disk that cannot be reached.
func (u *diskUnderTest) reopenWithout(t *testing.T, files *simFiles, dir string) {
	t.Helper()
	if err := u.d.Close(); err != nil {
		t.Fatal(err)
	}
	fault(files, func(op, name string) error {
		if filepath.Dir(name) == dir {
			return unix.EIO
		}
		return nil
	})
	u.open(t)
}

// A store lacks what was on a disk that it gave up until it is replaced, also in a
// later life, whether the disk was unplugged, works again, or is another one by
// then: after a loss of all power it must not count as the last that has everything.
func TestStoreLacksAGivenUpDiskInItsNextLife(t *testing.T) {
	away := func(t *testing.T, u *diskUnderTest, files *simFiles, b string) {
		u.reopenWithout(t, files, b)
		if disks, err := u.d.Disks(); err != nil || len(disks) != 2 || disks[1].Dir != b || disks[1].State != DiskMissing {
			t.Fatalf("disks: %+v, %v", disks, err)
		}
	}
	ok := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, happens := range map[string]func(t *testing.T, u *diskUnderTest, files *simFiles, b string){
		"works again": func(t *testing.T, u *diskUnderTest, _ *simFiles, b string) {
			ok(t, u.d.LoseDisk(b))
		},
		"unplugged": func(t *testing.T, u *diskUnderTest, _ *simFiles, b string) {
			ok(t, u.d.LoseDisk(b))
			ok(t, u.d.Unplug(b))
		},
		"missing": away,
		"missing and forgotten": func(t *testing.T, u *diskUnderTest, files *simFiles, b string) {
			away(t, u, files, b)
			ok(t, u.d.Unplug(b))
			if disks, err := u.d.Disks(); err != nil || len(disks) != 1 {
				t.Fatalf("disks: %+v, %v", disks, err)
			}
		},
		"missing and replaced": func(t *testing.T, u *diskUnderTest, files *simFiles, b string) {
			away(t, u, files, b)
			fault(files, nil)
			ok(t, u.d.Plug(b))
			if disks, err := u.d.Disks(); err != nil || len(disks) != 2 || disks[1].State != DiskOK {
				t.Fatalf("disks: %+v, %v", disks, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			u, files, _, b := twoDisks(t, Options{})
			defer fault(files, nil)
			for i := range sheepdog.Index(20) {
				mustWrite(t, u.d, dataOp(i, 1, 0, storetest.Fill(uint64(i), 20), 1))
			}
			happens(t, u, files, b)
			for range 2 {
				u.Reopen(t)
				if !u.d.Incomplete() {
					t.Fatal("the store is said to lack nothing")
				}
			}
			for i := range sheepdog.Index(20) {
				mend := dataOp(i, 1, 0, storetest.Fill(uint64(i), 20), 1)
				mend.Force = true
				mustWrite(t, u.d, mend)
			}
			for range 2 {
				u.Reopen(t)
				if u.d.Incomplete() {
					t.Error("the store is said to lack something, though all was replaced")
				}
			}
		})
	}
}

// What a disk held that is missing at the start is older than any write, and
// counts again when the disk is back and nobody replaced it.
func TestMissingDiskIsLostUntilItIsBack(t *testing.T) {
	u, files, _, b := twoDisks(t, Options{})
	for i := range sheepdog.Index(20) {
		mustWrite(t, u.d, dataOp(i, 1, 0, storetest.Fill(uint64(i), 20), 5))
	}
	u.reopenWithout(t, files, b)
	bad := 0
	for i := range sheepdog.Index(20) {
		if _, err := readBlocks(t, u.d, i, 1, 0, 20); err != nil {
			if !errors.Is(err, sheepdog.ErrChecksum) {
				t.Fatal(err)
			}
			bad++
		}
	}
	if bad == 0 || bad == 20 {
		t.Errorf("%d of 20 objects are bad", bad)
	}
	if err := u.d.Close(); err != nil {
		t.Fatal(err)
	}
	fault(files, nil)
	u.open(t)
	for i := range sheepdog.Index(20) {
		if got, err := readBlocks(t, u.d, i, 1, 0, 20); err != nil || !bytes.Equal(got, storetest.Fill(uint64(i), 20)) {
			t.Fatalf("object %d after the disk came back: %v", i, err)
		}
	}
}

// The directory of a disk may be renamed. Its old path was made again, and reported
// as a disk that is not mounted.
func TestDiskMovesToAnotherPath(t *testing.T) {
	dir := t.TempDir()
	was, now := filepath.Join(dir, "was"), filepath.Join(dir, "now")
	u := openDisk(t, Options{Disks: []string{was}, openMeta: newFakeMeta().open})
	mustWrite(t, u.d, dataOp(1, 1, 0, storetest.Fill(1, 20), 5))
	if err := u.d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(was, now); err != nil {
		t.Fatal(err)
	}
	u.opts.Disks = []string{now}
	u.open(t)
	if got, err := readBlocks(t, u.d, 1, 1, 0, 20); err != nil || !bytes.Equal(got, storetest.Fill(1, 20)) {
		t.Errorf("what it held: %v", err)
	}
	if _, err := os.Stat(was); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old path: %v", err)
	}
}

// A store of which the metadata, or the log that has what they lack, are gone was
// opened as if that were all there had been.
func TestStoreWithoutItsMetadataOrItsLogIsRefused(t *testing.T) {
	u := openDisk(t, Options{openMeta: newFakeMeta().open})
	mustWrite(t, u.d, dataOp(1, 1, 0, storetest.Fill(1, 20), 5))
	if err := u.d.Close(); err != nil { // destages
		t.Fatal(err)
	}
	if d, err := Open(Options{Meta: u.opts.Meta, Existing: true, openMeta: newFakeMeta().open, Logger: quiet()}); !errors.Is(err, errEmptied) {
		t.Errorf("without metadata: %v, %v", d, err)
	}
	logs, err := filepath.Glob(filepath.Join(u.opts.Meta, "log.*"))
	if err != nil || len(logs) == 0 {
		t.Fatalf("log: %v, %v", logs, err)
	}
	for _, name := range logs {
		if err := os.Rename(name, name+".away"); err != nil {
			t.Fatal(err)
		}
	}
	if d, err := Open(u.opts); !errors.Is(err, errEmptied) {
		t.Errorf("without a log: %v, %v", d, err)
	}
	for _, name := range logs {
		if err := os.Rename(name+".away", name); err != nil {
			t.Fatal(err)
		}
	}
	u.opts.Existing = true
	u.open(t)
}

// A copy was refused once, and noted as the disk all the same: the next start took it.
func TestCopyOfADiskIsRefusedAgain(t *testing.T) {
	dir := t.TempDir()
	own, double := filepath.Join(dir, "own"), filepath.Join(dir, "double")
	u := openDisk(t, Options{Disks: []string{own}, openMeta: newFakeMeta().open})
	if err := u.d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(double, os.DirFS(own)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		opts := u.opts
		opts.Disks = []string{double}
		d, err := Open(opts)
		if !errors.Is(err, sheepdog.ErrInvalid) {
			t.Errorf("opened a copy: %v", err)
		}
		if err == nil {
			d.Close()
		}
	}
	u.open(t)
}

// A directory that was given twice, by a link, became two disks at the first start,
// which wrote over each other.
func TestDirectoryIsNotTwoDisks(t *testing.T) {
	dir := t.TempDir()
	one, link := filepath.Join(dir, "one"), filepath.Join(dir, "link")
	if err := errors.Join(os.Mkdir(one, 0o750), os.Symlink(one, link)); err != nil {
		t.Fatal(err)
	}
	o := Options{Meta: filepath.Join(dir, "meta"), Disks: []string{one, link}, LogBytes: 4 << 20, MapCacheBytes: 1 << 20, Logger: quiet()}
	d, err := Open(o)
	if err == nil {
		d.Close()
	}
	if !errors.Is(err, sheepdog.ErrInvalid) || !strings.Contains(err.Error(), link) {
		t.Fatalf("opened with %v", err)
	}
	o.Disks = []string{one}
	if d, err = Open(o); err != nil {
		t.Fatal("and it cannot be mended: ", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// A write that had looked which disks there are, while one was plugged in and the
// only other one unplugged, failed: no disk works.
func TestWriteFindsTheDiskThatCameMeanwhile(t *testing.T) {
	var s volumes
	a, c := &volume{id: 1, weight: 1}, &volume{id: 2, weight: 1}
	s.add(a)
	var used []*volume
	err := s.first(func(order []*volume) []*volume { return order }, func(v *volume) error {
		used = append(used, v)
		if v == a {
			s.add(c)
			s.remove(a)
			return errLeft
		}
		return nil
	})
	if err != nil || !slices.Equal(used, []*volume{a, c}) {
		t.Errorf("%v after %d disks", err, len(used))
	}
	c.leaving.Store(true)
	if err := s.admit(sheepdog.ObjectID{}, 1, 0); !errors.Is(err, sheepdog.ErrIO) {
		t.Errorf("without any disk: %v", err)
	}
}

// A disk that was asked for in vain left for a moment, in which writes failed.
func TestLastDiskDoesNotLeaveForAMoment(t *testing.T) {
	u := openDisk(t, Options{openMeta: openFakeMeta})
	v := u.d.volumes.all()[0]
	v.gate.RLock() // whoever departs waits for this
	defer v.gate.RUnlock()
	if err := u.d.Unplug(v.dir); !errors.Is(err, sheepdog.ErrInvalid) {
		t.Errorf("the last disk was unplugged: %v", err)
	}
}

// A destage that had chosen an empty disk forgot the blocks that should go there
// when the disk was unplugged meanwhile: they are not moved, and it stays until the
// destage is over.
func TestDiskStaysUntilADestageIsOver(t *testing.T) {
	u, _, _, b := twoDisks(t, Options{})
	u.d.destageMu.Lock()
	done := make(chan error, 1)
	go func() { done <- u.d.Unplug(b) }()
	select {
	case err := <-done:
		t.Errorf("the disk left during a destage: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	u.d.destageMu.Unlock()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
