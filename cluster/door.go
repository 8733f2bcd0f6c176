package cluster

import (
	"net"
	"sync"
	"time"
)

// door is the node's listener for Raft streams, which outlives Raft itself: an
// operator may have the node found its cluster anew (refound.go).
type door struct {
	net.Listener
	conns chan net.Conn
	ended chan struct{}
}

func newDoor(l net.Listener) *door {
	return &door{Listener: l, conns: make(chan net.Conn), ended: make(chan struct{})}
}

// run hands connections to whoever has the door open; without anybody they are
// hung up.
func (d *door) run() {
	defer close(d.ended)
	for {
		conn, err := d.Accept()
		if err != nil {
			return
		}
		t := time.NewTimer(greetingTimeout)
		select {
		case d.conns <- conn:
		case <-t.C:
			conn.Close()
		}
		t.Stop()
	}
}

// open returns a listener whose Close leaves the door as it is.
func (d *door) open() net.Listener { return &doorway{door: d, closed: make(chan struct{})} }

type doorway struct {
	*door
	once   sync.Once
	closed chan struct{}
}

// Accept waits for a connection.
func (w *doorway) Accept() (net.Conn, error) {
	select {
	case conn := <-w.conns:
		return conn, nil
	case <-w.ended:
	case <-w.closed:
	}
	return nil, net.ErrClosed
}

// Close ends Accept.
func (w *doorway) Close() error {
	w.once.Do(func() { close(w.closed) })
	return nil
}
