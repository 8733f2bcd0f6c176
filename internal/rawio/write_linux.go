//go:build linux && (amd64 || arm64) && !race

package rawio

import (
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// writeLimit is up to how many bytes a Writer writes in one call, about 0.1 ms
	// of copying.
	writeLimit = 256 << 10
	// beginLimit is up to how many bytes a Writer has the host begin to bring to the
	// disk in one call: that takes about as long.
	beginLimit = 1 << 20
	// stalled is how long a write of that much takes only if the host makes its
	// writers wait for the disk (Linux: 10 to 200 ms at a time), or has too few
	// processors.
	stalled = 5 * time.Millisecond
	// After a stall the long way is taken for minRest, twice as long after each
	// further one, up to maxRest.
	minRest = 100 * time.Millisecond
	maxRest = 5 * time.Second
)

// Writer writes to files of the host that have their space already, so that the
// bytes go to memory. That is mostly true: when the host has too much to write it
// makes writers wait, and such a wait would hold up other goroutines, for the
// scheduler does not know of it. Then a Writer does nothing for a while, and its
// caller goes the way that the scheduler knows. The zero value is ready. One
// goroutine may use it at a time.
type Writer struct {
	rest  time.Duration // the latest
	until time.Time     // nothing is done before
	iov   []syscall.Iovec
}

// TryWriteAt writes p at off of the open file fd and tells how much of it. What it
// does not write, errors included, is left to the caller.
func (w *Writer) TryWriteAt(fd uintptr, p []byte, off int64) int {
	if len(p) == 0 || len(p) > writeLimit {
		return 0
	}
	began := time.Now()
	if began.Before(w.until) {
		return 0
	}
	n, _, errno := syscall.RawSyscall6(syscall.SYS_PWRITE64, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), uintptr(off), 0, 0)
	w.took(began, time.Now())
	if errno != 0 {
		return 0
	}
	return int(n)
}

// maxPieces bounds what TryGatherAt writes in one call; Linux takes 1024.
const maxPieces = 512

// TryGatherAt is TryWriteAt of pieces that follow each other in the file.
func (w *Writer) TryGatherAt(fd uintptr, pieces [][]byte, off int64) int {
	total := 0
	w.iov = w.iov[:0]
	for _, p := range pieces {
		if len(p) > 0 {
			v := syscall.Iovec{Base: &p[0]}
			v.SetLen(len(p))
			w.iov, total = append(w.iov, v), total+len(p)
		}
	}
	defer clear(w.iov)
	if total == 0 || total > writeLimit || len(w.iov) > maxPieces {
		return 0
	}
	began := time.Now()
	if began.Before(w.until) {
		return 0
	}
	n, _, errno := syscall.RawSyscall6(syscall.SYS_PWRITEV, fd, uintptr(unsafe.Pointer(&w.iov[0])), uintptr(len(w.iov)), uintptr(off), 0, 0)
	w.took(began, time.Now())
	if errno != 0 {
		return 0
	}
	return int(n)
}

// TryBeginWrite has the host begin to bring n bytes at off of the open file fd to the
// disk, and returns true; false if that is left to the caller. Whatever fails is told by
// a later sync.
func (w *Writer) TryBeginWrite(fd uintptr, off, n int64) bool {
	began := time.Now()
	if n > beginLimit || began.Before(w.until) {
		return false
	}
	syscall.RawSyscall6(unix.SYS_SYNC_FILE_RANGE, fd, uintptr(off), uintptr(n), unix.SYNC_FILE_RANGE_WRITE, 0, 0)
	w.took(began, time.Now())
	return true
}

// took notes how long a write was under way.
func (w *Writer) took(began, ended time.Time) {
	if ended.Sub(began) < stalled {
		if w.rest > 0 && ended.Sub(w.until) > maxRest {
			w.rest = 0
		}
		return
	}
	w.rest = min(max(2*w.rest, minRest), maxRest)
	w.until = ended.Add(w.rest)
}
