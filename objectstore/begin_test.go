package objectstore

import (
	"bytes"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"sheepdog"
	"sheepdog/objectstore/storetest"
)

// TestWritersDoNotWaitForASegmentsHeader is named after a sync that all writers of a
// node waited for whenever a segment of the log was full: 10 ms beside a destage, and
// up to 40.
func TestWritersDoNotWaitForASegmentsHeader(t *testing.T) {
	g := newCrashRig(t, 1)
	defer g.abandon()
	var syncs atomic.Int32
	fault(g.files, func(op, name string) error {
		if op == "sync" && strings.Contains(name, "log.") {
			syncs.Add(1)
		}
		return nil
	})
	seq := uint64(0)
	write := func() {
		seq++
		mustWrite(t, g.d, dataOp(0, 1, sheepdog.BlockNo(seq), storetest.Fill(seq, 1), seq))
	}
	// begin is the number of syncs of a write that begins a segment. Destages in the
	// background, which sync the log and reserve generations, wait for it.
	begin := func(reserved bool) int32 {
		if err := g.d.destage(true); err != nil {
			t.Fatal(err)
		}
		g.d.journal.seal()
		g.d.journal.makeAhead()
		g.d.destageMu.Lock()
		defer g.d.destageMu.Unlock()
		if !reserved {
			g.d.journal.reserved.Store(0)
		}
		before := syncs.Load()
		write()
		return syncs.Load() - before
	}
	write()
	for range 40 { // several laps of the log
		if n := begin(true); n != 0 {
			t.Fatalf("write %d began generation %d with %d syncs", seq, g.d.journal.gen, n)
		}
	}
	// Without a reservation every header is durable before it is used.
	if n := begin(false); n != 1 {
		t.Errorf("%d syncs begin a generation that is not reserved, want 1", n)
	}
}

// TestWritersDoNotWaitForNewSegmentsToBeSynced is named after 28 to 41 ms that the first
// writes into a new store took, and up to 120 ms later ones on a busy disk: a segment
// was not used before its zeros were on the disk.
func TestWritersDoNotWaitForNewSegmentsToBeSynced(t *testing.T) {
	g := newCrashRig(t, 3)
	defer func() { g.abandon() }()
	var syncs atomic.Int32
	fault(g.files, func(op, name string) error {
		if op == "syncdir" || op == "sync" && strings.Contains(name, "log.") {
			syncs.Add(1)
		}
		return nil
	})
	j := &g.d.journal
	// write writes a block into a new segment, which there are no others for.
	write := func(no sheepdog.BlockNo) (fill []byte) {
		j.seal()
		fill = storetest.Fill(uint64(no), 1)
		mustWrite(t, g.d, dataOp(0, 1, no, fill, uint64(no)))
		return fill
	}
	write(1)
	made, before := j.made, syncs.Load()
	fill := write(2)
	if j.made == made {
		t.Fatal("no segment was made")
	}
	if n := syncs.Load() - before; n != 0 {
		t.Errorf("%d syncs before a new segment is used", n)
	}
	if err := g.d.Flush(); err != nil {
		t.Fatal(err)
	}
	before = syncs.Load()
	g.d.journal.makeAhead()
	if n := syncs.Load() - before; n == 0 {
		t.Error("segments are made ahead, and left to flushes to be synced")
	}
	g.abandon()
	g.files.loseUnsynced()
	g.open()
	if got, err := readBlocks(t, g.d, 0, 1, 2, 1); err != nil || !bytes.Equal(got, fill) {
		t.Errorf("what was flushed is gone with the power: %v", err)
	}
}

// A segment that cannot be brought to the disk is given up while nothing is in it, and
// the store goes on. What is in use may be lost from the host's memory without anybody
// noticing later: then the store is out of service.
func TestUnusedSegmentThatCannotBeSyncedIsGivenUp(t *testing.T) {
	for name, test := range map[string]struct {
		no   int
		used bool
	}{"unused": {2, false}, "used": {0, true}} {
		t.Run(name, func(t *testing.T) {
			g := newCrashRig(t, 5)
			defer func() { g.abandon() }()
			hit := false
			fault(g.files, func(op, file string) error {
				if !hit && op == "sync" && file == segmentName(g.opts.Meta, test.no) {
					hit = true
					return unix.EIO
				}
				return nil
			})
			mustWrite(t, g.d, dataOp(0, 1, 1, storetest.Fill(1, 1), 1))
			j := &g.d.journal
			j.makeAhead()
			if err := j.failed(); !hit || test.used != (err != nil) {
				t.Fatalf("hit: %v; the store after that: %v", hit, err)
			}
			if test.used {
				return
			}
			fill := storetest.Fill(2, 1)
			for seq := range uint64(2 * j.maxSegs) { // two laps of the log
				j.seal()
				mustWrite(t, g.d, dataOp(0, 1, sheepdog.BlockNo(seq), fill, seq+2))
			}
			if err := g.d.Flush(); err != nil {
				t.Fatal(err)
			}
			g.abandon()
			g.files.loseUnsynced()
			g.open()
			for seq := range 2 * j.maxSegs {
				if got, err := readBlocks(t, g.d, 0, 1, sheepdog.BlockNo(seq), 1); err != nil || !bytes.Equal(got, fill) {
					t.Errorf("what was flushed is gone with the power: %v", err)
				}
			}
		})
	}
}

// tellsOnce is a file whose data the disk did not take, which the host tells once.
type tellsOnce struct {
	file
	told bool
}

func (f *tellsOnce) Sync() error {
	if f.told {
		return nil
	}
	f.told = true
	return unix.EIO
}

// Bug: who flushed a segment just after its sync in the background had failed was told
// that its data were durable.
func TestFailedSyncOfASegmentIsToldToAll(t *testing.T) {
	s := segment{f: &tellsOnce{}, named: func() error { return nil }}
	for range 2 {
		if err := s.sync(); !errors.Is(err, unix.EIO) {
			t.Errorf("sync: %v, want %v", err, unix.EIO)
		}
	}
}

// Bug: where a writer had made two segments, or made the second one just then, a failed
// sync of the first took the store out of service though nothing was in either.
func TestFirstOfUnusedSegmentsIsGivenUp(t *testing.T) {
	for name, during := range map[string]bool{"two are made": false, "the second is being made": true} {
		t.Run(name, func(t *testing.T) {
			g := newCrashRig(t, 5)
			defer func() { g.abandon() }()
			j := &g.d.journal
			hit, ahead := false, false
			fault(g.files, func(op, file string) error {
				switch {
				case during && !ahead && op == "write" && file == segmentName(g.opts.Meta, 1):
					ahead = true
					g.files.mu.Unlock() // which whoever makes the segment has
					j.makeAhead()
					g.files.mu.Lock()
				case !hit && op == "sync" && file == segmentName(g.opts.Meta, 0):
					hit = true
					return unix.EIO
				}
				return nil
			})
			if !during {
				j.mu.Lock()
				if err := errors.Join(j.makeSegment(), j.makeSegment()); err != nil {
					t.Fatal(err)
				}
				j.mu.Unlock()
				j.makeAhead()
			}
			mustWrite(t, g.d, dataOp(0, 1, 1, storetest.Fill(1, 1), 1))
			if err := g.d.Flush(); !hit || err != nil {
				t.Fatalf("hit: %v; flush: %v", hit, err)
			}
			if j.made != 2 || len(j.free) != 1 {
				t.Errorf("%d segments, %d free; want 2 and 1", j.made, len(j.free))
			}
			g.abandon()
			g.files.loseUnsynced()
			g.open()
			if got, err := readBlocks(t, g.d, 0, 1, 1, 1); err != nil || !bytes.Equal(got, storetest.Fill(1, 1)) {
				t.Errorf("what was flushed is gone with the power: %v", err)
			}
		})
	}
}

// A process that dies while it makes a segment leaves its name to the process after it,
// for which that has to be durable before anything that it flushes there.
func TestSegmentsOfADeadProcessGetDurableNames(t *testing.T) {
	g := newCrashRig(t, 4)
	defer func() { g.abandon() }()
	dead := false
	fault(g.files, func(op, name string) error {
		if dead = dead || op == "syncdir" && name == g.opts.Meta; dead {
			return errDead
		}
		return nil
	})
	mustWrite(t, g.d, dataOp(0, 1, 1, storetest.Fill(1, 1), 1))
	if err := g.d.Flush(); err == nil {
		t.Fatal("flushed to a segment without a durable name")
	}
	g.abandon()
	g.open()
	fill := storetest.Fill(2, 1)
	mustWrite(t, g.d, dataOp(0, 1, 1, fill, 2))
	if err := g.d.Flush(); err != nil {
		t.Fatal(err)
	}
	g.abandon()
	g.files.loseUnsynced()
	g.open()
	if got, err := readBlocks(t, g.d, 0, 1, 1, 1); err != nil || !bytes.Equal(got, fill) {
		t.Errorf("what was flushed is gone with the power: %v", err)
	}
}

// No generation is given out again after a loss of power that took the headers of
// all segments that had not been flushed, and what had been flushed is there.
func TestGenerationsAfterAPowerLoss(t *testing.T) {
	g := newCrashRig(t, 2)
	defer func() { g.abandon() }()
	flushed := storetest.Fill(1, 1)
	used := generation(0)
	for life := range uint64(4) {
		mustWrite(t, g.d, dataOp(0, 1, 0, flushed, life+1))
		if err := g.d.Flush(); err != nil {
			t.Fatal(err)
		}
		if g.d.journal.gen <= used {
			t.Fatalf("life %d begins with generation %d, the one before had %d", life, g.d.journal.gen, used)
		}
		for n := range sheepdog.BlockNo(6) {
			g.d.journal.seal()
			mustWrite(t, g.d, dataOp(0, 1, 10+n, storetest.Fill(100+life, 1), life+1))
			if life%2 == 1 && n == 3 {
				if err := g.d.destage(false); err != nil {
					t.Fatal(err)
				}
			}
		}
		used = g.d.journal.gen
		g.abandon()
		g.files.loseUnsynced()
		g.open()
		if got, err := readBlocks(t, g.d, 0, 1, 0, 1); err != nil || !bytes.Equal(got, flushed) {
			t.Fatalf("life %d: what was flushed: %v", life, err)
		}
	}
}

// loseUnsynced is a loss of power that takes all that was not synced.
func (s *simFiles) loseUnsynced() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, f := range s.files {
		if !f.linked {
			delete(s.files, name)
			continue
		}
		f.size = 0
		clear(f.blocks)
		for no, b := range f.durable {
			f.blocks[no] = b
			f.size = max(f.size, (no+1)*blockSize)
		}
	}
}

// Checkpoints of versions 2 and 3 are read, but none of a later release.
func TestCheckpointOfVersion2(t *testing.T) {
	want := checkpoint{1, 2, 3, 4}
	b := want.encode()
	for version, ok := range map[byte]bool{0: false, 2: true, 3: true, 4: true, 5: false} {
		b[0] = version
		if got, err := decodeCheckpoint(b); ok != (err == nil) || ok && got != want {
			t.Errorf("version %d: %+v, %v", version, got, err)
		}
	}
}

// A checkpoint of version 1 is read: it reserved nothing.
func TestCheckpointOfVersion1(t *testing.T) {
	want := checkpoint{firstGen: 7, lastLSN: 9}
	b := want.encode()[:checkpointLen1]
	b[0] = 1
	if got, err := decodeCheckpoint(b); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range [][]byte{b[:16], append(b, 0), want.encode()[:checkpointLen1]} {
		if _, err := decodeCheckpoint(bad); err == nil {
			t.Errorf("a checkpoint of %d bytes of version %d is taken", len(bad), bad[0])
		}
	}
}
