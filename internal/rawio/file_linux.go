//go:build linux && (amd64 || arm64) && !race

package rawio

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// readLimit is up to how many bytes TryReadAt and TryGatherAt read.
	readLimit = 64 << 10
	// gatherLimit is into how many pieces TryGatherAt reads.
	gatherLimit = 16
)

// TryReadAt fills p from offset off of the open file fd and returns true if the
// host has all of it in memory. Of other files, short reads and errors included, it
// returns false, and p holds anything. It never waits for a disk.
func TryReadAt(fd uintptr, p []byte, off int64) bool {
	if len(p) == 0 || len(p) > readLimit {
		return len(p) == 0
	}
	iov := syscall.Iovec{Base: &p[0]}
	iov.SetLen(len(p))
	return tryRead(fd, &iov, 1, len(p), off)
}

// TryGatherAt is TryReadAt for pieces that follow each other in the file, none of them
// empty.
func TryGatherAt(fd uintptr, pieces [][]byte, off int64) bool {
	var iov [gatherLimit]syscall.Iovec
	if len(pieces) == 0 || len(pieces) > gatherLimit {
		return len(pieces) == 0
	}
	want := 0
	for i, p := range pieces {
		iov[i].Base = &p[0]
		iov[i].SetLen(len(p))
		want += len(p)
	}
	return want <= readLimit && tryRead(fd, &iov[0], len(pieces), want, off)
}

// tryRead reads want bytes into n pieces from first on.
func tryRead(fd uintptr, first *syscall.Iovec, n, want int, off int64) bool {
	got, _, errno := syscall.RawSyscall6(unix.SYS_PREADV2, fd, uintptr(unsafe.Pointer(first)), uintptr(n), uintptr(off), 0, unix.RWF_NOWAIT)
	return errno == 0 && int(got) == want
}
