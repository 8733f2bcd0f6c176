// Package e2e runs the real binaries as an operator would, with the clients that
// operators use: qemu-img, qemu-io, nbdinfo, nbdcopy, fio. `make e2e` builds the
// binaries first.
package e2e

import (
	"net"
	"os"
	"testing"
	"time"

	"sheepdog/tests/internal/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// world is a lab and what only these tests do in it.
type world struct{ *lab.Lab }

// start makes n sheep with a zone each, not formatted.
func start(t *testing.T, n int, args ...string) *world {
	t.Helper()
	return &world{lab.Start(t, n, args...)}
}

// send writes bytes to an address and hangs up.
func send(t *testing.T, network, addr string, p []byte) {
	t.Helper()
	c, err := net.DialTimeout(network, addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	c.Write(p) // the far end may hang up in the middle
}
