package objectstore

import (
	"bytes"
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
