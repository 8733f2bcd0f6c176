package nbd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// scripted is a connection whose client sends all it has to say and then hangs
// up. What the server sends is kept.
type scripted struct {
	in  *bytes.Reader
	out bytes.Buffer // the writer is one goroutine at a time
}

func (c *scripted) Read(p []byte) (int, error)       { return c.in.Read(p) }
func (c *scripted) Write(p []byte) (int, error)      { return c.out.Write(p) }
func (c *scripted) Close() error                     { return nil }
func (c *scripted) LocalAddr() net.Addr              { return &net.UnixAddr{Name: "server", Net: "unix"} }
func (c *scripted) RemoteAddr() net.Addr             { return &net.UnixAddr{Name: "client", Net: "unix"} }
func (c *scripted) SetDeadline(time.Time) error      { return nil }
func (c *scripted) SetReadDeadline(time.Time) error  { return nil }
func (c *scripted) SetWriteDeadline(time.Time) error { return nil }

// fuzzServer serves scripted connections of devices of 1 MiB.
func fuzzServer(t testing.TB) (*Server, *memExports) {
	e := &memExports{t: t, devices: map[string]Device{"disk": newMemDevice(1 << 20)}, names: []string{"disk"}}
	s, err := New(Config{Exports: e, MaxRequestBytes: 64 << 10, SharedBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return s, e
}

// FuzzHandshake feeds a client's bytes to a whole connection. What comes out
// must be well-formed option replies until the transmission phase.
func FuzzHandshake(f *testing.F) {
	hello := []byte{0, 0, 0, 3}
	join := func(parts ...[]byte) []byte { return bytes.Join(append([][]byte{hello}, parts...), nil) }
	f.Add(join(optionBytes(optGo, exportPayload("disk", infoName)), requestBytes(header{cmd: cmdDisc}, nil)))
	f.Add(join(optionBytes(optStructuredReply, nil), optionBytes(optSetMetaContext, metaPayload("disk", allocationContext)),
		optionBytes(optInfo, exportPayload("disk")), optionBytes(optAbort, nil)))
	f.Add(join(optionBytes(optList, nil), optionBytes(optExportName, []byte("disk"))))
	f.Add(join(optionBytes(optGo, nil), exportPayload("disk")))
	f.Add(join(optionBytes(optExtendedHeaders, nil), optionBytes(optStartTLS, []byte{1}), optionBytes(0, make([]byte, 100))))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, e := fuzzServer(t)
		nc := &scripted{in: bytes.NewReader(data)}
		serveScripted(t, s, nc)
		if n := e.open.Load(); n != 0 {
			t.Fatalf("%d devices were not closed", n)
		}
		if len(nc.out.Bytes()) < 18 {
			t.Fatalf("greeting is %x", nc.out.Bytes())
		}
	})
}

// serveScripted serves one connection and returns when it has ended.
func serveScripted(t testing.TB, s *Server, nc net.Conn) {
	ctx, cancel := context.WithCancelCause(context.Background())
	c := &conn{nc: nc, cancel: cancel}
	if !s.enter(c) {
		t.Fatal("not let in")
	}
	s.serveConn(ctx, c)
	if connections(s) != 0 {
		t.Fatal("connection is still registered")
	}
	if !s.memory.shared.tryTake(s.cfg.SharedBytes) {
		t.Fatal("shared bytes were not given back")
	}
}

// FuzzTransmission feeds bytes to a session and checks that every reply is
// well-formed, answers one request, and that nothing stays in flight.
func FuzzTransmission(f *testing.F) {
	all := func(hs ...header) []byte {
		var b []byte
		for i, h := range hs {
			h.cookie = uint64(i)
			var p []byte
			if h.cmd == cmdWrite {
				p = make([]byte, h.length)
			}
			b = append(b, requestBytes(h, p)...)
		}
		return b
	}
	f.Add(all(header{cmd: cmdRead, length: 4096}, header{cmd: cmdWrite, length: 512}, header{cmd: cmdDisc}), true)
	f.Add(all(header{cmd: cmdBlockStatus, length: 4096}, header{cmd: cmdTrim, length: 1}, header{cmd: cmdFlush}), true)
	f.Add(all(header{cmd: cmdWriteZeroes, length: 9, flags: 0x13}, header{cmd: cmdCache, length: 5}), false)
	f.Add(all(header{cmd: cmdWrite, off: 1 << 63, length: 100}, header{cmd: 99}, header{cmd: cmdRead, length: 1 << 31}), true)
	f.Add(all(header{cmd: cmdRead, length: 4096})[:27], false)
	f.Fuzz(func(t *testing.T, data []byte, structured bool) {
		s, e := fuzzServer(t)
		dev, err := e.Open(t.Context(), "disk", Info{})
		if err != nil {
			t.Fatal(err)
		}
		nc := &scripted{in: bytes.NewReader(data)}
		a := agreement{name: "disk", dev: dev, structured: structured, allocation: structured}
		r := s.memory.newReader(nc)
		session := newSession(t.Context(), &s.cfg, &s.memory, nc, r, a)
		session.run()
		dev.Close()
		if n := session.window.inFlight(); n != 0 {
			t.Fatalf("%d requests are left in flight", n)
		}
		if !s.memory.shared.tryTake(s.cfg.SharedBytes) {
			t.Fatal("shared bytes were not given back")
		}
		checkReplies(t, data, nc.out.Bytes(), structured)
	})
}

// checkReplies parses a stream of replies against the requests they answer.
func checkReplies(t *testing.T, requests, replies []byte, structured bool) {
	pending := map[uint64][]header{}
	for len(requests) >= headerSize {
		h, ok := parseHeader(requests)
		requests = requests[headerSize:]
		if !ok || h.cmd == cmdDisc {
			break
		}
		if h.cmd == cmdWrite {
			if int(h.length) > len(requests) {
				break
			}
			requests = requests[h.length:]
		}
		if len(pending[h.cookie]) > 0 {
			return // a client that repeats itself cannot tell the answers apart
		}
		pending[h.cookie] = append(pending[h.cookie], h)
	}
	c := &client{t: t, structured: structured, r: newReplyReader(bytes.NewReader(replies))}
	for {
		if _, err := c.r.Peek(1); errors.Is(err, io.EOF) {
			return
		}
		c.receive(func(cookie uint64) header {
			hs := pending[cookie]
			if len(hs) == 0 {
				t.Fatalf("answer to %d, which nobody asked", cookie)
			}
			pending[cookie] = hs[1:]
			return hs[0]
		})
	}
}

// FuzzOptionPayloads checks the parsers of option payloads by themselves.
func FuzzOptionPayloads(f *testing.F) {
	f.Add(exportPayload("disk", 1, 2, 3))
	f.Add(metaPayload("disk", "base:", allocationContext))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		if q, err := parseExportQuery(data); err == nil && !bytes.Equal(exportPayload(q.name, q.kinds...), data) {
			t.Errorf("%+v is not %x", q, data)
		}
		if q, err := parseMetaQuery(data); err == nil && !bytes.Equal(metaPayload(q.name, q.queries...), data) {
			t.Errorf("%+v is not %x", q, data)
		}
	})
}
