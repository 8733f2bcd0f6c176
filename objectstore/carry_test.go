package objectstore

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sheepdog"
	"sheepdog/objectstore/storetest"
)

// carryRig is a store beside the engine in memory, with small writes in its log.
type carryRig struct {
	*testing.T
	u   *diskUnderTest
	m   *Memory
	r   *rand.Rand
	seq uint64
}

const carryObjects = 12

func newCarryRig(t *testing.T, opts Options) *carryRig {
	opts.DestageEvery, opts.LogBytes = time.Hour, 256<<20
	g := &carryRig{T: t, m: NewMemory(), r: rand.New(rand.NewPCG(1, 1))}
	if len(opts.Disks) == 0 {
		opts.files, opts.openMeta = newSimFiles(), newFakeMeta().open
	}
	g.u = openDisk(t, opts)
	return g
}

// write writes and zeroes here and there.
func (g *carryRig) write(times int) {
	g.Helper()
	for range times {
		g.seq++
		index, layer := sheepdog.Index(g.r.IntN(carryObjects)), sheepdog.LayerID(1+g.r.IntN(3))
		n := 1 + g.r.IntN(3)
		op := dataOp(index, layer, sheepdog.BlockNo(g.r.IntN(200-n)), storetest.Fill(g.seq, n), g.seq)
		if g.r.IntN(20) == 0 {
			op = zeroOp(index, layer, op.Start, n, g.seq)
		}
		mustWrite(g, g.u.d, op)
		mustWrite(g, g.m, op)
	}
}

func (g *carryRig) both(what string, do func(e sheepdog.Engine) error) {
	g.Helper()
	if err := do(g.u.d); err != nil {
		g.Fatalf("%s: %v", what, err)
	}
	if err := do(g.m); err != nil {
		g.Fatalf("%s: %v", what, err)
	}
}

func (g *carryRig) compare(when string) {
	g.Helper()
	chain := []sheepdog.LayerID{3, 2, 1}
	for i := range sheepdog.Index(carryObjects) {
		for from := range chain {
			obj := sheepdog.ObjectID{Family: 1, Index: i}
			got, want := make([]byte, 200*blockSize), make([]byte, 200*blockSize)
			states, wantStates := make([]sheepdog.BlockState, 200), make([]sheepdog.BlockState, 200)
			if err := g.u.d.Read(obj, chain[from:], 0, 200, got, states); err != nil {
				g.Fatalf("%s: object %d: %v", when, i, err)
			}
			if err := g.m.Read(obj, chain[from:], 0, 200, want, wantStates); err != nil {
				g.Fatal(err)
			}
			if !bytes.Equal(got, want) || !slices.Equal(states, wantStates) {
				g.Fatalf("%s: object %d, chain %v is not what was written", when, i, chain[from:])
			}
		}
	}
}

// secondHasAll wants nothing on the first disk, which failed, and all on the other.
func (g *carryRig) secondHasAll() {
	g.Helper()
	a, b := g.u.d.volumes.all()[0], g.u.d.volumes.all()[1]
	if n := a.space.usedBlocks(); n != 0 {
		g.Errorf("%d blocks of the failed disk are in use", n)
	}
	if n, want := b.space.usedBlocks(), g.inUse(); n != want {
		g.Errorf("%d blocks of the other are in use, maps lead to %d", n, want)
	}
}

// inUse is the number of blocks that maps lead to.
func (g *carryRig) inUse() (n uint64) {
	err := eachChunk(g.u.d.meta, func(_ objectKey, _ uint32, value []byte) (bool, error) {
		var c chunk
		err := c.decode(value)
		for i := range chunkBlocks {
			if c.at(i).at.isExtent() {
				n++
			}
		}
		return true, err
	})
	if err != nil {
		g.Fatal(err)
	}
	return n
}

// destageWith destages everything with something happening after the log was carried,
// before any round.
func (g *carryRig) destageWith(meanwhile func()) (carried int) {
	g.Helper()
	d := g.u.d
	d.journal.seal()
	d.destageMu.Lock()
	defer d.destageMu.Unlock()
	piles := d.dirtyUpTo(true, 0)
	c, n := d.carry(piles)
	for b := c; b != nil; b = b.before {
		for _, to := range b.to {
			if to != 0 {
				carried++
			}
		}
	}
	meanwhile()
	for piles = piles[:n]; len(piles) > 0; {
		k, err := d.destageRound(piles, 3, c)
		if err != nil {
			g.Fatal(err)
		}
		piles = piles[k:]
	}
	d.drop(c, always)
	return carried
}

// What was carried ahead of the rounds is what the rounds would have copied, whatever
// happens to the blocks in between, and no space is lost by it.
func TestCarriedBlocksAreThoseOfTheLog(t *testing.T) {
	for name, meanwhile := range map[string]func(g *carryRig){
		"nothing":   func(*carryRig) {},
		"overwrite": func(g *carryRig) { g.write(800) },
		"drop": func(g *carryRig) {
			g.both("drop", func(e sheepdog.Engine) error { return e.DropLayer(2) })
		},
		"merge": func(g *carryRig) {
			g.both("merge", func(e sheepdog.Engine) error { return e.Merge(1, 2) })
			g.write(50)
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newCarryRig(t, Options{})
			for range 3 {
				g.write(1500)
				if n := g.destageWith(func() { meanwhile(g) }); n < 500 {
					t.Errorf("only %d blocks were carried", n)
				}
				g.compare("after a destage")
			}
			if err := g.u.d.destage(true); err != nil {
				t.Fatal(err)
			}
			g.compare("after a whole destage")
			if used, want := g.u.d.volumes.usedBlocks(), g.inUse(); used != want {
				t.Errorf("%d blocks are in use, maps lead to %d", used, want)
			}
			g.u.Reopen(t)
			g.compare("after a reopen")
		})
	}
}

// What a second look at the piles leaves out was there at the first.
func TestSecondLookFindsWhatIsNew(t *testing.T) {
	g := newCarryRig(t, Options{})
	d := g.u.d
	roomy := map[*volume]bool{d.volumes.all()[0]: true}
	list := func(piles []*pile, after lsn) (out []place) {
		logged, _ := d.logged(piles, after, roomy)
		for _, b := range logged[destination{d.volumes.all()[0], true}] {
			out = append(out, b.from)
		}
		slices.Sort(out)
		return out
	}
	g.write(300)
	piles := d.dirtyUpTo(true, 0)
	before, seen := list(piles, 0), lsn(d.journal.applied.Load())
	if n := len(list(piles, seen)); n != 0 {
		t.Fatalf("%d blocks are new, though nothing was written", n)
	}
	g.write(3)
	fresh := func(all []place) []place {
		return slices.DeleteFunc(all, func(at place) bool { return slices.Contains(before, at) })
	}
	if got, want := fresh(list(piles, seen)), fresh(list(piles, 0)); !slices.Equal(got, want) || len(got) == 0 {
		t.Fatalf("new is %v, want %v", got, want)
	}
}

// The log still has what was carried to a disk that failed before a round took it.
func TestCarriedToADiskThatFails(t *testing.T) {
	files := newSimFiles()
	g := newCarryRig(t, Options{Disks: []string{"/a", "/b"}, files: files, openMeta: newFakeMeta().open})
	g.write(1500)
	carried := g.destageWith(func() {
		v, err := g.u.d.diskAt("/a")
		if err != nil || v.space.usedBlocks() == 0 {
			t.Fatalf("disk a has nothing: %v", err)
		}
		v.failed.Store(true)
	})
	if carried == 0 {
		t.Error("nothing was carried")
	}
	g.compare("after the destage")
	g.secondHasAll()
}

// Bug: a destage wrote all that was in the log before it waited for the disk once. A flush
// meanwhile, and a snapshot that held writes for it, waited until the disk had done that.
func TestCarryIsNotFarAheadOfTheDisk(t *testing.T) {
	files := newSimFiles()
	g := newCarryRig(t, Options{Disks: []string{"/a"}, files: files, openMeta: newFakeMeta().open})
	g.write(5000)
	ahead, most, all := 0, 0, 0
	extents := func(name string) bool { return strings.HasPrefix(filepath.Base(name), "extents.") }
	files.mu.Lock()
	files.stray = func(f *simFile, off int64, n int) (int64, bool) {
		if extents(f.name) {
			ahead, all = ahead+n/blockSize, all+n/blockSize
			most = max(most, ahead)
		}
		return off, true
	}
	files.fault = func(op, name string) error {
		if op == "sync" && extents(name) {
			ahead = 0
		}
		return nil
	}
	files.mu.Unlock()
	g.destageWith(func() {
		files.mu.Lock()
		defer files.mu.Unlock()
		if all < 3*aheadBlocks {
			t.Fatalf("only %d blocks were carried", all)
		}
		if most > aheadBlocks+copyBlocks {
			t.Errorf("%d blocks were written before a sync", most)
		}
		files.stray, files.fault = nil, nil
	})
	g.compare("after the destage")
}

// A disk that fails to sync what was carried so far has nothing of it in the end.
func TestCarriedToADiskThatDoesNotSync(t *testing.T) {
	files := newSimFiles()
	g := newCarryRig(t, Options{Disks: []string{"/a", "/b"}, files: files, openMeta: newFakeMeta().open})
	g.write(5000)
	failed := false
	files.mu.Lock()
	files.fault = func(op, name string) error {
		if op == "sync" && strings.HasPrefix(name, "/a/extents.") {
			failed = true
			return unix.EIO
		}
		return nil
	}
	files.mu.Unlock()
	g.destageWith(func() {
		files.mu.Lock()
		defer files.mu.Unlock()
		if !failed {
			t.Error("nothing was synced on the way")
		}
	})
	g.compare("after the destage")
	g.secondHasAll()
}

// A disk with little room gets nothing ahead: what is replaced before a round takes
// it would need room twice.
func TestNothingIsCarriedWhereSpaceIsScarce(t *testing.T) {
	files := newSimFiles()
	files.limit = 1 << 40
	g := newCarryRig(t, Options{Disks: []string{"/a"}, files: files, openMeta: newFakeMeta().open})
	files.mu.Lock()
	files.fake = files.limit - 4<<30
	files.mu.Unlock()
	g.write(500)
	if n := g.destageWith(func() {}); n != 0 {
		t.Errorf("%d blocks were carried", n)
	}
	g.compare("after the destage")
}

// takeBlocks takes n blocks, and addresses as it needs them.
func takeBlocks(s *space, n uint64) (runs []spaceRun) {
	for have := uint64(0); ; s.grow() {
		before := len(runs)
		runs = s.allocate(n-have, rowBlocks, runs)
		for _, r := range runs[before:] {
			have += r.n
		}
		if have == n {
			return runs
		}
	}
}

// overwrite replaces blocks of a full space at random, lap by lap, and tells the mean
// length of the rows that the new ones got in the second half.
func overwrite(t *testing.T, s *space, set, laps int) (row float64) {
	r := rand.New(rand.NewPCG(1, 1))
	at := make([]uint64, 0, set)
	for _, r := range takeBlocks(s, uint64(set)) {
		for b := r.at; b < r.at+r.n; b++ {
			at = append(at, b)
		}
	}
	rows, blocks := 0, 0
	for lap := range laps {
		var old []uint64
		for range set / 4 / copyBlocks {
			for _, run := range takeBlocks(s, copyBlocks) {
				if lap >= laps/2 {
					rows++
					blocks += int(run.n)
				}
				for b := run.at; b < run.at+run.n; b++ {
					i := r.IntN(set)
					old, at[i] = append(old, at[i]), b
				}
			}
		}
		if limit := s.bound() + uint64(set/4); s.nSlack > limit {
			t.Fatalf("lap %d: %d blocks of slack, at most %d", lap, s.nSlack, limit)
		}
		for _, b := range old {
			s.free(b, 1)
		}
	}
	if limit := s.nUsed + s.bound() + uint64(set/4) + 2*s.perFile; s.blocks() > limit {
		t.Errorf("%d addresses, at most %d", s.blocks(), limit)
	}
	return float64(blocks) / float64(rows)
}

// TestSlackIsLeftWhileThereIsRoom is named after destages that wrote single blocks to
// wherever one was free, at five times the cost of rows. While the file system has
// room there is up to as much slack as data, and its long rows are used.
func TestSlackIsLeftWhileThereIsRoom(t *testing.T) {
	const set = 40 * copyBlocks
	for _, c := range []struct {
		borrow         uint64
		atLeast, below float64
	}{
		{0, 1, 4},
		{set, 6, 256},
		{1 << 40, 6, 256},
	} {
		s := newSpace(1 << 14)
		s.mayBorrow(c.borrow)
		if row := overwrite(t, s, set, 60); row < c.atLeast || row > c.below {
			t.Errorf("%d blocks may be borrowed: rows of %.1f blocks, want %.0f to %.0f", c.borrow, row, c.atLeast, c.below)
		}
	}
}

// Borrowed slack is not idle while anything is written, and is given back after that.
func TestBorrowedSlackIsGivenBackWhenIdle(t *testing.T) {
	s := newSpace(1 << 16)
	s.mayBorrow(1 << 40)
	overwrite(t, s, 100*copyBlocks, 8)
	if n := s.takeIdle(); n != 0 {
		t.Errorf("%d blocks are idle that were free for no time", n)
	}
	give := func(runs []spaceRun) {
		for _, r := range runs {
			s.free(r.at, r.n)
		}
	}
	give(takeBlocks(s, 32*idleBlocks))
	if n, slack := s.takeIdle(), s.slackBlocks(); n > 0 && slack-n < s.bound() {
		t.Errorf("%d of %d blocks are idle while others are taken", n, slack)
	}
	excess := s.excess()
	if n := s.takeIdle(); n != excess || n == 0 {
		t.Errorf("%d blocks are idle, want all %d that are too many", n, excess)
	}
	give(takeBlocks(s, 40*copyBlocks)) // as large a disk is deleted,
	give(takeBlocks(s, 90*copyBlocks))
	s.takeIdle()
	give(takeBlocks(s, 32*idleBlocks)) // while others are written
	slack := s.slackBlocks()
	if n := s.takeIdle(); slack > s.bound() && (n == 0 || slack-n < s.bound()) {
		t.Errorf("%d of %d blocks are idle after a deletion, want some of those above %d", n, slack, s.bound())
	} else if slack <= s.bound() {
		t.Errorf("only %d blocks of slack", slack)
	}
	slack = s.slackBlocks()
	s.mayBorrow(0) // the file system gets full
	before := s.blocks()
	for range 20 {
		s.allocate(copyBlocks, 1, nil)
	}
	if left := s.slackBlocks(); left != slack-20*copyBlocks || s.blocks() != before {
		t.Errorf("where space is scarce slack is not taken first: %s", fmt.Sprint(slack, left, before, s.blocks()))
	}
}

// scatterFiles is the host's file system, whose files count what they read to several
// places, and if broken fill those with something else and say so.
type scatterFiles struct {
	hostFiles
	broken bool
	calls  *int
}

type scatteringFile struct {
	hostFile
	of scatterFiles
}

func (s scatterFiles) Open(name string) (file, error) {
	f, err := s.hostFiles.Open(name)
	if err != nil {
		return nil, err
	}
	return scatteringFile{f.(hostFile), s}, nil
}

func (f scatteringFile) scatterAt(pieces [][]byte, off int64) bool {
	*f.of.calls++
	if !f.of.broken {
		return f.hostFile.scatterAt(pieces, off)
	}
	for _, p := range pieces {
		copy(p, bytes.Repeat([]byte{0xee}, len(p)))
	}
	return false
}

// What is read from the log to where it goes is what was written, with others in between
// that go nowhere, and where that does not succeed.
func TestCarriedBlocksAreScattered(t *testing.T) {
	for _, broken := range []bool{false, true} {
		calls := 0
		g := newCarryRig(t, Options{Disks: []string{t.TempDir()}, files: scatterFiles{broken: broken, calls: &calls}, openMeta: newFakeMeta().open})
		g.write(1500)
		if n := g.destageWith(func() {}); n < 500 || calls == 0 {
			t.Errorf("%d blocks were carried with %d calls", n, calls)
		}
		g.compare("after a destage")
	}
}

// More than there is, and more pieces than the host takes, are not scattered.
func TestScatterTellsWhatItCannot(t *testing.T) {
	opened, err := hostFiles{}.Open(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	f := opened.(hostFile)
	if _, err := f.WriteAt([]byte("abcdef"), 0); err != nil {
		t.Fatal(err)
	}
	a, b := make([]byte, 2), make([]byte, 3)
	if !f.scatterAt([][]byte{a, b}, 1) || string(a)+string(b) != "bcdef" {
		t.Errorf("%q and %q are read", a, b)
	}
	if f.scatterAt([][]byte{a, b}, 2) || f.scatterAt(make([][]byte, maxPieces+1), 0) {
		t.Error("what is not there is read")
	}
}
