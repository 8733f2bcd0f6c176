//go:build linux && (amd64 || arm64) && !race

// Package rawio sends and receives on sockets of the host, and reads of files what the
// host has in memory, by system calls that the Go scheduler is not told of. It is for
// small transfers that do not block; waiting is left to the runtime's poller. Nothing
// that a disk can hold up may be done so: the scheduler would lose one of its processors
// for as long, and stop altogether at the next collection of garbage. Where it cannot
// be used New returns nil, and its callers use the net.Conn.
//
// Main type: Conn.
package rawio

import (
	"io"
	"net"
	"syscall"
	"unsafe"
)

// Gather says that several pieces go to the socket in one call.
const Gather = true

// rawLimit is up to how many bytes a socket call is made without telling the
// scheduler. Such a call takes some 50 us at most, and telling the scheduler of each
// wakes its monitor thread, which at low load costs more than the call. A client's 64
// writes of 4 KiB fit, with their heads: what cuts them makes two batches of one.
const rawLimit = 320 << 10

// maxVectors is how many pieces one send takes.
const maxVectors = 64

// Conn sends and receives on a socket without blocking; waiting is left to
// the runtime's poller. One goroutine may send and one may receive at a time.
type Conn struct {
	rc syscall.RawConn

	iov  [maxVectors]syscall.Iovec
	msg  syscall.Msghdr
	want int // bytes in msg
	sent int
	serr syscall.Errno
	send func(fd uintptr) bool

	dst  []byte
	got  int
	rerr syscall.Errno
	full bool // the last receive took rawLimit or more: there is much to come
	recv func(fd uintptr) bool
}

// New is nil if conn is not a socket of the host.
func New(conn net.Conn) *Conn {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	r := &Conn{rc: rc}
	r.send, r.recv = r.sendOnce, r.recvOnce
	return r
}

// TrySend sends as much as the socket takes now and tells how much that was.
func (r *Conn) TrySend(vec [][]byte) (int, error) {
	n := 0
	r.want = 0
	for _, b := range vec {
		if len(b) == 0 {
			continue
		}
		if n == maxVectors {
			break
		}
		r.iov[n].Base = &b[0]
		r.iov[n].SetLen(len(b))
		r.want += len(b)
		n++
	}
	if n == 0 {
		return 0, nil
	}
	r.msg.Iov, r.msg.Iovlen = &r.iov[0], uint64(n)
	err := r.rc.Write(r.send)
	clear(r.iov[:n])
	switch {
	case err != nil:
		return 0, err
	case r.serr == syscall.EAGAIN:
		return 0, nil
	case r.serr != 0:
		return 0, r.serr
	}
	return r.sent, nil
}

// sendOnce makes one attempt; it never asks to wait.
func (r *Conn) sendOnce(fd uintptr) bool {
	const flags = syscall.MSG_DONTWAIT | syscall.MSG_NOSIGNAL
	for {
		var n uintptr
		if r.want <= rawLimit {
			n, _, r.serr = syscall.RawSyscall(syscall.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&r.msg)), flags)
		} else {
			n, _, r.serr = syscall.Syscall(syscall.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&r.msg)), flags)
		}
		if r.serr != syscall.EINTR {
			r.sent = int(n)
			return true
		}
	}
}

// Read receives what is there, and waits while nothing is.
func (r *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	r.dst = p
	err := r.rc.Read(r.recv)
	r.dst = nil
	switch {
	case err != nil:
		return 0, err
	case r.rerr != 0:
		return 0, r.rerr
	case r.got == 0:
		return 0, io.EOF
	}
	return r.got, nil
}

// recvOnce makes one attempt, and asks to wait if nothing is there. Little is
// taken at a time until there is much, for that is what the short way is for.
func (r *Conn) recvOnce(fd uintptr) bool {
	call, size := syscall.RawSyscall6, len(r.dst)
	if size > rawLimit {
		if r.full {
			call = syscall.Syscall6
		} else {
			size = rawLimit
		}
	}
	for {
		n, _, errno := call(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&r.dst[0])), uintptr(size), syscall.MSG_DONTWAIT, 0, 0)
		if errno != syscall.EINTR {
			r.got, r.rerr = int(n), errno
			if errno == 0 {
				r.full = r.got >= rawLimit
			}
			return errno != syscall.EAGAIN
		}
	}
}
