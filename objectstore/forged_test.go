package objectstore

import (
	"bytes"
	"testing"

	"sheepdog"
	"sheepdog/objectstore/storetest"
)

// Bug: what a guest wrote was taken for a record of the log when a store was opened after a
// crash, where an earlier lap of the log had left it behind the end of the present one. It
// said that much more had been durable, or that another version wrote it, and the store could
// not be opened. A disk on which somebody keeps the log of another sheep will do.
func TestDataAreNotTakenForRecords(t *testing.T) {
	forge := func(version uint16) func(b []byte, gen generation) {
		return func(b []byte, gen generation) {
			e := entry{kind: entryZero, key: objectKey{sheepdog.ObjectID{Family: 1}, 1}, count: 8, stamp: sheepdog.Stamp{Token: 9}}
			h := recordHeader{gen: gen, first: 1, durable: 1 << 40, entries: 1}
			head := e.append(append([]byte{}, zeroBlock[:recordFixed]...))
			finishRecord(head, &h, newLogForm(version, 77))
			copy(b, head)
		}
	}
	for name, forge := range map[string]func(b []byte, gen generation){
		"a record": forge(1), "one of another store": forge(logVersion), "one of another version": forge(99),
	} {
		t.Run(name, func(t *testing.T) {
			g := newCrashRig(t, 11)
			defer func() { g.abandon() }()
			seq := uint64(0)
			for range 20 * g.d.journal.segLen { // some laps
				seq++
				data := make([]byte, blockSize)
				forge(data, g.d.journal.gen+generation(2+seq%4))
				mustWrite(t, g.d, dataOp(0, 1, sheepdog.BlockNo(seq%64), data, seq))
			}
			for range 20 { // of each segment another part is left
				for range 7 {
					seq++
					mustWrite(t, g.d, dataOp(0, 1, sheepdog.BlockNo(seq%64), storetest.Fill(seq, 1), seq))
				}
				last := seq
				g.abandon()
				g.open()
				got, err := readBlocks(t, g.d, 0, 1, sheepdog.BlockNo(last%64), 1)
				if err != nil || !bytes.Equal(got, storetest.Fill(last, 1)) {
					t.Fatalf("the last write: %v", err)
				}
			}
		})
	}
}

// A log that an earlier release has left is replayed, and goes on in the present form.
func TestLogOfVersion1IsReplayed(t *testing.T) {
	g := newCrashRig(t, 12)
	defer func() { g.abandon() }()
	g.d.journal.form = newLogForm(1, g.d.store)
	fill := func(no int) []byte { return storetest.Fill(uint64(no)+1, 1) }
	blocks := int(g.d.journal.segLen) // in more than one segment
	for i := range blocks {
		mustWrite(t, g.d, dataOp(0, 1, sheepdog.BlockNo(i), fill(i), uint64(i+1)))
	}
	for round := range 2 {
		g.abandon()
		g.open()
		for i := range blocks + round {
			if got, err := readBlocks(t, g.d, 0, 1, sheepdog.BlockNo(i), 1); err != nil || !bytes.Equal(got, fill(i)) {
				t.Fatalf("block %d after %d more: %v", i, round, err)
			}
		}
		mustWrite(t, g.d, dataOp(0, 1, sheepdog.BlockNo(blocks+round), fill(blocks+round), uint64(blocks+round+1)))
		if g.d.journal.form.version != logVersion {
			t.Error("the log goes on in the old form")
		}
	}
}
