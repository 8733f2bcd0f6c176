package objectstore

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sheepdog"
	"sheepdog/objectstore/storetest"
)

func TestSpaceAllocator(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	s := newSpace(1024)
	owner := make(map[uint64]bool)
	var held []spaceRun
	for range 5000 {
		if len(held) > 0 && r.IntN(5) < 2 {
			i := r.IntN(len(held))
			run := held[i]
			held[i] = held[len(held)-1]
			held = held[:len(held)-1]
			s.free(run.at, run.n)
			for b := run.at; b < run.at+run.n; b++ {
				delete(owner, b)
			}
			continue
		}
		n := uint64(1 + r.IntN(60))
		runs := s.allocate(n, 1, nil)
		got := uint64(0)
		for _, run := range runs {
			got += run.n
			for b := run.at; b < run.at+run.n; b++ {
				if owner[b] || b%1024 == 0 {
					t.Fatalf("block %d is given out twice, or is a header", b)
				}
				owner[b] = true
			}
		}
		held = append(held, runs...)
		if got < n {
			s.grow()
		}
		if s.usedBlocks() != uint64(len(owner)) {
			t.Fatalf("%d blocks in use, want %d", s.usedBlocks(), len(owner))
		}
	}
	if s.blocks() > 3*s.usedBlocks() {
		t.Errorf("%d addresses for %d blocks in use", s.blocks(), s.usedBlocks())
	}
	// Slack is what is free and was used; claimed rows are not given out.
	at, claimed := uint64(0), uint64(0)
	for {
		run, ok := s.claimSlack(at)
		if !ok {
			break
		}
		for b := run.at; b < run.at+run.n; b++ {
			if owner[b] {
				t.Fatalf("block %d is in use and would be punched", b)
			}
		}
		claimed += run.n
		s.release(run, true)
		at = run.at + run.n
	}
	if claimed == 0 || s.slackBlocks() != 0 {
		t.Errorf("%d blocks claimed, %d left", claimed, s.slackBlocks())
	}
}

func TestSpacePrefersRows(t *testing.T) {
	s := newSpace(4096)
	s.grow()
	first := s.allocate(1000, 1, nil)
	for b := uint64(0); b < 1000; b += 2 {
		s.free(first[0].at+b, 1)
	}
	if runs := s.allocate(200, 1, nil); len(runs) != 1 {
		t.Errorf("200 blocks in %d pieces though a row is free", len(runs))
	}
}

// allocated is the space that a directory takes.
func allocated(t testing.TB, dir string) int64 {
	t.Helper()
	total := int64(0)
	err := filepath.Walk(dir, func(name string, _ os.FileInfo, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Stat(name, &st)
		}
		if errors.Is(err, os.ErrNotExist) {
			return nil // compacted meanwhile
		}
		total += st.Blocks * 512
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return total
}

func TestIdleStoreIsSmall(t *testing.T) {
	u := openDisk(t, Options{})
	mustWrite(t, u.d, dataOp(1, 1, 0, storetest.Fill(1, 1), 1))
	if err := u.d.Flush(); err != nil {
		t.Fatal(err)
	}
	if n := allocated(t, u.opts.Meta); n > 64<<20 {
		t.Errorf("an idle store takes %d MiB", n>>20)
	}
}

// TestSpaceBound overwrites a set three times at random: the store takes at
// most 1.4 times the data and a fixed part, and gives all back when dropped.
func TestSpaceBound(t *testing.T) {
	const objects, set = 24, 24 * 4 << 20
	u := openDisk(t, Options{LogBytes: 8 << 20, NoSync: true})
	r := rand.New(rand.NewPCG(1, 1))
	data := storetest.Fill(1, 1024)
	seq := uint64(1)
	for i := range sheepdog.Index(objects) {
		mustWrite(t, u.d, dataOp(i, 1, 0, data, seq))
	}
	for written := 0; written < 3*set; {
		seq++
		n := []int{1, 4, 15, 30}[r.IntN(4)]
		mustWrite(t, u.d, dataOp(sheepdog.Index(r.IntN(objects)), 1, sheepdog.BlockNo(r.IntN(1024-n)), data[:n*blockSize], seq))
		written += n * blockSize
	}
	obj := filepath.Join(u.opts.Meta, "obj")
	destageAndRest(t, u.d)
	const fixed = 17 << 20 // slack that is kept for the next writes
	if n := allocated(t, obj); n > set*14/10+fixed {
		t.Errorf("%d MiB take %d MiB", set>>20, n>>20)
	}
	before, err := u.d.Usage()
	if err != nil {
		t.Fatal(err)
	}
	if err := u.d.DropLayer(1); err != nil {
		t.Fatal(err)
	}
	destageAndRest(t, u.d)
	after, err := u.d.Usage()
	const told = 1 << 20 // that the objects are gone, until the log of headers is brought together
	if err != nil || before.Used-after.Used < set-told {
		t.Errorf("used %d MiB before, %d MiB after the drop: %v", before.Used>>20, after.Used>>20, err)
	}
	if n := allocated(t, obj); n > fixed {
		t.Errorf("%d MiB are left of a dropped layer", n>>20)
	}
	u.Reopen(t)
	mustWrite(t, u.d, dataOp(1, 1, 0, data, 1)) // into the slack
	if n := allocated(t, obj); n > fixed+4<<20 {
		t.Errorf("%d MiB are taken after a reopen", n>>20)
	}
}

// destageAndRest destages all, and lets the time pass after which what nobody uses is
// given back.
func destageAndRest(t *testing.T, d *Disk) {
	t.Helper()
	if err := d.destage(true); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if err := d.trimIdle(never); err != nil {
			t.Fatal(err)
		}
		if d.volumes.all()[0].space.excess() == 0 {
			return
		}
	}
	t.Error("space that nobody uses is not given back")
}

// TestSpaceInUseIsNotGivenBack is named after a store that, while a disk was
// overwritten, spent three quarters of its destages on giving back, block by block,
// the space that the next one took: writers waited for seconds.
func TestSpaceInUseIsNotGivenBack(t *testing.T) {
	s := newSpace(1 << 20)
	s.grow()
	const set, lap = 40_000, 30_000
	held := s.allocate(set, 1, nil)
	more := s.allocate(lap, 1, nil)
	give := func(runs []spaceRun) {
		for _, r := range runs {
			s.free(r.at, r.n)
		}
	}
	give(more)
	const excess = lap - set/4
	if n := s.takeIdle(); n != 0 {
		t.Errorf("%d blocks are idle that were free for no time", n)
	}
	for range 3 { // each lap takes what the one before freed
		more = s.allocate(lap, 1, nil)
		give(more)
		if n := s.takeIdle(); n != 0 {
			t.Errorf("%d blocks are idle that were used since", n)
		}
	}
	if n := s.takeIdle(); n != excess {
		t.Errorf("%d blocks are idle that nobody used, want %d", n, excess)
	}
	more = s.allocate(lap-excess+1000, 1, nil)
	give(more)
	if n := s.takeIdle(); n == 0 || n >= excess {
		t.Errorf("%d blocks are idle after a part was used, want some of %d", n, excess)
	}
	give(held)
}

// A file system with little room gets unused space back at every destage.
func TestScarceSpaceIsGivenBackAtOnce(t *testing.T) {
	for _, c := range []struct {
		total, free uint64
		want        bool
	}{
		{100 << 30, 50 << 30, false},
		{100 << 30, 7 << 30, true},
		{16 << 30, 3 << 30, false},
		{16 << 30, 1 << 30, true},
		{1 << 50, 9 << 30, false},
	} {
		v := &volume{fs: fixedSpace{total: c.total, free: c.free}, space: newSpace(64)}
		if got := v.scarce(); got != c.want {
			t.Errorf("%d of %d bytes free are scarce: %v, want %v", c.free, c.total, got, c.want)
		}
	}
}

// fixedSpace is a file system of which only the space is known.
type fixedSpace struct {
	fileSystem
	total, free uint64
}

func (f fixedSpace) Space(string) (total, free uint64, err error) { return f.total, f.free, nil }

func TestOpenRefusals(t *testing.T) {
	dir := t.TempDir()
	u := openDisk(t, Options{Meta: dir})
	if _, err := Open(Options{Meta: dir, Logger: quiet()}); !errors.Is(err, sheepdog.ErrBusy) || !strings.Contains(err.Error(), dir) {
		t.Errorf("a busy directory: %v", err)
	}
	mustWrite(t, u.d, dataOp(1, 1, 0, storetest.Fill(1, 1), 1))
	if err := u.d.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"store", "space", "log.000000", "obj/disk", "obj/extents.000000"} {
		name = filepath.Join(dir, name)
		good, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		bad := bytes.Clone(good)
		bad[4]++ // the version
		if err := os.WriteFile(name, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = Open(Options{Meta: dir, Logger: quiet()})
		var version *versionError
		if !errors.As(err, &version) {
			t.Errorf("%s of another version: %v", name, err)
		}
		if now, err := os.ReadFile(name); err != nil || !bytes.Equal(now, bad) {
			t.Errorf("%s was touched", name)
		}
		if err := os.WriteFile(name, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	other := openDisk(t, Options{})
	if _, err := Open(Options{Meta: dir, Disks: []string{filepath.Join(other.opts.Meta, "obj")}, Logger: quiet()}); !errors.Is(err, sheepdog.ErrInvalid) {
		t.Errorf("the disk of another store: %v", err)
	}
	for _, o := range []Options{{}, {Meta: dir, LogBytes: 5}, {Meta: dir, ExtentFileBytes: 1<<20 + 1}, {Meta: dir, Disks: []string{"a", "a/"}}} {
		if _, err := Open(o); !errors.Is(err, sheepdog.ErrInvalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	u.open(t)
	if got, err := readBlocks(t, u.d, 1, 1, 0, 1); err != nil || !bytes.Equal(got, storetest.Fill(1, 1)) {
		t.Errorf("after all refusals: %v", err)
	}
}

func TestGuard(t *testing.T) {
	// What a reader entered with stays until it leaves; readers do not stop each
	// other while somebody waits.
	var g guard
	var wg sync.WaitGroup
	reader := g.enter()
	waited := make(chan struct{})
	wg.Add(1)
	go func() {
		defer wg.Done()
		g.wait()
		close(waited)
	}()
	for range 100 {
		select {
		case <-waited:
			t.Fatal("wait did not wait")
		default:
		}
		g.enter().RUnlock()
		time.Sleep(10 * time.Microsecond) // a chance to be wrong, not a synchronisation
	}
	reader.RUnlock()
	wg.Wait()
}

func TestCacheStaysBounded(t *testing.T) {
	u := openDisk(t, Options{MapCacheBytes: 1 << 20, openMeta: newFakeMeta().open})
	for i := range sheepdog.Index(2000) {
		mustWrite(t, u.d, sheepdog.Op{Object: sheepdog.ObjectID{Family: 1, Index: i}, Layer: 1, Count: 1, Stamp: sheepdog.Stamp{Seq: 1}})
	}
	if err := u.d.destage(true); err != nil {
		t.Fatal(err)
	}
	recs := make([]sheepdog.Record, 1)
	for i := range sheepdog.Index(4000) {
		if err := u.d.Records(sheepdog.ObjectID{Family: 1, Index: i}, []sheepdog.LayerID{1}, 0, 1, recs); err != nil {
			t.Fatal(err)
		}
		if want := i < 2000; (recs[0].State == sheepdog.Zero) != want {
			t.Fatalf("object %d: state %d", i, recs[0].State)
		}
	}
	if n := u.d.cache.used.Load(); n > 1<<20+64*chunkBytes {
		t.Errorf("the cache holds %d KiB", n>>10)
	}
}
