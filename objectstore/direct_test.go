package objectstore

import (
	"bytes"
	"os"
	"sync"
	"testing"

	"sheepdog"
	"sheepdog/objectstore/storetest"
)

// directFiles is the host's file system with direct writes that take only a part of
// what they get, or nothing. It counts what went that way.
type directFiles struct {
	hostFiles
	part  int
	taken *int
}

type partlyDirectFile struct {
	hostFile
	of directFiles
}

func (d directFiles) Open(name string) (file, error) {
	f, err := d.hostFiles.Open(name)
	if err != nil {
		return nil, err
	}
	return partlyDirectFile{f.(hostFile), d}, nil
}

func (f partlyDirectFile) writeDirect(p []byte, off int64) int {
	n := f.hostFile.writeDirect(p[:min(len(p), f.of.part)], off)
	*f.of.taken += n
	return n
}

// unread is an op whose data begin lead bytes after a multiple of a block in memory.
func unread(start sheepdog.BlockNo, blocks, lead int, seq uint64) sheepdog.Op {
	room := make([]byte, blocks*blockSize+blockSize)
	data := room[lead:][:blocks*blockSize]
	copy(data, storetest.Fill(seq, blocks))
	op := dataOp(0, 1, start, data, seq)
	op.Unread = true
	return op
}

// Data that nobody reads soon get the same places and bytes past the host's memory as
// through it: over places that are in its memory, beside others that are being written,
// where only a part goes that way, and where the file system, or where the data are,
// does not let them; with a thread that waits for the disk, and without one.
func TestDirectWriteIsWrite(t *testing.T) {
	const large = directLeast/blockSize + 3
	extentsOf := func(part, lead int, queue *directQueue) (extents []byte, taken int) {
		files := directFiles{hostFiles: hostFiles{queue}, part: part, taken: &taken}
		u := openDisk(t, Options{Meta: t.TempDir(), openMeta: newFakeMeta().open, files: files})
		seq := uint64(0)
		for round := range sheepdog.BlockNo(3) {
			for i := range sheepdog.BlockNo(4) {
				seq += 2
				mustWrite(t, u.d, dataOp(0, 2, i*20, storetest.Fill(seq, LargeWrite/blockSize), seq))
				mustWrite(t, u.d, unread(i*large, large, lead, seq+1))
				got, err := readBlocks(t, u.d, 0, 1, i*large, large) // now it is in memory
				if err != nil || !bytes.Equal(got, storetest.Fill(seq+1, large)) {
					t.Fatalf("round %d, write %d: other bytes than were written (%v)", round, i, err)
				}
			}
			if err := u.d.destage(true); err != nil { // places become free
				t.Fatal(err)
			}
		}
		if err := u.d.Flush(); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(u.d.volumes.all()[0].fileName(0))
		if err != nil {
			t.Fatal(err)
		}
		return b[blockSize:], taken // its header names the store
	}
	want, taken := extentsOf(0, 0, nil)
	if taken != 0 || len(want) < 8*large*blockSize {
		t.Fatalf("%d bytes went past the host's memory, and the extents have %d", taken, len(want))
	}
	for _, c := range []struct{ part, lead int }{{1 << 30, 0}, {64 * blockSize, 0}, {5000, 0}, {1 << 30, 512}} {
		for _, queue := range []*directQueue{nil, new(directQueue)} {
			got, taken := extentsOf(c.part, c.lead, queue)
			if !bytes.Equal(got, want) {
				t.Errorf("other extents where %d bytes go past the host's memory and data begin at %d", c.part, c.lead)
			}
			t.Logf("part %d, data at %d, queue %v: %d bytes went past the host's memory", c.part, c.lead, queue != nil, taken)
			if c.lead != 0 && taken != 0 {
				t.Errorf("%d bytes went past the host's memory from where they cannot", taken)
			}
		}
	}
}

// More writes at a time than may be on their way past the host's memory: the others go
// through it, and all of them are there.
func TestManyDirectWrites(t *testing.T) {
	d := openDisk(t, Options{openMeta: newFakeMeta().open}).d
	const large, writers = directLeast / blockSize, 3 * directDepth
	var all sync.WaitGroup
	for w := range sheepdog.Index(writers) {
		all.Go(func() {
			for seq := range uint64(4) {
				op := unread(0, large, 0, seq+1)
				op.Object.Index = w
				if err := writeOne(d, op); err != nil {
					t.Errorf("writer %d: %v", w, err)
				}
			}
		})
	}
	all.Wait()
	if err := d.Flush(); err != nil {
		t.Fatal(err)
	}
	for w := range sheepdog.Index(writers) {
		got, err := readBlocks(t, d, w, 1, 0, large)
		if err != nil || !bytes.Equal(got, storetest.Fill(4, large)) {
			t.Errorf("writer %d: other bytes than were written last (%v)", w, err)
		}
	}
}

// Only long writes of what is not served here go past the host's memory, and only where
// no thread has to wait for them.
func TestWhatGoesDirectly(t *testing.T) {
	d := openDisk(t, Options{openMeta: newFakeMeta().open}).d
	if d.opts.files.(waitingFiles).waits() != d.Directly(1, waitLeast) {
		t.Error("a long write of a family that is served elsewhere goes by the host's memory")
	}
	if d.Directly(1, waitLeast-blockSize) {
		t.Error("a short write waits for the disk")
	}
	d.Serving(1)
	if d.Directly(1, waitLeast) {
		t.Error("what is served here goes past the host's memory")
	}
	threads := openDisk(t, Options{openMeta: newFakeMeta().open, files: hostFiles{}}).d
	if threads.Directly(1, waitLeast) {
		t.Error("a thread waits for the disk")
	}
}

// What the file system does not take past the host's memory once is not tried again
// and again, and closing a file ends it.
func TestDirectTwin(t *testing.T) {
	name := t.TempDir() + "/f"
	f, err := hostFiles{}.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	twin := f.(hostFile).twin
	data := make([]byte, waitLeast+blockSize)
	if n := twin.write(name, data[1:][:waitLeast], 0); n == 0 && !twin.refused {
		t.Error("a file that takes nothing is asked again")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if n := twin.write(name, data[:waitLeast], 0); n != 0 || twin.f != nil {
		t.Errorf("%d bytes were taken after the file was closed", n)
	}
}
