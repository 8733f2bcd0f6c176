package objectstore

import (
	"bytes"
	"os"
	"testing"

	"sheepdog"
	"sheepdog/internal/rawio"
)

// partFiles is the host's file system with a short way that takes only a part of
// each write, or nothing (part 0).
type partFiles struct {
	hostFiles
	part int
}

type partFile struct {
	hostFile
	part int
}

func (p partFiles) Open(name string) (file, error) {
	f, err := p.hostFiles.Open(name)
	if err != nil {
		return nil, err
	}
	return partFile{f.(hostFile), p.part}, nil
}

func (f partFile) tryWriteAt(_ *rawio.Writer, p []byte, off int64) int {
	n, err := f.WriteAt(p[:min(len(p), f.part)], off)
	if err != nil {
		return 0
	}
	return n
}

func (f partFile) tryGatherAt(w *rawio.Writer, pieces [][]byte, off int64) int {
	return f.tryWriteAt(w, bytes.Join(pieces, nil), off)
}

// The short way into the log leaves the same bytes as the other, also where it
// takes only a part.
func TestQuickAppendIsAppend(t *testing.T) {
	logOf := func(files fileSystem) []byte {
		u := openDisk(t, Options{Meta: t.TempDir(), LogBytes: 1 << 20, openMeta: newFakeMeta().open, files: files})
		for seq := range uint64(40) {
			data := bytes.Repeat([]byte{byte(seq)}, int(1+seq%3)*blockSize)
			mustWrite(t, u.d, dataOp(0, 1, sheepdog.BlockNo(seq*3), data, seq+1))
		}
		if err := u.d.Flush(); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(segmentName(u.opts.Meta, 0))
		if err != nil {
			t.Fatal(err)
		}
		return b[blockSize:] // its header names the store
	}
	want := logOf(nil)
	if bytes.Equal(want, make([]byte, len(want))) {
		t.Fatal("the first segment is empty")
	}
	for _, part := range []int{0, 1, 100, 5000, 1 << 20} {
		if !bytes.Equal(logOf(partFiles{hostFiles{}, part}), want) {
			t.Errorf("the log is another one where %d bytes go the short way", part)
		}
	}
}

// A destage moves the same bytes by the short way as by the other, in more parts
// than one, also where the short way takes only a part.
func TestQuickDestageIsDestage(t *testing.T) {
	const blocks = 2*copyBlocks + 10
	extentsOf := func(files fileSystem) []byte {
		u := openDisk(t, Options{Meta: t.TempDir(), openMeta: newFakeMeta().open, files: files})
		for i := range uint64(blocks) {
			no := i * 7 % blocks // not in the order of the object
			mustWrite(t, u.d, dataOp(0, 1, sheepdog.BlockNo(no), bytes.Repeat([]byte{byte(no), byte(no >> 8)}, blockSize/2), i+1))
		}
		if err := u.d.destage(true); err != nil {
			t.Fatal(err)
		}
		for no := range blocks { // from the extents now
			got, err := readBlocks(t, u.d, 0, 1, sheepdog.BlockNo(no), 1)
			if err != nil || !bytes.Equal(got, bytes.Repeat([]byte{byte(no), byte(no >> 8)}, blockSize/2)) {
				t.Fatalf("block %d has other bytes than were written (%v)", no, err)
			}
		}
		v := u.d.volumes.all()[0]
		b, err := os.ReadFile(v.fileName(0))
		if err != nil {
			t.Fatal(err)
		}
		return b[blockSize:] // its header names the store
	}
	want := extentsOf(nil)
	if len(want) < blocks*blockSize {
		t.Fatalf("the extents have %d bytes", len(want))
	}
	for _, part := range []int{0, 1, 5000, 1 << 20} {
		if !bytes.Equal(extentsOf(partFiles{hostFiles{}, part}), want) {
			t.Errorf("the extents are others where %d bytes go the short way", part)
		}
	}
}
