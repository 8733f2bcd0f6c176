//go:build linux && (amd64 || arm64)

package aio

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// listen wakes the writers of what has ended, until the bell is closed.
func (q *Queue) listen() {
	for q.ring.Read(q.answered) == nil {
		for i := range q.events[:q.rung] {
			e := &q.events[i]
			q.slots[e.number].ended <- e.result
		}
	}
}

// answered looks for writes that have ended, and asks to wait if there are none. It does not read
// the bell: the poller tells of each ring, not of a bell that has been rung.
func (q *Queue) answered(uintptr) bool {
	var none unix.Timespec
	n, _, errno := syscall.RawSyscall6(unix.SYS_IO_GETEVENTS, q.ctx, 0, uintptr(len(q.events)),
		uintptr(unsafe.Pointer(&q.events)), uintptr(unsafe.Pointer(&none)), 0)
	if q.rung = int(n); errno != 0 {
		q.rung = 0
	}
	return q.rung > 0
}
