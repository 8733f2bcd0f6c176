package objectstore

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"sheepdog"
	"sheepdog/internal/rawio"
)

// partFiles is the host's file system with a short way that takes only a part of
// each write, or nothing (part 0), and without cheap zeros.
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

func (p partFiles) WriteZeros(string, int64) error { return errors.ErrUnsupported }

func (f partFile) tryWriteAt(_ *rawio.Writer, p []byte, off int64) int {
	n, err := f.WriteAt(p[:min(len(p), f.part)], off)
	if err != nil {
		return 0
	}
	return n
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
