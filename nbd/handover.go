package nbd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"
)

// Transfer is an attached connection between two servers, such as those of a
// process and of its successor. The client notices nothing but a pause. The
// owner of a Transfer passes the descriptor of Conn on, State beside it, and
// closes Conn.
type Transfer struct {
	Conn  net.Conn
	State TransferState
}

// TransferState is what the next server must know of a connection.
type TransferState struct {
	Export     string `json:"export"`
	Structured bool   `json:"structured"` // structured replies were negotiated
	Allocation bool   `json:"allocation"` // base:allocation was selected
	// Unread are bytes of the client that no request was made of: at most 256 KiB.
	Unread []byte `json:"unread,omitempty"`
}

// HandOver is a Shutdown that keeps attached connections open: it stops
// accepting, ends handshakes, lets requests that were read end and their
// replies go out, closes the devices, and returns the connections. When ctx
// ends first, the connections that are not ready are cut, and an error comes
// with the others, which are the caller's all the same.
func (s *Server) HandOver(ctx context.Context) ([]Transfer, error) {
	s.stop(true)
	err := s.awaitEmpty(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	released := s.released
	s.released, s.handing = nil, false // a late one is closed: nobody would take it
	return released, err
}

// release gives up a connection whose session was drained, if it is to be
// handed over.
func (s *Server) release(c *conn, r *reader, a agreement) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.handing {
		return
	}
	unread, _ := r.Peek(r.Buffered()) // cannot fail: it is there
	s.released = append(s.released, Transfer{Conn: c.nc, State: TransferState{
		Export: a.name, Structured: a.structured, Allocation: a.allocation, Unread: slices.Clone(unread),
	}})
	c.released = true
}

// Adopt serves a connection that another server handed over, and returns when
// it has ended, as Serve does. Then it has closed the connection.
// It fails with ErrShutdown if the server is stopping; the connection is the
// caller's then, as it was. It fails with ErrPolicy if there
// are too many connections, and with the error of Exports if the export does not
// open.
func (s *Server) Adopt(ctx context.Context, t Transfer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	c := &conn{nc: t.Conn, cancel: cancel}
	defer cancel(nil)
	defer func() {
		if !c.released {
			t.Conn.Close()
		}
	}()
	if len(t.State.Unread) > readBufferBytes {
		return fmt.Errorf("adopt: %d unread bytes, at most %d are possible: %w",
			len(t.State.Unread), readBufferBytes, ErrInvalid)
	}
	if !s.enter(c) {
		c.released = true
		return ErrShutdown
	}
	defer s.leave(c)
	s.settle(c)
	if !s.attach(c) {
		return fmt.Errorf("adopt: %w: %w", ErrPolicy, errTooMany)
	}
	dev, err := s.reopen(ctx, t)
	if err != nil && errors.Is(context.Cause(ctx), errServerStop) {
		c.released = true
		return ErrShutdown
	}
	if err != nil {
		return err
	}
	if err := t.Conn.SetDeadline(time.Time{}); err != nil { // left over from draining
		return errors.Join(fmt.Errorf("adopt: %w", err), dev.Close())
	}
	r := s.memory.newReader(&prefixed{Conn: t.Conn, unread: t.State.Unread})
	defer s.memory.putReader(r)
	err = s.runSession(ctx, c, r, agreement{
		name: t.State.Export, dev: dev, structured: t.State.Structured, allocation: t.State.Allocation,
	})
	s.logEnd(t.Conn, t.State.Export, err)
	return nil
}

// reopen opens the export of an adopted connection.
func (s *Server) reopen(ctx context.Context, t Transfer) (Device, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.OpenTimeout)
	defer cancel()
	dev, err := s.cfg.Exports.Open(ctx, t.State.Export, Info{Local: t.Conn.LocalAddr(), Remote: t.Conn.RemoteAddr()})
	if err != nil {
		return nil, fmt.Errorf("adopt: open export %q: %w", t.State.Export, err)
	}
	return dev, nil
}

// prefixed is a connection with bytes that were read from it before.
type prefixed struct {
	net.Conn
	unread []byte
}

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.unread) == 0 {
		return p.Conn.Read(b)
	}
	n := copy(b, p.unread)
	p.unread = p.unread[n:]
	return n, nil
}
