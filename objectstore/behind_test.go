package objectstore

import (
	"bytes"
	"testing"
	"time"

	"sheepdog"
)

// eagerFiles is the host's file system; it tells of the ranges that are begun.
type eagerFiles struct {
	hostFiles
	begun chan byteRange
}

type eagerHostFile struct {
	hostFile
	begun chan byteRange
}

// byteRange is from one offset to another.
type byteRange struct{ from, to int64 }

func (e eagerFiles) Open(name string) (file, error) {
	f, err := e.hostFiles.Open(name)
	if err != nil {
		return nil, err
	}
	return eagerHostFile{f.(hostFile), e.begun}, nil
}

func (f eagerHostFile) beginWrite(off, n int64) { f.begun <- byteRange{off, off + n} }

// Bug: what was appended to the log went to the disk when somebody flushed, all of
// it at once: a snapshot of a disk in use took 30 to 80 ms.
func TestLogIsBegunBehindItsWriters(t *testing.T) {
	begun := make(chan byteRange)
	u := openDisk(t, Options{openMeta: newFakeMeta().open, files: eagerFiles{begun: begun}})
	t.Cleanup(func() { closeWhile(t, u, begun) })
	data := bytes.Repeat([]byte{1}, blockSize)
	seq := uint64(0)
	end := int64(0)
	for range 5 {
		for range behindBlocks { // with its head each write takes at least a block
			seq++
			mustWrite(t, u.d, dataOp(0, 1, sheepdog.BlockNo(seq%100), data, seq))
		}
		select {
		case r := <-begun:
			if r.from != end || r.to > int64(u.d.journal.at)*blockSize {
				t.Fatalf("begun from byte %d to %d of %d, want from %d on", r.from, r.to, int64(u.d.journal.at)*blockSize, end)
			}
			end = r.to
		case <-time.After(time.Minute):
			t.Fatalf("nothing is begun behind byte %d, of %d", end, int64(u.d.journal.at)*blockSize)
		}
	}
}

// closeWhile closes a store while it may still begin writes.
func closeWhile(t *testing.T, u *diskUnderTest, begun chan byteRange) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range begun {
		}
	}()
	err := u.d.Close()
	close(begun)
	<-done
	if err != nil {
		t.Error(err)
	}
}

// Bug: a flush waited until all large data were on the disk that recovery had
// written since the flush before.
func TestLargeDataAreBegunBehindTheirWriter(t *testing.T) {
	begun := make(chan byteRange)
	u := openDisk(t, Options{openMeta: newFakeMeta().open, files: eagerFiles{begun: begun}})
	t.Cleanup(func() { closeWhile(t, u, begun) })
	mustWrite(t, u.d, dataOp(0, 1, 0, bytes.Repeat([]byte{1}, 4*LargeWrite), 1))
	for left := int64(4 * LargeWrite); left > 0; {
		select {
		case r := <-begun:
			left -= r.to - r.from
		case <-time.After(time.Minute):
			t.Fatalf("%d bytes are not begun", left)
		}
	}
}

// A stretch that is not taken becomes longer; what a sync has taken is left out, and
// what a segment begins with is not.
func TestStretchesOfTheLog(t *testing.T) {
	j := &journal{behind: make(chan stretch, 1), active: &segment{}, at: 1}
	add := func(blocks uint32) {
		from := j.at
		j.at += blocks
		j.push(from)
	}
	want := func(from, to uint32) {
		t.Helper()
		select {
		case s := <-j.behind:
			if s.off != int64(from)*blockSize || s.n != int64(to-from)*blockSize {
				t.Errorf("stretch of %d bytes from %d, want blocks %d to %d", s.n, s.off, from, to)
			}
		default:
			t.Errorf("no stretch, want one from %d to %d", from, to)
		}
	}
	j.active.dirty.Store(true) // its header
	add(behindBlocks - 2)
	if len(j.behind) > 0 {
		t.Error("a stretch that is too short")
	}
	add(1)
	add(behindBlocks) // nobody has taken the first
	want(0, behindBlocks)
	add(2)
	want(behindBlocks, 2*behindBlocks+2)
	add(10)
	j.active.dirty.Store(false) // a sync
	add(behindBlocks - 1)
	if len(j.behind) > 0 {
		t.Error("what a sync has taken is begun again")
	}
	add(1)
	want(2*behindBlocks+12, 3*behindBlocks+12)
}
