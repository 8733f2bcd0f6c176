//go:build linux && (amd64 || arm64) && !race

package rawio

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// readLimit is up to how many bytes TryReadAt reads.
const readLimit = 64 << 10

// TryReadAt fills p from offset off of the open file fd and returns true if the
// host has all of it in memory. Of other files, short reads and errors included, it
// returns false, and p holds anything. It never waits for a disk.
func TryReadAt(fd uintptr, p []byte, off int64) bool {
	if len(p) == 0 || len(p) > readLimit {
		return len(p) == 0
	}
	iov := syscall.Iovec{Base: &p[0]}
	iov.SetLen(len(p))
	n, _, errno := syscall.RawSyscall6(unix.SYS_PREADV2, fd, uintptr(unsafe.Pointer(&iov)), 1, uintptr(off), 0, unix.RWF_NOWAIT)
	return errno == 0 && int(n) == len(p)
}
