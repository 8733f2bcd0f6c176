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
	"sync/atomic"
	"time"

	"sheepdog/libvirtpool/rpc"
)

// maxEarly bounds the messages that are kept before a reply.
const maxEarly = 64

// Conn is an open connection. It is safe for concurrent use. One that broke is made
// again by the next call: libvirt's connections keep nothing that is needed here.
type Conn struct {
	socket, uri string

	mu     sync.Mutex // held for the time of a call or a stream
	conn   net.Conn
	r      *bufio.Reader
	serial uint32
	early  []*rpc.Message // of the stream of the last call, before its reply
	broken error          // why no further call is possible on conn
	who    []byte         // for whom it speaks, see Identify; nil: for this process

	ended atomic.Bool // by Close
}

// errClosed is returned for calls after Close.
var errClosed = errors.New("the connection to libvirt was closed")

// Dial connects to a socket and opens uri there, such as qemu:///system.
func Dial(ctx context.Context, socket, uri string) (*Conn, error) {
	c := &Conn{socket: socket, uri: uri}
	if err := c.connect(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// connect is called by Dial, and with mu.
func (c *Conn) connect(ctx context.Context) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.socket)
	if err != nil {
		return fmt.Errorf("connect to libvirt: %w", err)
	}
	c.conn, c.r, c.early, c.broken = conn, bufio.NewReader(conn), nil, nil
	if _, err := c.call(ctx, rpc.AuthList, nil); err != nil {
		return c.refused(fmt.Errorf("authenticate to libvirt: %w", err))
	}
	var e rpc.Encoder
	e.OptString(&c.uri)
	e.Uint32(0)
	if _, err := c.call(ctx, rpc.ConnectOpen, e.Bytes()); err != nil {
		return c.refused(fmt.Errorf("open %s: %w", c.uri, err))
	}
	if c.who == nil {
		return nil
	}
	if _, err := c.call(ctx, rpc.ConnectSetIdentity, c.who); err != nil {
		return c.refused(fmt.Errorf("identify the client: %w", err))
	}
	return nil
}

// Identify has libvirtd take further calls for those of somebody else, also when the
// connection is made again. args are those of ConnectSetIdentity.
func (c *Conn) Identify(ctx context.Context, args []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.ready(ctx); err != nil {
		return err
	}
	_, err := c.call(ctx, rpc.ConnectSetIdentity, args)
	if err == nil {
		c.who = args
	}
	return err
}

// refused gives up a connection that is not open yet.
func (c *Conn) refused(err error) error {
	c.conn.Close()
	c.broken = err
	return err
}

// ready makes the connection again if it broke. It is called with mu.
func (c *Conn) ready(ctx context.Context) error {
	if c.ended.Load() {
		return errClosed
	}
	if c.broken == nil {
		return nil
	}
	c.conn.Close()
	return c.connect(ctx)
}

// Close hangs up, once the call or stream that is under way has ended.
func (c *Conn) Close() error {
	c.ended.Store(true)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.conn.Close(); c.broken == nil {
		return err
	}
	return nil
}

// Call makes a call and returns the payload of its reply. The error of a failed
// call is an *rpc.Error. A call whose context ends breaks the connection, because
// its reply may still come.
func (c *Conn) Call(ctx context.Context, p rpc.Procedure, args []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.ready(ctx); err != nil {
		return nil, err
	}
	return c.call(ctx, p, args)
}

// call is Call on the connection that there is.
func (c *Conn) call(ctx context.Context, p rpc.Procedure, args []byte) ([]byte, error) {
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

// interrupted makes reads and writes fail when ctx ends, until stop is called. If that
// comes too late, the connection is of no further use.
func (c *Conn) interrupted(ctx context.Context) (stop func()) {
	conn := c.conn
	off := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return func() {
		if !off() && c.broken == nil {
			c.broken = fmt.Errorf("connection to libvirt: %w", context.Cause(ctx))
		}
	}
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
