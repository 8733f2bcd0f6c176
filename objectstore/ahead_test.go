package objectstore

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"sheepdog"
)

// Bug: the writer that filled a segment of the log made the next one, with zeros
// and a sync, while all others waited: 100 ms and more for each 8 MiB, until the
// log had its full length.
func TestSegmentsAreMadeAhead(t *testing.T) {
	u := openDisk(t, Options{LogBytes: 4 << 20, openMeta: newFakeMeta().open})
	j := &u.d.journal
	spare := func() int {
		j.mu.RLock()
		defer j.mu.RUnlock()
		return len(j.free)
	}
	data := bytes.Repeat([]byte{1}, blockSize)
	seq := uint64(0)
	write := func() {
		seq++
		mustWrite(t, u.d, dataOp(0, 1, sheepdog.BlockNo(seq%100), data, seq))
	}
	write()
	if n := spare(); n != 1 {
		t.Fatalf("%d segments to spare after the first write, want 1", n)
	}
	for j.at <= j.segLen/segmentAhead {
		write()
	}
	for deadline := time.Now().Add(10 * time.Second); spare() < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no segment is made while the active one fills up")
		}
	}
	for range 3000 { // several laps of the log
		write()
	}
	if j.made > j.maxSegs {
		t.Errorf("%d segments, at most %d may be", j.made, j.maxSegs)
	}
	u.Reopen(t)
	got, err := readBlocks(t, u.d, 0, 1, sheepdog.BlockNo(seq%100), 1)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("after opening again: %v", err)
	}
}

// What is wanted ready of the log is made without a write, once, and brought to the disk.
func TestLogIsMadeEarly(t *testing.T) {
	const segment, ready = 256 << 10, 1 << 20
	u := openDisk(t, Options{LogBytes: 16 * segment, LogReadyBytes: ready, openMeta: newFakeMeta().open})
	state := func() (made, free, raw int) {
		j := &u.d.journal
		j.mu.RLock()
		defer j.mu.RUnlock()
		return j.made, len(j.free), len(j.raw)
	}
	await := func() {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			made, free, raw := state()
			if made == ready/segment && free == made && raw == 0 {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("of %d segments %d are made, %d free, %d not at the disk", ready/segment, made, free, raw)
			}
		}
	}
	await()
	data := bytes.Repeat([]byte{1}, blockSize)
	mustWrite(t, u.d, dataOp(0, 1, 1, data, 1))
	if made, free, _ := state(); made != ready/segment || free != made-1 {
		t.Errorf("after the first write %d segments are made and %d free", made, free)
	}
	u.Reopen(t)
	if u.d.journal.makeEarly(ready) {
		t.Error("a store that is opened again makes more")
	}
	if got, err := readBlocks(t, u.d, 0, 1, 1, 1); err != nil || !bytes.Equal(got, data) {
		t.Errorf("after opening again: %v", err)
	}
}

// littleSpace is the host's file system with less to spare.
type littleSpace struct {
	hostFiles
	free uint64
}

func (l littleSpace) Space(string) (total, free uint64, err error) { return 1 << 40, l.free, nil }

// A log that nobody has written to takes nothing where there is little.
func TestLogIsNotMadeEarlyOfLittleSpace(t *testing.T) {
	const ready = 1 << 20
	u := openDisk(t, Options{LogBytes: 4 << 20, openMeta: newFakeMeta().open})
	j := &u.d.journal
	j.fs = littleSpace{free: earlyPart*ready - 1}
	if j.makeEarly(ready) || j.made > 0 {
		t.Errorf("%d segments are made", j.made)
	}
	j.fs = littleSpace{free: earlyPart * ready}
	if !j.makeEarly(ready) || j.made != 1 {
		t.Errorf("%d segments are made, want 1", j.made)
	}
}

// Bug: a disk that took no segment had the same one made again and again.
func TestSegmentThatIsGivenUpIsNotMadeAgainAtOnce(t *testing.T) {
	g := newCrashRig(t, 5)
	defer func() { g.abandon() }()
	fault(g.files, func(op, name string) error {
		if op == "sync" && strings.Contains(name, "log.") {
			return errors.New("no")
		}
		return nil
	})
	j := &g.d.journal
	if before := j.made; j.makeWhere(func() bool { return true }) || j.made != before {
		t.Errorf("%d segments, %d before: it is said that one was made", j.made, before)
	}
}
