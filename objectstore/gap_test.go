package objectstore

import (
	"errors"
	"testing"

	"sheepdog"
	"sheepdog/objectstore/storetest"
)

// Bug: of a log that lacked a file only those before it were looked at: what had been flushed
// to it and to later ones was gone without a word.
func TestLogThatLacksAFileIsRefused(t *testing.T) {
	g := newCrashRig(t, 21)
	j := &g.d.journal
	seq := uint64(0)
	write := func() {
		seq++
		mustWrite(t, g.d, dataOp(0, 1, sheepdog.BlockNo(seq), storetest.Fill(seq, 1), seq))
	}
	for j.segments() < 2 {
		write()
	}
	if err := g.d.Flush(); err != nil {
		t.Fatal(err)
	}
	write() // its record knows of the flush
	g.abandon()
	if err := g.files.Remove(segmentName(g.opts.Meta, 0)); err != nil {
		t.Fatal(err)
	}
	d, err := Open(g.opts)
	if !errors.Is(err, sheepdog.ErrChecksum) {
		t.Errorf("the store is opened without a file of its log: %v", err)
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}
