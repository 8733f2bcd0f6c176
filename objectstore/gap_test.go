package objectstore

import (
	"errors"
	"os"
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

// Bug: a store that lost its log before the first destage, which was all that it had, was opened
// as an empty one.
func TestLogThatIsGoneBeforeTheFirstDestageIsRefused(t *testing.T) {
	for name, lost := range map[string]int{"all of its files": 3, "those that were used": 1} {
		t.Run(name, func(t *testing.T) {
			g := newCrashRig(t, 22)
			mustWrite(t, g.d, dataOp(0, 1, 0, storetest.Fill(1, 1), 1))
			g.d.journal.makeAhead()
			if err := g.d.Flush(); err != nil {
				t.Fatal(err)
			}
			g.abandon()
			if g.d.checkpoint.lastLSN > 0 || g.d.journal.made < 2 {
				t.Fatalf("LSN %d is destaged, there are %d files", g.d.checkpoint.lastLSN, g.d.journal.made)
			}
			for no := range lost {
				if err := g.files.Remove(segmentName(g.opts.Meta, no)); err != nil && !errors.Is(err, os.ErrNotExist) {
					t.Fatal(err)
				}
			}
			d, err := Open(g.opts)
			if !errors.Is(err, errEmptied) {
				t.Errorf("the store is opened without its log: %v", err)
				if err := d.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
