//go:build linux && (amd64 || arm64) && !race

package peer

import (
	"io"
	"net"
	"syscall"
	"unsafe"
)

// gather says that several pieces go to the socket in one call.
const gather = true

// rawLimit is up to how many bytes a socket call is made without telling the
// scheduler. Such a call takes microseconds, and telling the scheduler of each
// wakes its monitor thread, which at low load costs more than the call.
const rawLimit = 64 << 10

// maxVectors is how many pieces one send takes.
const maxVectors = 64

// rawConn sends and receives on a socket without blocking; waiting is left to
// the runtime's poller. One goroutine may send and one may receive at a time.
type rawConn struct {
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
	recv func(fd uintptr) bool
}

// newRawConn is nil if conn is not a socket of the host.
func newRawConn(conn net.Conn) *rawConn {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	r := &rawConn{rc: rc}
	r.send, r.recv = r.sendOnce, r.recvOnce
	return r
}

// trySend sends as much as the socket takes now and tells how much that was.
func (r *rawConn) trySend(vec [][]byte) (int, error) {
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
func (r *rawConn) sendOnce(fd uintptr) bool {
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
func (r *rawConn) Read(p []byte) (int, error) {
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

func (r *rawConn) recvOnce(fd uintptr) bool {
	for {
		var n uintptr
		if len(r.dst) <= rawLimit {
			n, _, r.rerr = syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&r.dst[0])), uintptr(len(r.dst)), syscall.MSG_DONTWAIT, 0, 0)
		} else {
			n, _, r.rerr = syscall.Syscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&r.dst[0])), uintptr(len(r.dst)), syscall.MSG_DONTWAIT, 0, 0)
		}
		if r.rerr != syscall.EINTR {
			r.got = int(n)
			return r.rerr != syscall.EAGAIN
		}
	}
}
