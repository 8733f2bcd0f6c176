package objectstore

import (
	"errors"
	"testing"

	"sheepdog"
)

// TestStrayWriteIsNeverDelivered has every write of a script to the disk, one at a time,
// go nowhere or to another place of its file, over what is there, while the store hears
// that it is done. No block may ever read as what was not written to it: it is what it
// should be, or bad; after a restart, for which the log may lack what was lost, also
// what it was before.
func TestStrayWriteIsNeverDelivered(t *testing.T) {
	for _, c := range []struct{ lost, dies bool }{{true, false}, {true, true}, {false, false}, {false, true}} {
		bad, old, refused, n := 0, 0, 0, 1
		for ; ; n++ {
			s := newStrayRig(t, n, c.lost)
			s.script()
			if !s.hit {
				s.abandon()
				break
			}
			s.read("while it runs", false)
			if s.restart(c.dies) {
				s.read("after a restart", true)
				s.abandon()
			} else {
				refused++
			}
			bad, old = bad+s.bad, old+s.old
		}
		t.Logf("%+v: %d writes; read as bad: %d blocks, as they were before: %d; refused to start: %d", c, n-1, bad, old, refused)
		if bad == 0 {
			t.Errorf("%+v: nothing was ever bad: the fault does not reach the data", c)
		}
	}
}

type strayRig struct {
	*crashRig
	hit      bool
	bad, old int
}

// newStrayRig has the n-th write go astray.
func newStrayRig(t *testing.T, n int, lost bool) *strayRig {
	s := &strayRig{crashRig: newCrashRig(t, uint64(n))}
	count := 0
	s.files.stray = func(f *simFile, off int64, size int) (int64, bool) {
		if count++; count != n {
			return off, true
		}
		s.hit = true
		if lost || f.size <= int64(size) {
			return 0, false
		}
		return s.r.Int64N((f.size-int64(size))/blockSize+1) * blockSize, true
	}
	return s
}

// script writes to extents and to the log, over both, and moves data between them.
func (s *strayRig) script() {
	write, zero := s.writes(true) // all values stay possible
	for _, step := range []func() error{
		write(0, 1, 0, 40), write(1, 1, 0, 3), write(2, 1, 10, 20), s.d.Flush, write(0, 1, 5, 2), s.seal, s.destage,
		write(3, 1, 0, 30), write(1, 1, 1, 5), zero(2, 1, 12, 4), s.d.Flush, s.seal, s.destage, write(0, 2, 0, 17), write(1, 2, 0, 1), s.d.Flush,
	} {
		_ = step() // destaging may meet a bad block
	}
}

// restart closes the store, or has the process die, and opens it again, if it can.
func (s *strayRig) restart(dies bool) bool {
	if dies || s.d.Close() != nil {
		s.abandon()
	}
	d, err := Open(s.opts)
	if err == nil {
		s.d = d
	}
	return err == nil
}

// read reads block by block.
func (s *strayRig) read(when string, older bool) {
	s.t.Helper()
	buf, states := make([]byte, blockSize), make([]sheepdog.BlockState, 1)
	for b, may := range s.may {
		err := s.d.Read(b.obj, []sheepdog.LayerID{b.layer}, b.no, 1, buf, states)
		var bad *sheepdog.BadBlocksError
		switch {
		case errors.As(err, &bad):
			s.bad++
			continue
		case err != nil:
			s.t.Fatalf("%s: block %v: %v", when, b, err)
		}
		if !older {
			may = may[len(may)-1:]
		}
		if at := newestOf(may, states[0], buf); at < 0 {
			s.t.Fatalf("%s: block %v reads as something that it never was", when, b)
		} else if at < len(may)-1 {
			s.old++
		}
	}
}

// newestOf finds what was read among the values that a block had, -1 if it is not there.
func newestOf(values [][]byte, state sheepdog.BlockState, got []byte) int {
	for i := len(values) - 1; i >= 0; i-- {
		switch v := values[i]; {
		case v == nil && state == sheepdog.Absent, v != nil && len(v) == 0 && state == sheepdog.Zero, len(v) > 0 && state == sheepdog.Data && string(v) == string(got):
			return i
		}
	}
	return -1
}
