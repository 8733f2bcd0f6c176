package nbd

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// Bug: of an answer of a MiB the socket took a fifth at a time, and the server waited for
// the client in between.
func TestSocketHasRoomForAnswers(t *testing.T) {
	const length = 256 << 10 // fits also where the host allows no more than its usual 208 KiB, doubled
	g := newRig(t, newMemDevice(1<<20))
	c := g.connect("disk", true)
	c.send(header{cmd: cmdRead, length: length}, nil)
	eventually(t, "the whole answer is in the socket of a client that does not read", func() bool {
		return unread(t, c.nc) >= length
	})
}

// unread is how many bytes wait in a socket.
func unread(t *testing.T, nc net.Conn) (n int) {
	t.Helper()
	raw, err := nc.(*net.UnixConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { n, failed = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }); err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	return n
}
