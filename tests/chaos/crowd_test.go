package chaos

import (
	"encoding/binary"
	"net"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"sheepdog/tests/internal/lab"
	"sheepdog/tests/internal/nbdclient"
)

// crowd is clients that nobody likes.
type crowd struct {
	raw      []net.Conn
	attached []*nbdclient.Client
	writing  sync.WaitGroup
}

// thirsty is how many of a crowd never read their answers. Each costs the gateway
// up to 64 MiB of its gigabyte.
const thirsty = 40

// gather has n of them attach at a sheep.
func gather(t *testing.T, a *arena, s *lab.Sheep, n int) *crowd {
	t.Helper()
	c := &crowd{}
	t.Cleanup(c.leave)
	for i := range n {
		switch {
		case i < thirsty:
			c.neverRead(t, a, s)
		case i%3 == 0:
			c.raw = append(c.raw, silent(t, a.Socket(s), nil))
		case i%3 == 1: // half of an option
			c.raw = append(c.raw, silent(t, a.Socket(s), []byte("\x00\x00\x00\x03IHAVEOPT\x00\x00")))
		default:
			c.attach(t, a, s)
		}
	}
	return c
}

// silent connects, says something, and nothing more.
func silent(t *testing.T, socket string, hello []byte) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(hello); err != nil {
		t.Fatal(err)
	}
	return conn
}

func (c *crowd) attach(t *testing.T, a *arena, s *lab.Sheep) {
	t.Helper()
	client, err := nbdclient.Dial(t.Context(), a.Socket(s), "reg")
	if err != nil {
		t.Fatal(err)
	}
	c.attached = append(c.attached, client)
}

// neverRead attaches a client that asks for more than it will ever take.
func (c *crowd) neverRead(t *testing.T, a *arena, s *lab.Sheep) {
	t.Helper()
	conn, err := nbdclient.DialRaw(t.Context(), a.Socket(s), "reg")
	if err != nil {
		t.Fatal(err)
	}
	c.raw = append(c.raw, conn)
	var b []byte
	for i := range uint64(64) {
		b = binary.BigEndian.AppendUint32(b, 0x25609513)
		b = append(b, 0, 0, 0, 0)
		b = binary.BigEndian.AppendUint64(b, i)
		b = binary.BigEndian.AppendUint64(b, i<<20)
		b = binary.BigEndian.AppendUint32(b, 1<<20)
	}
	c.writing.Go(func() { conn.Write(b) }) // until it leaves
}

func (c *crowd) leave() {
	for _, conn := range c.raw {
		conn.Close()
	}
	for _, client := range c.attached {
		client.Close()
	}
	c.raw, c.attached = nil, nil
	c.writing.Wait()
}

// allocate takes space of a file system.
func allocate(f *os.File, off, n int64) error {
	return unix.Fallocate(int(f.Fd()), 0, off, n)
}

// free is the space of the file system of a path, in bytes.
func free(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Bavail) * st.Bsize
}
