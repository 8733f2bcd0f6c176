package objectstore

import (
	"errors"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"sheepdog"
	"sheepdog/internal/aio"
)

// directLeast is from how many bytes in a row data that nobody reads soon go to the
// disk past the host's memory for files. For less a request to the disk takes longer
// than copying.
const directLeast = 256 << 10

// waitLeast is from how many bytes on a write that somebody waits for goes that way. What is
// received of less is not in huge pages of memory, of which a disk is told page by page, so that
// it costs as much CPU as copying.
const waitLeast = 1 << 20

// route is how data get into a file. The zero value is the host's memory.
type route struct {
	direct bool // past the host's memory, as far as the file lets it
}

// directFile is a file that can be written past the host's memory. That saves a copy,
// and the host the keeping of what nobody asks for. Nothing is durable by that.
//
// The host keeps other writes to the file away meanwhile, and forgets what it has of
// the range in memory, so that both ways may be used side by side.
type directFile interface {
	// writeDirect writes p at off, in whole blocks, and tells how many bytes. What it
	// does not write, errors included, is left to WriteAt.
	writeDirect(p []byte, off int64) int
}

// writeDirectly is WriteAt, past the host's memory as far as that can be.
func writeDirectly(f file, p []byte, off int64) error {
	n := 0
	if d, ok := f.(directFile); ok && len(p) >= directLeast && blockAligned(p) {
		n = d.writeDirect(p, off)
	}
	if n == len(p) {
		return nil
	}
	_, err := f.WriteAt(p[n:], off+int64(n))
	return err
}

// blockAligned reports whether data begin at a multiple of blockSize in memory, which
// no disk asks more than. Slices of a few blocks or more that Go makes do.
func blockAligned(p []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(p)))%blockSize == 0
}

// Directly implements sheepdog.DirectEngine.
func (d *Disk) Directly(f sheepdog.FamilyID, n int) bool {
	if n < waitLeast || d.local.has(f) {
		return false
	}
	w, ok := d.opts.files.(waitingFiles)
	return ok && w.waits()
}

// waitingFiles is a file system whose files are written directly by goroutines that wait
// for the disk without a thread, and so without one of the scheduler's processors.
type waitingFiles interface{ waits() bool }

// directDepth is how many direct writes of a store are on their way at a time. More would
// not make a disk faster; they go by the host's memory.
const directDepth = 16

// directQueue is where the host's files are written directly without a thread that waits.
// It is made when it is first wanted.
type directQueue struct {
	once sync.Once
	q    *aio.Queue // nil: the host has no such thing
}

func (d *directQueue) get() *aio.Queue {
	if d == nil {
		return nil
	}
	d.once.Do(func() { d.q, _ = aio.New(directDepth) })
	return d.q
}

// close ends the queue, of which nobody wants anything any more.
func (d *directQueue) close() error {
	if d == nil {
		return nil
	}
	d.once.Do(func() {}) // none is made any more
	if d.q == nil {
		return nil
	}
	return d.q.Close()
}

// directTwin is another descriptor of a file, for direct writes. It is opened when it
// is first wanted: most files never are.
type directTwin struct {
	queue   *directQueue
	mu      sync.Mutex
	f       *os.File
	refused bool // by the file system, or because the file was closed
}

// open returns the descriptor, nil if there is none. Without a descriptor to spare
// the next call tries again.
func (t *directTwin) open(name string) *os.File {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.f != nil || t.refused {
		return t.f
	}
	f, err := os.OpenFile(name, os.O_WRONLY|unix.O_DIRECT, 0)
	if err == nil {
		t.f = f
	}
	t.refused = errors.Is(err, unix.EINVAL)
	return t.f
}

func (t *directTwin) write(name string, p []byte, off int64) int {
	f := t.open(name)
	if f == nil {
		return 0
	}
	n, err := t.put(f, p, off)
	if errors.Is(err, unix.EINVAL) {
		_ = t.close() // the disk wants larger blocks than ours
	}
	return n / blockSize * blockSize
}

// put waits for the disk without a thread if it can.
func (t *directTwin) put(f *os.File, p []byte, off int64) (int, error) {
	q := t.queue.get()
	if q == nil {
		return f.WriteAt(p, off)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	return q.Write(raw, p, off)
}

// close ends direct writes for good.
func (t *directTwin) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.f
	t.f, t.refused = nil, true
	if f == nil {
		return nil
	}
	return f.Close()
}
