// Package shelf keeps values that came from afar in a file of this node, so that
// they need not be fetched again while memory holds others. The host keeps of the
// file in memory what it has room for. It is a cache: any value may be gone at any
// time, the whole of it ends with the process, and an error of the disk is the same
// as a miss. It is not for values that change.
package shelf

import (
	"container/list"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Options of a Shelf. Sizes are in bytes.
type Options struct {
	// Dir is where the file is made. It has no name there once it is open.
	Dir string
	// Slot is the largest value; each takes as much.
	Slot int
	// Limit is the largest file. It never takes more than a fraction of what the
	// file system has free; see sharedFree.
	Limit int64
	// Keep is how long the file stays while nobody uses it, once to twice, and how
	// long a disk that failed is left alone.
	Keep time.Duration
	Log  *slog.Logger

	free func(dir string) (int64, error) // of a file system; nil: ask it
}

// sharedFree: the file may be this fraction of what is free beside it.
const sharedFree = 4

// growStep is after how many new slots the free space is looked at again.
const growStep = 64

// file is what a Shelf needs of one.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
}

// Shelf holds values by their keys, the least recently used leave first. Use New.
// It is safe for concurrent use; Close it.
type Shelf[K comparable] struct {
	opt Options

	mu      sync.Mutex
	file    file // nil while it holds nothing
	entries map[K]*list.Element
	order   *list.List // of *entry[K]; front: most recent
	slots   int        // of the file
	used    bool       // since the timer last looked
	broken  bool       // the disk failed; until the timer looks
	closed  bool
	timer   *time.Timer // runs while there is a file, or broken
}

// entry is one value. While busy its slot is being read or written.
type entry[K comparable] struct {
	key  K
	slot int
	size int
	sum  uint32
	busy int
	// ready is false until it is written.
	ready bool
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// New makes an empty Shelf. Nothing is on disk before the first Put.
func New[K comparable](opt Options) *Shelf[K] {
	if opt.free == nil {
		opt.free = freeBytes
	}
	return &Shelf[K]{opt: opt, entries: make(map[K]*list.Element), order: list.New()}
}

func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// Get returns the value, or nil. The caller owns it.
func (s *Shelf[K]) Get(key K) []byte {
	s.mu.Lock()
	el, ok := s.entries[key]
	if !ok || !el.Value.(*entry[K]).ready {
		s.mu.Unlock()
		return nil
	}
	e, f := el.Value.(*entry[K]), s.file
	e.busy++
	s.used = true
	s.order.MoveToFront(el)
	s.mu.Unlock()
	value := make([]byte, e.size)
	_, err := f.ReadAt(value, s.offset(e))
	if err == nil && crc32.Checksum(value, castagnoli) != e.sum {
		err = errors.New("checksum differs")
	}
	if s.done(e, f, err) {
		return value
	}
	return nil
}

// Put keeps the value, of at most a slot, if there is room. It is not used after
// the call.
func (s *Shelf[K]) Put(key K, value []byte) {
	e, f := s.claim(key, len(value))
	if e == nil {
		return
	}
	e.sum = crc32.Checksum(value, castagnoli)
	_, err := f.WriteAt(value, s.offset(e))
	s.done(e, f, err)
}

// Clear gives everything up, for others that need the space.
func (s *Shelf[K]) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
}

// Close gives everything up for good.
func (s *Shelf[K]) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.clear()
	if s.timer != nil {
		s.timer.Stop()
	}
}

func (s *Shelf[K]) offset(e *entry[K]) int64 { return int64(e.slot) * int64(s.opt.Slot) }

// claim takes a slot for a value, nil if there is none.
func (s *Shelf[K]) claim(key K, size int) (*entry[K], file) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.entries[key]; ok || s.closed || s.broken || size > s.opt.Slot {
		return nil, nil
	}
	if err := s.open(); err != nil {
		s.fail(err)
		return nil, nil
	}
	slot, ok := s.slot()
	if !ok {
		return nil, nil
	}
	e := &entry[K]{key: key, slot: slot, size: size, busy: 1}
	s.entries[key] = s.order.PushFront(e)
	s.used = true
	return e, s.file
}

// slot is a new one at the end of the file, else the least recently used.
func (s *Shelf[K]) slot() (int, bool) {
	if s.mayGrow() {
		s.slots++
		return s.slots - 1, true
	}
	for el := s.order.Back(); el != nil; el = el.Prev() {
		if e := el.Value.(*entry[K]); e.busy == 0 {
			s.remove(el)
			return e.slot, true
		}
	}
	return 0, false
}

// mayGrow reports whether the file may get another slot.
func (s *Shelf[K]) mayGrow() bool {
	size := int64(s.slots+1) * int64(s.opt.Slot)
	if size > s.opt.Limit {
		return false
	}
	if s.slots%growStep != 0 {
		return true // looked at a moment ago
	}
	free, err := s.opt.free(s.opt.Dir)
	return err == nil && size+growStep*int64(s.opt.Slot) <= free/sharedFree
}

func (s *Shelf[K]) remove(el *list.Element) {
	s.order.Remove(el)
	delete(s.entries, el.Value.(*entry[K]).key)
}

// done ends the work on an entry and reports whether it is good.
func (s *Shelf[K]) done(e *entry[K], f file, err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.busy--
	if s.file != f {
		return err == nil // everything was given up meanwhile, or f is another life's
	}
	if err != nil {
		s.fail(err)
		return false
	}
	e.ready = true
	return true
}

// open makes the file if there is none.
func (s *Shelf[K]) open() error {
	if s.file != nil {
		return nil
	}
	name := filepath.Join(s.opt.Dir, "shelf") // what a crash left between these two calls is used again
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err := os.Remove(name); err != nil {
		return errors.Join(err, f.Close())
	}
	s.file = f
	s.watch()
	return nil
}

// fail gives everything up for a while.
func (s *Shelf[K]) fail(err error) {
	s.opt.Log.Warn("the shelf of frozen data failed; they are fetched from other nodes each time for a while", "dir", s.opt.Dir, "err", err)
	s.clear()
	s.broken = true
	s.watch()
}

// clear gives the file back. Who still reads or writes has it open, and notices.
func (s *Shelf[K]) clear() {
	if s.file != nil {
		_ = s.file.Close() // it has no name any more: nothing is lost with it
	}
	s.file, s.slots = nil, 0
	s.entries = make(map[K]*list.Element)
	s.order.Init()
}

// watch looks once more after Keep.
func (s *Shelf[K]) watch() {
	if s.timer == nil {
		s.timer = time.AfterFunc(s.opt.Keep, s.look)
	} else {
		s.timer.Reset(s.opt.Keep)
	}
}

// look gives up what nobody used since the last look, and ends the time of a
// failure.
func (s *Shelf[K]) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.broken = false
	if s.file == nil {
		return
	}
	if !s.used {
		s.clear()
		return
	}
	s.used = false
	s.watch()
}
