package nbd

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"testing"
)

// client speaks the client's side for tests, one request at a time or many.
// It is written from the specification and shares only constants with the server.
type client struct {
	t          testing.TB
	nc         net.Conn
	r          *bufio.Reader
	structured bool
	size       uint64
	flags      uint16
	cookie     uint64
}

// answer is the reply to a request.
type answer struct {
	cookie  uint64
	errno   uint32
	text    string
	data    []byte
	extents []Extent
}

// connect shakes hands up to the transmission phase.
func (g *rig) connect(name string, structured bool) *client {
	g.t.Helper()
	c := g.hello()
	if structured {
		c.mustOption(optStructuredReply, nil)
		c.structured = true
		c.mustOption(optSetMetaContext, metaPayload(name, allocationContext))
	}
	c.attach(name)
	return c
}

// hello connects and exchanges flags.
func (g *rig) hello() *client {
	g.t.Helper()
	return newClient(g.t, g.dial())
}

func newClient(t testing.TB, nc net.Conn) *client {
	t.Helper()
	c := &client{t: t, nc: nc, r: newReplyReader(nc)}
	b := c.read(18)
	if string(b[:16]) != "NBDMAGICIHAVEOPT" || binary.BigEndian.Uint16(b[16:]) != 3 {
		t.Fatalf("greeting is %x", b)
	}
	c.write(binary.BigEndian.AppendUint32(nil, 3))
	return c
}

// attach sends GO and takes size and flags from the answer.
func (c *client) attach(name string) {
	c.t.Helper()
	for _, r := range c.mustOption(optGo, exportPayload(name)) {
		if r.typ == repInfo && binary.BigEndian.Uint16(r.data) == infoExport {
			c.size = binary.BigEndian.Uint64(r.data[2:])
			c.flags = binary.BigEndian.Uint16(r.data[10:])
		}
	}
}

func newReplyReader(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, 1<<20) }

func (c *client) write(b []byte) {
	c.t.Helper()
	if _, err := c.nc.Write(b); err != nil {
		c.t.Fatalf("client writes: %v", err)
	}
}

func (c *client) read(n int) []byte {
	c.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c.r, b); err != nil {
		c.t.Fatalf("client reads %d bytes: %v", n, err)
	}
	return b
}

// ended fails unless the server has closed the connection.
func (c *client) ended() {
	c.t.Helper()
	if b, err := c.r.ReadByte(); err == nil {
		c.t.Fatalf("connection goes on, with byte %#x", b)
	} else if ne, ok := err.(net.Error); ok && ne.Timeout() {
		c.t.Fatal("connection is silent, not closed")
	}
}

type optionReply struct {
	opt, typ uint32
	data     []byte
}

func optionBytes(id uint32, payload []byte) []byte {
	b := append([]byte("IHAVEOPT"), binary.BigEndian.AppendUint32(nil, id)...)
	return append(binary.BigEndian.AppendUint32(b, uint32(len(payload))), payload...)
}

// option sends an option and collects replies up to the final one.
func (c *client) option(id uint32, payload []byte) []optionReply {
	c.t.Helper()
	c.write(optionBytes(id, payload))
	return c.optionReplies(id)
}

func (c *client) optionReplies(id uint32) []optionReply {
	c.t.Helper()
	var all []optionReply
	for {
		h := c.read(20)
		if binary.BigEndian.Uint64(h) != 0x3e889045565a9 {
			c.t.Fatalf("option reply magic is %x", h[:8])
		}
		r := optionReply{binary.BigEndian.Uint32(h[8:]), binary.BigEndian.Uint32(h[12:]), nil}
		if r.opt != id {
			c.t.Fatalf("reply to option %d, want %d", r.opt, id)
		}
		r.data = c.read(int(binary.BigEndian.Uint32(h[16:])))
		all = append(all, r)
		if r.typ == repAck || r.typ>>31 != 0 {
			return all
		}
	}
}

// mustOption fails unless the option is acknowledged.
func (c *client) mustOption(id uint32, payload []byte) []optionReply {
	c.t.Helper()
	all := c.option(id, payload)
	if last := all[len(all)-1]; last.typ != repAck {
		c.t.Fatalf("option %d: reply %#x: %s", id, last.typ, last.data)
	}
	return all
}

func exportPayload(name string, kinds ...uint16) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
	b = binary.BigEndian.AppendUint16(append(b, name...), uint16(len(kinds)))
	for _, k := range kinds {
		b = binary.BigEndian.AppendUint16(b, k)
	}
	return b
}

func metaPayload(name string, queries ...string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
	b = binary.BigEndian.AppendUint32(append(b, name...), uint32(len(queries)))
	for _, q := range queries {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(q))), q...)
	}
	return b
}

func requestBytes(h header, payload []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, 0x25609513)
	b = binary.BigEndian.AppendUint16(b, h.flags)
	b = binary.BigEndian.AppendUint16(b, uint16(h.cmd))
	b = binary.BigEndian.AppendUint64(b, h.cookie)
	b = binary.BigEndian.AppendUint64(b, h.off)
	return append(binary.BigEndian.AppendUint32(b, h.length), payload...)
}

// send sends a request and returns its cookie.
func (c *client) send(h header, payload []byte) uint64 {
	c.t.Helper()
	c.cookie++
	h.cookie = c.cookie
	c.write(requestBytes(h, payload))
	return h.cookie
}

// do sends a request and waits for its answer, which must be the next.
func (c *client) do(h header, payload []byte) answer {
	c.t.Helper()
	cookie := c.send(h, payload)
	a := c.receive(func(uint64) header { return h })
	if a.cookie != cookie {
		c.t.Fatalf("answer to %d, want %d", a.cookie, cookie)
	}
	return a
}

// receive takes the next answer; of finds the request by its cookie.
func (c *client) receive(of func(cookie uint64) header) answer {
	c.t.Helper()
	switch magic := binary.BigEndian.Uint32(c.read(4)); magic {
	case 0x67446698:
		b := c.read(12)
		a := answer{errno: binary.BigEndian.Uint32(b), cookie: binary.BigEndian.Uint64(b[4:])}
		h := of(a.cookie)
		if h.cmd == cmdRead && c.structured {
			c.t.Fatal("simple reply to a read, structured replies were negotiated")
		}
		if h.cmd == cmdRead && a.errno == 0 {
			a.data = c.read(int(h.length))
		}
		return a
	case 0x668e33ef:
		if !c.structured {
			c.t.Fatal("structured reply, not negotiated")
		}
		return c.receiveChunk(of)
	default:
		c.t.Fatalf("reply magic is %#x", magic)
		panic("unreachable")
	}
}

// receiveChunk takes a structured reply of one chunk.
func (c *client) receiveChunk(of func(cookie uint64) header) answer {
	c.t.Helper()
	b := c.read(16)
	flags, typ := binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	a := answer{cookie: binary.BigEndian.Uint64(b[4:])}
	p := c.read(int(binary.BigEndian.Uint32(b[12:])))
	h := of(a.cookie)
	if flags != 1 {
		c.t.Fatalf("chunk flags are %#x, want done", flags)
	}
	switch {
	case typ == 0 && len(p) == 0:
	case typ == 1 && h.cmd == cmdRead && len(p) == int(8+h.length) && binary.BigEndian.Uint64(p) == h.off:
		a.data = p[8:]
	case typ == 5 && h.cmd == cmdBlockStatus && binary.BigEndian.Uint32(p) == allocationContextID:
		for p = p[4:]; len(p) > 0; p = p[8:] {
			a.extents = append(a.extents, Extent{
				uint64(binary.BigEndian.Uint32(p)), ExtentFlags(binary.BigEndian.Uint32(p[4:]))})
		}
	case typ == 1<<15|1 && len(p) == 6+int(binary.BigEndian.Uint16(p[4:])):
		a.errno, a.text = binary.BigEndian.Uint32(p), string(p[6:])
	default:
		c.t.Fatalf("chunk type %d with %d bytes in answer to %v", typ, len(p), h.cmd)
	}
	return a
}
