package sim

import (
	"io"
	"net"
	"time"
)

// Conn is one end of a stream connection.
type Conn struct {
	in, out       *stream
	local, remote Addr
}

func newConn(in, out *stream, local, remote Addr) *Conn {
	return &Conn{in: in, out: out, local: local, remote: remote}
}

// Read reads what has arrived, or waits. At the end of the stream it returns
// io.EOF, after Kill of the far host syscall.ECONNRESET, after the deadline
// os.ErrDeadlineExceeded.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.in.read(p)
	return n, c.wrap("read", err)
}

// Write waits while the window is full.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.out.write(p)
	return n, c.wrap("write", err)
}

func (c *Conn) wrap(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// CloseWrite ends the direction from here.
func (c *Conn) CloseWrite() error {
	c.out.finish(c.out.net.delay())
	return nil
}

// Close ends both directions. What was written still arrives.
func (c *Conn) Close() error {
	c.out.finish(c.out.net.delay())
	c.out.update(func() { c.out.closedW = true })
	c.in.update(func() { c.in.closedR = true })
	for _, s := range []*stream{c.in, c.out} {
		s.mu.Lock()
		over := s.closedR && s.closedW
		s.mu.Unlock()
		if over {
			s.net.forget(s)
		}
	}
	return nil
}

// abort resets the connection.
func (c *Conn) abort() {
	c.out.reset(true)
	c.in.reset(false)
}

// LocalAddr is this end's address.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is the far end's address.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline bounds reads and writes, also those that wait already.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline bounds reads; zero means no bound.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.in.update(func() { c.in.deadlineR = t })
	return nil
}

// SetWriteDeadline bounds writes; zero means no bound.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.out.update(func() { c.out.deadlineW = t })
	return nil
}
