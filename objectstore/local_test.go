package objectstore

import (
	"bytes"
	"testing"
	"time"

	"sheepdog"
	"sheepdog/objectstore/storetest"
)

func TestLocalIsForgotten(t *testing.T) {
	var l local
	for f := range sheepdog.FamilyID(100) {
		if l.has(f) {
			t.Fatalf("family %d is local, and was never used", f)
		}
		l.note(f)
	}
	l.forget()
	l.note(7)
	for f := range sheepdog.FamilyID(100) {
		if !l.has(f) {
			t.Fatalf("family %d is forgotten too soon", f)
		}
	}
	l.forget()
	for f := range sheepdog.FamilyID(100) {
		if l.has(f) != (f == 7) {
			t.Fatalf("family %d is local: %v", f, l.has(f))
		}
	}
}

// A destage takes none of the host's memory for blocks whose client another node serves,
// unless they are read here; they are the same in any case.
func TestDestageOfWhatIsServedElsewhere(t *testing.T) {
	taken := 0
	d := openDisk(t, Options{Meta: t.TempDir(), openMeta: newFakeMeta().open, DestageEvery: time.Hour,
		files: directFiles{part: 1 << 30, taken: &taken}}).d
	const blocks = 3 * copyBlocks
	seq := uint64(0)
	destage := func(remote bool) (direct bool) {
		t.Helper()
		for i := range sheepdog.BlockNo(blocks) {
			seq++
			op := dataOp(0, 1, i, storetest.Fill(seq, 1), seq)
			op.Remote = remote
			mustWrite(t, d, op)
		}
		before := taken
		if err := d.destage(true); err != nil {
			t.Fatal(err)
		}
		return taken > before
	}
	read := func() {
		t.Helper()
		for i := range sheepdog.BlockNo(blocks) {
			got, err := readBlocks(t, d, 0, 1, i, 1)
			if want := storetest.Fill(seq-blocks+1+uint64(i), 1); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("block %d has other bytes than were written (%v)", i, err)
			}
		}
	}
	if direct := destage(true); !direct {
		t.Error("the host's memory was taken for what another node serves")
	}
	read()
	if direct := destage(true); direct {
		t.Error("what is read here did not stay in the host's memory")
	}
	read()
	d.local.forget()
	d.local.forget()
	if direct := destage(false); direct {
		t.Error("what this node serves did not stay in the host's memory")
	}
	read()
}
