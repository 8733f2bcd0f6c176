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

// A destage takes none of the host's memory for blocks whose client another node serves;
// they are the same in any case. What recovery and checks read and write, who do not say
// that they serve anybody, changes nothing in that.
func TestDestageOfWhatIsServedElsewhere(t *testing.T) {
	taken := 0
	d := openDisk(t, Options{Meta: t.TempDir(), openMeta: newFakeMeta().open, DestageEvery: time.Hour,
		files: directFiles{part: 1 << 30, taken: &taken}}).d
	const blocks = 3 * copyBlocks
	seq := uint64(0)
	destage := func() (direct bool) {
		t.Helper()
		for i := range sheepdog.BlockNo(blocks) {
			seq++
			mustWrite(t, d, dataOp(0, 1, i, storetest.Fill(seq, 1), seq))
		}
		before := taken
		if err := d.destage(true); err != nil {
			t.Fatal(err)
		}
		direct = taken > before
		for i := range sheepdog.BlockNo(blocks) {
			got, err := readBlocks(t, d, 0, 1, i, 1)
			if want := storetest.Fill(seq-blocks+1+uint64(i), 1); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("block %d has other bytes than were written (%v)", i, err)
			}
		}
		return direct
	}
	for range 2 {
		if !destage() {
			t.Error("the host's memory was taken for what another node serves")
		}
	}
	d.Serving(1)
	if destage() {
		t.Error("what this node serves did not stay in the host's memory")
	}
	d.local.forget()
	d.local.forget()
	if !destage() {
		t.Error("the host's memory was taken for what this node served long ago")
	}
}
