// Package client makes calls to a libvirt daemon over its unix socket. It is as
// small as package libvirtpool needs: one call or stream at a time, no events.
//
// Main type: Conn.
package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"sheepdog/libvirtpool/rpc"
)

// maxEarly bounds the messages that are kept before a reply.
const maxEarly = 64

// Conn is an open connection. It is safe for concurrent use.
type Conn struct {
	conn net.Conn
	r    *bufio.Reader

	mu     sync.Mutex // held for the time of a call
	serial uint32
	early  []*rpc.Message // of the stream of the last call, before its reply
	broken error          // why no further call is possible
}

// Dial connects to a socket and opens uri there, such as qemu:///system.
func Dial(ctx context.Context, socket, uri string) (*Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("connect to libvirt: %w", err)
	}
	c := &Conn{conn: conn, r: bufio.NewReader(conn)}
	if _, err := c.Call(ctx, rpc.AuthList, nil); err != nil {
		conn.Close()
		return nil, fmt.Errorf("authenticate to libvirt: %w", err)
	}
	var e rpc.Encoder
	e.OptString(&uri)
	e.Uint32(0)
	if _, err := c.Call(ctx, rpc.ConnectOpen, e.Bytes()); err != nil {
		conn.Close()
		return nil, fmt.Errorf("open %s: %w", uri, err)
	}
	return c, nil
}

// Close hangs up.
func (c *Conn) Close() error { return c.conn.Close() }

// Call makes a call and returns the payload of its reply. The error of a failed
// call is an *rpc.Error. A call whose context ends breaks the connection, because
// its reply may still come.
func (c *Conn) Call(ctx context.Context, p rpc.Procedure, args []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken != nil {
		return nil, c.broken
	}
	defer c.interrupted(ctx)()
	c.serial++
	h := rpc.Header{Program: rpc.ProgramRemote, Version: rpc.Version, Procedure: p, Serial: c.serial}
	m, err := c.exchange(rpc.NewMessage(h, args))
	if err != nil {
		return nil, c.lost(ctx, err)
	}
	if m.Status != rpc.OK {
		return nil, rpc.DecodeError(m.Payload())
	}
	return m.Payload(), nil
}

// interrupted makes reads and writes fail when ctx ends, until stop is called.
func (c *Conn) interrupted(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) })
}

// lost notes an error after which the connection cannot be used; one of libvirt's
// is none.
func (c *Conn) lost(ctx context.Context, err error) error {
	var theirs *rpc.Error
	if err == nil || errors.As(err, &theirs) {
		return err
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	c.broken = fmt.Errorf("connection to libvirt: %w", err)
	return c.broken
}

// exchange sends a call and waits for its reply. The data of a stream may overtake
// it; everything else that comes is left aside.
func (c *Conn) exchange(m *rpc.Message) (*rpc.Message, error) {
	c.early = nil
	if _, err := m.WriteTo(c.conn); err != nil {
		return nil, err
	}
	for {
		got, err := rpc.ReadMessage(c.r)
		if err != nil {
			return nil, err
		}
		if got.Program != rpc.ProgramRemote || got.Serial != m.Serial {
			continue
		}
		switch got.Type {
		case rpc.Reply:
			return got, nil
		case rpc.Stream, rpc.StreamHole:
			if c.early = append(c.early, got); len(c.early) > maxEarly {
				return nil, fmt.Errorf("%w: %d stream messages before the reply", rpc.ErrMalformed, len(c.early))
			}
		}
	}
}
