// Package nbdclient is an NBD client for tests: many requests in flight on one
// connection, simple replies, and a clear difference between an error that the
// server answered and a connection that ended, after which nobody knows what
// became of the requests in flight. It is written from the specification.
package nbdclient

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// ErrEnded is returned when the connection ended before the reply.
var ErrEnded = errors.New("nbd connection ended")

// Errno is an error number that the server answered.
type Errno uint32

func (e Errno) Error() string { return fmt.Sprintf("nbd error %d", uint32(e)) }

const (
	magicOption  = 0x49484156454F5054 // "IHAVEOPT"
	magicReply   = 0x3e889045565a9
	magicRequest = 0x25609513
	magicSimple  = 0x67446698
	optGo        = 7
	repAck       = 1
	repInfo      = 3

	cmdRead  = 0
	cmdWrite = 1
	cmdDisc  = 2
	cmdFlush = 3
)

// Client is one connection to one export.
type Client struct {
	Size uint64 // of the export, in bytes

	nc net.Conn
	r  *bufio.Reader

	sending sync.Mutex // keeps requests whole

	mu      sync.Mutex
	waiting map[uint64]*call
	cookie  uint64
	ended   error
}

type call struct {
	into []byte // of a read
	done chan error
}

// Dial connects to an export by a unix socket.
func Dial(ctx context.Context, socket, export string) (*Client, error) {
	c, err := attach(ctx, socket, export)
	if err == nil {
		go c.receive() // ends with the connection
	}
	return c, err
}

// DialRaw connects to an export and returns the bare connection, in transmission.
func DialRaw(ctx context.Context, socket, export string) (net.Conn, error) {
	c, err := attach(ctx, socket, export)
	if err != nil {
		return nil, err
	}
	return c.nc, nil
}

func attach(ctx context.Context, socket, export string) (*Client, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	c := &Client{nc: nc, r: bufio.NewReaderSize(nc, 256<<10), waiting: map[uint64]*call{}}
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	err = c.handshake(export)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("attach %s at %s: %w", export, socket, err)
	}
	return c, nil
}

func (c *Client) handshake(export string) error {
	var hello [18]byte
	if _, err := io.ReadFull(c.r, hello[:]); err != nil {
		return err
	}
	if string(hello[:16]) != "NBDMAGICIHAVEOPT" {
		return fmt.Errorf("greeting is %x", hello)
	}
	b := binary.BigEndian.AppendUint32(nil, 3) // fixed newstyle, no zeroes
	b = binary.BigEndian.AppendUint64(b, magicOption)
	b = binary.BigEndian.AppendUint32(b, optGo)
	b = binary.BigEndian.AppendUint32(b, uint32(len(export)+6))
	b = binary.BigEndian.AppendUint32(b, uint32(len(export)))
	b = append(b, export...)
	b = binary.BigEndian.AppendUint16(b, 0)
	if _, err := c.nc.Write(b); err != nil {
		return err
	}
	for {
		typ, data, err := c.optionReply()
		switch {
		case err != nil:
			return err
		case typ == repAck:
			return nil
		case typ == repInfo && len(data) >= 12 && binary.BigEndian.Uint16(data) == 0:
			c.Size = binary.BigEndian.Uint64(data[2:])
		case typ>>31 != 0:
			return fmt.Errorf("refused with %#x: %s", typ, data)
		}
	}
}

func (c *Client) optionReply() (typ uint32, data []byte, err error) {
	var h [20]byte
	if _, err := io.ReadFull(c.r, h[:]); err != nil {
		return 0, nil, err
	}
	if binary.BigEndian.Uint64(h[:]) != magicReply {
		return 0, nil, fmt.Errorf("option reply is %x", h)
	}
	data = make([]byte, min(binary.BigEndian.Uint32(h[16:]), 1<<16))
	_, err = io.ReadFull(c.r, data)
	return binary.BigEndian.Uint32(h[12:]), data, err
}

// receive hands replies to those who wait for them.
func (c *Client) receive() {
	err := c.replies()
	c.nc.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = fmt.Errorf("%w: %w", ErrEnded, err)
	for cookie, call := range c.waiting {
		call.done <- c.ended
		delete(c.waiting, cookie)
	}
}

func (c *Client) replies() error {
	var h [16]byte
	for {
		if _, err := io.ReadFull(c.r, h[:]); err != nil {
			return err
		}
		if binary.BigEndian.Uint32(h[:]) != magicSimple {
			return fmt.Errorf("reply is %x", h)
		}
		cookie := binary.BigEndian.Uint64(h[8:])
		c.mu.Lock()
		call := c.waiting[cookie]
		c.mu.Unlock()
		if call == nil {
			return fmt.Errorf("reply to %d, which nobody sent", cookie)
		}
		var err error
		if e := binary.BigEndian.Uint32(h[4:]); e != 0 {
			err = Errno(e)
		} else if _, err := io.ReadFull(c.r, call.into); err != nil {
			return err // the call still waits, and gets it
		}
		c.mu.Lock()
		delete(c.waiting, cookie)
		c.mu.Unlock()
		call.done <- err
	}
}

func (c *Client) do(cmd uint16, off uint64, n int, payload, into []byte) error {
	call := &call{into: into, done: make(chan error, 1)}
	c.mu.Lock()
	if c.ended != nil {
		defer c.mu.Unlock()
		return c.ended
	}
	c.cookie++
	cookie := c.cookie
	c.waiting[cookie] = call
	c.mu.Unlock()
	b := make([]byte, 0, 28+len(payload))
	b = binary.BigEndian.AppendUint32(b, magicRequest)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint16(b, cmd)
	b = binary.BigEndian.AppendUint64(b, cookie)
	b = binary.BigEndian.AppendUint64(b, off)
	b = append(binary.BigEndian.AppendUint32(b, uint32(n)), payload...)
	c.sending.Lock()
	_, err := c.nc.Write(b)
	c.sending.Unlock()
	if err != nil {
		c.nc.Close() // receive ends, and answers
	}
	return <-call.done
}

// Read fills p from offset off.
func (c *Client) Read(p []byte, off uint64) error { return c.do(cmdRead, off, len(p), nil, p) }

// Write writes p at offset off.
func (c *Client) Write(p []byte, off uint64) error { return c.do(cmdWrite, off, len(p), p, nil) }

// Flush makes what was acknowledged durable.
func (c *Client) Flush() error { return c.do(cmdFlush, 0, 0, nil, nil) }

// Close hangs up. Requests in flight end with ErrEnded.
func (c *Client) Close() {
	c.sending.Lock()
	b := binary.BigEndian.AppendUint32(nil, magicRequest)
	b = append(b, 0, 0, 0, cmdDisc)
	c.nc.Write(append(b, make([]byte, 20)...))
	c.sending.Unlock()
	c.nc.Close()
}

// Waiting counts requests that were not answered yet.
func (c *Client) Waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting)
}
