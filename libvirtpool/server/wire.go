package server

import (
	"bufio"
	"net"
	"sync"
	"time"

	"sheepdog/libvirtpool/rpc"
)

const readBuffer = 64 << 10

// wire is a connection that carries messages; many may send, one reads.
type wire struct {
	conn net.Conn
	r    *bufio.Reader

	mu sync.Mutex // held while a message is sent
}

func newWire(c net.Conn) *wire { return &wire{conn: c, r: bufio.NewReaderSize(c, readBuffer)} }

func (w *wire) read() (*rpc.Message, error) { return rpc.ReadMessage(w.r) }

// send writes a message as a whole. A peer that takes nothing for long is cut
// off.
func (w *wire) send(m *rpc.Message) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := m.WriteTo(w.conn)
	if err != nil {
		w.conn.Close() // a part may have been sent: nothing can follow
	}
	return err
}

func (w *wire) close() { w.conn.Close() }
