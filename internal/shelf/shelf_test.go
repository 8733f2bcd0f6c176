package shelf

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"
)

const slotBytes = 64

func open(t *testing.T, slots int) *Shelf[int] {
	t.Helper()
	s := New[int](Options{Dir: t.TempDir(), Slot: slotBytes, Limit: int64(slots) * slotBytes, Keep: time.Hour, Log: slog.New(slog.DiscardHandler),
		free: func(string) (int64, error) { return 1 << 40, nil }})
	t.Cleanup(s.Close)
	return s
}

func value(n int) []byte { return bytes.Repeat([]byte{byte(n)}, slotBytes-n%3) }

func (s *Shelf[K]) held(t *testing.T, key K, want []byte) {
	t.Helper()
	if got := s.Get(key); !bytes.Equal(got, want) {
		t.Errorf("%v: got %v, want %v", key, got, want)
	}
}

func TestLeastRecentlyUsedLeavesFirst(t *testing.T) {
	s := open(t, 3)
	s.held(t, 1, nil)
	for i := range 3 {
		s.Put(i, value(i))
	}
	s.held(t, 0, value(0))
	s.Put(0, value(9)) // values do not change
	s.Put(3, value(3))
	s.held(t, 0, value(0))
	s.held(t, 1, nil)
	s.held(t, 2, value(2))
	s.held(t, 3, value(3))
	s.Put(4, make([]byte, slotBytes+1))
	s.held(t, 4, nil)
	left, err := os.ReadDir(s.opt.Dir)
	if err != nil || len(left) > 0 {
		t.Errorf("the file has a name: %v, %v", left, err)
	}
}

func TestFileStaysWithinAFractionOfWhatIsFree(t *testing.T) {
	s := open(t, 10*growStep)
	free := int64(sharedFree * growStep * slotBytes)
	s.opt.free = func(string) (int64, error) { return free, nil }
	s.Put(0, value(0))
	s.held(t, 0, nil) // the first step needs a slot more
	free += sharedFree * slotBytes
	for i := range 2 * growStep {
		s.Put(i, value(i))
	}
	if s.slots != growStep {
		t.Errorf("%d slots, want %d", s.slots, growStep)
	}
	s.held(t, 2*growStep-1, value(2*growStep-1))
	s.Clear()
	s.held(t, 2*growStep-1, nil)
}

func TestWhatNobodyUsesIsGivenUp(t *testing.T) {
	s := open(t, 3)
	s.Put(1, value(1))
	s.look()
	s.held(t, 1, value(1))
	s.look() // it was used since
	s.look()
	if s.file != nil {
		t.Error("the file is still there")
	}
	s.held(t, 1, nil)
	s.Put(1, value(2))
	s.held(t, 1, value(2))
}

func TestDamagedValueIsAMiss(t *testing.T) {
	s := open(t, 3)
	s.Put(1, value(1))
	if _, err := s.file.WriteAt([]byte{77}, 5); err != nil {
		t.Fatal(err)
	}
	s.held(t, 1, nil)
	s.Put(2, value(2))
	s.held(t, 2, nil) // the disk is left alone
	s.look()
	s.Put(2, value(2))
	s.held(t, 2, value(2))
}

// full is a file on a disk without room.
type full struct{ file }

func (full) WriteAt([]byte, int64) (int, error) { return 0, errors.New("no space left on device") }

func TestFailedWriteIsAMiss(t *testing.T) {
	s := open(t, 3)
	s.Put(1, value(1))
	s.file = full{s.file}
	s.Put(2, value(2))
	s.held(t, 2, nil)
	s.held(t, 1, nil)
	s.look()
	s.Put(1, value(1))
	s.held(t, 1, value(1))
}

func TestClosedKeepsNothing(t *testing.T) {
	s := open(t, 3)
	s.Put(1, value(1))
	s.Close()
	s.Put(2, value(2))
	s.held(t, 1, nil)
	s.held(t, 2, nil)
}

// Readers and writers at once, while everything is given up now and then, never get
// another key's value.
func TestManyAtOnce(t *testing.T) {
	s := open(t, 8)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 500 {
				key := (i*7 + g) % 20
				if got := s.Get(key); got != nil && !bytes.Equal(got, value(key)) {
					t.Errorf("%d: got %v", key, got)
				}
				s.Put(key, value(key))
				if i%100 == 99 {
					s.Clear()
				}
			}
		})
	}
	wg.Wait()
}
