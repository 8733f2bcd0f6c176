package client

import (
	"context"
	"fmt"
	"io"

	"sheepdog/libvirtpool/rpc"
)

// Download makes a call that begins a stream, and writes what that brings to w.
// The error of a stream that failed is an *rpc.Error; any other one has broken
// the connection.
func (c *Conn) Download(ctx context.Context, p rpc.Procedure, args []byte, w io.Writer) error {
	return c.stream(ctx, p, args, func(h rpc.Header) error {
		for {
			m, err := c.next(h.Serial)
			if err != nil || m.Status == rpc.Failed {
				return failed(m, err)
			}
			if len(m.Payload()) == 0 {
				h.Status = rpc.OK
				return c.finish(h)
			}
			if _, err := w.Write(m.Payload()); err != nil {
				return err
			}
		}
	})
}

// Upload makes a call that begins a stream, and runs f to fill it. The errors are
// those of Download, and f's, which breaks the connection too.
func (c *Conn) Upload(ctx context.Context, p rpc.Procedure, args []byte, f func(*Sink) error) error {
	return c.stream(ctx, p, args, func(h rpc.Header) error {
		h.Status = rpc.Continue
		if err := f(&Sink{c: c, h: h}); err != nil {
			return err
		}
		h.Status = rpc.OK
		return c.finish(h)
	})
}

// Sink is where the data of an upload go.
type Sink struct {
	c *Conn
	h rpc.Header
}

// Data sends at most rpc.MaxStreamData bytes.
func (s *Sink) Data(p []byte) error {
	_, err := rpc.NewMessage(s.h, p).WriteTo(s.c.conn)
	return err
}

// Hole sends n zeros, in streams that were called for as sparse.
func (s *Sink) Hole(n uint64) error {
	var e rpc.Encoder
	e.Uint64(n)
	e.Uint32(0)
	h := s.h
	h.Type = rpc.StreamHole
	_, err := rpc.NewMessage(h, e.Bytes()).WriteTo(s.c.conn)
	return err
}

// stream makes the call and runs f on the header of the stream's messages.
func (c *Conn) stream(ctx context.Context, p rpc.Procedure, args []byte, f func(rpc.Header) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.ready(ctx); err != nil {
		return err
	}
	if _, err := c.call(ctx, p, args); err != nil {
		return err
	}
	defer c.interrupted(ctx)()
	err := f(rpc.Header{Program: rpc.ProgramRemote, Version: rpc.Version, Procedure: p, Type: rpc.Stream, Serial: c.serial})
	return c.lost(ctx, err)
}

// finish ends a stream and waits until the other side has confirmed it.
func (c *Conn) finish(h rpc.Header) error {
	if _, err := rpc.NewMessage(h, nil).WriteTo(c.conn); err != nil {
		return err
	}
	for {
		m, err := c.next(h.Serial)
		if err != nil || m.Status != rpc.Continue {
			return failed(m, err)
		}
	}
}

// next is the next message of a stream.
func (c *Conn) next(serial uint32) (*rpc.Message, error) {
	for {
		m, err := c.read()
		if err != nil {
			return nil, err
		}
		if m.Program == rpc.ProgramRemote && m.Serial == serial && m.Type == rpc.Stream {
			return m, nil
		}
		if m.Type == rpc.StreamHole {
			return nil, fmt.Errorf("%w: a hole in a stream that is not sparse", rpc.ErrMalformed)
		}
	}
}

// read is the next message; those that came before the reply are first.
func (c *Conn) read() (*rpc.Message, error) {
	if len(c.early) > 0 {
		m := c.early[0]
		c.early = c.early[1:]
		return m, nil
	}
	return rpc.ReadMessage(c.r)
}

// failed is the error in a message that says so.
func failed(m *rpc.Message, err error) error {
	if err == nil && m.Status == rpc.Failed {
		err = rpc.DecodeError(m.Payload())
	}
	return err
}
