package objectstore

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// simFiles is a file system in memory that can lose power, fail any operation
// and be full. Blocks reach the disk one by one, and only a sync or the
// surviving of a power loss makes them last.
type simFiles struct {
	mu    sync.Mutex
	files map[string]*simFile
	ops   int
	// fault is asked before every operation that changes or syncs something.
	fault func(op, name string) error
	// stray is told of every write and says where on the file it goes; false: nowhere,
	// though the writer hears that it is done.
	stray func(f *simFile, off int64, n int) (int64, bool)
	limit int64 // bytes of the file system
	fake  int64 // bytes that something else takes
	// unreadable are blocks of extent files that cannot be read.
	unreadable map[int64]bool
	// cold is asked of each read that must not wait whether the disk would be needed;
	// nil: never.
	cold func() bool
}

type simFile struct {
	fs      *simFiles
	name    string
	blocks  map[int64][]byte // what a process sees
	durable map[int64][]byte // what survives
	size    int64
	linked  bool // the name is durable
}

var errDead = errors.New("the process is dead")

func newSimFiles() *simFiles {
	return &simFiles{files: make(map[string]*simFile), limit: 1 << 40}
}

func (s *simFiles) check(op, name string) error {
	s.ops++
	if s.fault != nil {
		return s.fault(op, name)
	}
	return nil
}

func (s *simFiles) MkdirAll(string) error { return nil }

func (s *simFiles) Open(name string) (file, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.check("open", name); err != nil {
		return nil, err
	}
	f := s.files[name]
	if f == nil {
		f = &simFile{fs: s, name: name, blocks: make(map[int64][]byte), durable: make(map[int64][]byte)}
		s.files[name] = f
	}
	return f, nil
}

func (s *simFiles) ReadDir(dir string) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for name := range s.files {
		if filepath.Dir(name) == filepath.Clean(dir) {
			out = append(out, filepath.Base(name))
		}
	}
	slices.Sort(out)
	return out, nil
}

func (s *simFiles) Remove(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.check("remove", name); err != nil {
		return err
	}
	delete(s.files, name)
	return nil
}

func (s *simFiles) SyncDir(dir string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.check("syncdir", dir); err != nil {
		return err
	}
	for name, f := range s.files {
		if filepath.Dir(name) == filepath.Clean(dir) {
			f.linked = true
		}
	}
	return nil
}

func (s *simFiles) allocated() int64 {
	n := s.fake
	for _, f := range s.files {
		n += int64(len(f.blocks)) * blockSize
	}
	return n
}

func (s *simFiles) Space(string) (total, free uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return uint64(s.limit), uint64(max(s.limit-s.allocated(), 0)), nil
}

// losePower forgets a random part of what was not synced.
func (s *simFiles) losePower(r *rand.Rand) {
	s.mu.Lock()
	defer s.mu.Unlock()
	keep := r.Float64() // sometimes most of it stays, sometimes little
	names := make([]string, 0, len(s.files))
	for name := range s.files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		f := s.files[name]
		if !f.linked && r.Float64() >= keep {
			delete(s.files, name)
			continue
		}
		f.linked = true
		f.losePower(r, keep)
	}
}

func (f *simFile) losePower(r *rand.Rand, keep float64) {
	var nos []int64
	for no := range f.blocks {
		nos = append(nos, no)
	}
	for no := range f.durable {
		if _, ok := f.blocks[no]; !ok {
			nos = append(nos, no)
		}
	}
	slices.Sort(nos)
	f.size = 0
	for _, no := range nos {
		now, was := f.blocks[no], f.durable[no]
		if r.Float64() < keep {
			was = now
		}
		if was == nil {
			delete(f.blocks, no)
			delete(f.durable, no)
			continue
		}
		f.blocks[no], f.durable[no] = was, was
		f.size = (no + 1) * blockSize
	}
}

func (f *simFile) ReadAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	clear(p)
	for n := 0; n < len(p); {
		no, at := (off+int64(n))/blockSize, (off+int64(n))%blockSize
		if f.fs.unreadable[no] && strings.HasPrefix(filepath.Base(f.name), "extents.") {
			return n, unix.EIO
		}
		k := min(len(p)-n, blockSize-int(at))
		if b := f.blocks[no]; b != nil {
			copy(p[n:n+k], b[at:])
		}
		n += k
	}
	return len(p), nil
}

func (f *simFile) TryReadAt(p []byte, off int64) bool {
	if f.fs.cold != nil && f.fs.cold() {
		copy(p, "anything")
		return false
	}
	_, err := f.ReadAt(p, off)
	return err == nil
}

func (f *simFile) TryGatherAt(pieces [][]byte, off int64) bool {
	for _, p := range pieces {
		if !f.TryReadAt(p, off) {
			return false
		}
		off += int64(len(p))
	}
	return true
}

func (f *simFile) WriteAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	err := f.fs.check("write", f.name)
	if errors.Is(err, errDead) {
		p = p[:len(p)/2/blockSize*blockSize] // a torn write
	} else if err != nil {
		return 0, err
	}
	if f.fs.stray != nil {
		to, ok := f.fs.stray(f, off, len(p))
		if !ok {
			return len(p), err
		}
		off = to
	}
	for n := 0; n < len(p); {
		no, at := (off+int64(n))/blockSize, (off+int64(n))%blockSize
		if f.blocks[no] == nil && f.fs.allocated()+blockSize > f.fs.limit {
			return n, fmt.Errorf("write %s: %w", f.name, unix.ENOSPC)
		}
		b := make([]byte, blockSize) // never in place: durable may share it
		copy(b, f.blocks[no])
		n += copy(b[at:], p[n:])
		f.blocks[no] = b
	}
	f.size = max(f.size, off+int64(len(p)))
	return len(p), err
}

// Reserve implements reserver.
func (f *simFile) Reserve(n int64) (bool, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.check("reserve", f.name); err != nil {
		return false, err
	}
	for no := range n / blockSize {
		if f.blocks[no] == nil {
			if f.fs.allocated()+blockSize > f.fs.limit {
				return false, fmt.Errorf("reserve %s: %w", f.name, unix.ENOSPC)
			}
			f.blocks[no] = make([]byte, blockSize)
		}
	}
	f.size = max(f.size, n)
	return true, nil
}

func (f *simFile) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.check("sync", f.name); err != nil {
		return err
	}
	clear(f.durable)
	for no, b := range f.blocks {
		f.durable[no] = b
	}
	return nil
}

func (f *simFile) PunchHole(off, n int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.check("punch", f.name); err != nil {
		return err
	}
	for no := off / blockSize; no < (off+n)/blockSize; no++ {
		delete(f.blocks, no)
	}
	return nil
}

func (f *simFile) Size() (int64, error) { return f.size, nil }
func (f *simFile) Close() error         { return nil }

// flip changes one bit of a block of the first file whose base name begins with
// prefix and that has the block with these bytes.
func (s *simFiles) flip(prefix string, want []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, f := range s.files {
		if !strings.HasPrefix(filepath.Base(name), prefix) {
			continue
		}
		for no, b := range f.blocks {
			if slices.Equal(b, want) {
				c := slices.Clone(b)
				c[100] ^= 4
				f.blocks[no], f.durable[no] = c, c
				return true
			}
		}
	}
	return false
}
