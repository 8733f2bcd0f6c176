package objectstore

import (
	"bytes"
	"os"
	"testing"

	"sheepdog"
)

// partFiles is the host's file system, which takes at most a part of what is written
// from several places in memory.
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

func (f partFile) gatherAt(pieces [][]byte, off int64) int {
	p := bytes.Join(pieces, nil)
	n, err := f.WriteAt(p[:min(len(p), f.part)], off)
	if err != nil {
		return 0
	}
	return n
}

// wholeFiles is the host's file system without gatherAt.
type wholeFiles struct{ hostFiles }

func (w wholeFiles) Open(name string) (file, error) {
	f, err := w.hostFiles.Open(name)
	return struct{ file }{f}, err
}

// A record that is gathered from where its data are leaves the same bytes in the log as
// one that is written as a whole, also where only a part of it is taken.
func TestGatheredAppendIsAppend(t *testing.T) {
	logOf := func(files fileSystem) []byte {
		u := openDisk(t, Options{Meta: t.TempDir(), LogBytes: 1 << 20, openMeta: newFakeMeta().open, files: files})
		u.d.journal.form = newLogForm(logVersion, 77) // as if all were one store
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
		return b[blockSize:] // its header names the store that it is
	}
	want := logOf(wholeFiles{})
	if bytes.Equal(want, make([]byte, len(want))) {
		t.Fatal("the first segment is empty")
	}
	if !bytes.Equal(logOf(nil), want) {
		t.Error("the log is another one where records are gathered")
	}
	for _, part := range []int{0, 1, 100, 5000} {
		if !bytes.Equal(logOf(partFiles{hostFiles{}, part}), want) {
			t.Errorf("the log is another one where %d bytes of each record are gathered", part)
		}
	}
}
