package nbd

import (
	"bufio"
	"container/list"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"time"

	"sheepdog/internal/rawio"
)

const (
	readBufferBytes  = 260 << 10 // of 64 writes of 4 KiB with their heads
	optionWriteBytes = 4 << 10
)

// keepAlive finds clients that vanished without a word within a minute.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3}

// conn is a connection through both of its phases. The server's lock guards
// everything but nc, cancel and began.
type conn struct {
	nc       net.Conn
	cancel   context.CancelCauseFunc
	began    time.Time
	place    *list.Element // among the handshakes, or nil
	attached bool          // counts towards MaxConnections
	session  *session      // nil during the handshake
	released bool          // was handed over: not ours to close
}

// serveConn serves a connection that has entered to its end.
func (s *Server) serveConn(ctx context.Context, c *conn) {
	defer s.leave(c)
	defer c.cancel(nil)
	defer func() {
		if !c.released {
			c.nc.Close()
		}
	}()
	if tcp, ok := c.nc.(*net.TCPConn); ok {
		tcp.SetKeepAliveConfig(keepAlive) // best effort: a dead client is also found by writes
	}
	r := s.memory.newReader(source(c.nc))
	defer s.memory.putReader(r)
	name, err := s.converse(ctx, c, r)
	s.logEnd(c.nc, name, err)
}

// converse goes through handshake and session, and tells the export's name.
func (s *Server) converse(ctx context.Context, c *conn, r *reader) (string, error) {
	a, err := s.shakeHands(ctx, c, r)
	if err != nil {
		return "", err
	}
	return a.name, s.runSession(ctx, c, r, a)
}

// runSession runs the session of a connection and detaches from its device.
func (s *Server) runSession(ctx context.Context, c *conn, r *reader, a agreement) error {
	session := newSession(ctx, &s.cfg, &s.memory, c.nc, r, a)
	s.begin(c, session)
	err := session.run()
	detached := a.dev.Close()
	if errors.Is(err, errServerStop) && detached == nil {
		s.release(c, r, a)
	}
	return errors.Join(err, detached)
}

// shakeHands runs the handshake.
func (s *Server) shakeHands(ctx context.Context, c *conn, r *reader) (agreement, error) {
	unhook := context.AfterFunc(ctx, func() { c.nc.Close() })
	defer unhook()
	h := handshake{
		cfg: &s.cfg, nc: c.nc, r: r.Reader, w: bufio.NewWriterSize(c.nc, optionWriteBytes),
		admit: func() bool { return s.attach(c) },
	}
	a, err := h.run(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return a, err
}

// source is where the bytes of a connection are read from.
func source(nc net.Conn) io.Reader {
	if raw := rawio.New(nc); raw != nil {
		return raw
	}
	return nc
}

// reader is what a connection is read through: requests through a buffer, long payloads
// past it.
type reader struct {
	*bufio.Reader
	from sparing
}

// longPayload is from how many bytes on a payload is read to where it belongs. That
// takes a call more, and saves a copy.
const longPayload = 64 << 10

// newReader takes a reader from the pool.
func (m *memory) newReader(nc io.Reader) *reader {
	r, ok := m.readers.Get().(*reader)
	if !ok {
		r = &reader{}
		r.Reader = bufio.NewReaderSize(&r.from, readBufferBytes)
	}
	r.from = sparing{from: nc}
	return r
}

func (m *memory) putReader(r *reader) {
	r.from = sparing{} // do not keep the connection alive
	r.Reset(&r.from)
	m.readers.Put(r)
}

// payload fills p.
func (r *reader) payload(p []byte) (int, error) {
	if len(p) < longPayload {
		return io.ReadFull(r.Reader, p)
	}
	n := 0
	if r.Buffered() > 0 {
		n, _ = r.Read(p[:min(len(p), r.Buffered())]) // all of it is there
	}
	r.from.fulls = 0
	k, err := io.ReadFull(r.from.from, p[n:])
	return n + k, err
}

// sparing fills the large buffer of a reader only as far as firstReadBytes, until a
// client is found to have more in flight: memory that is never touched is not taken.
// After a long payload that begins anew, for the next may be another.
type sparing struct {
	from  io.Reader
	fulls int // reads in a row that found more
}

const (
	firstReadBytes = 16 << 10
	sparingReads   = 2
)

func (s *sparing) Read(p []byte) (int, error) {
	if s.fulls >= sparingReads {
		return s.from.Read(p)
	}
	limit := min(len(p), firstReadBytes)
	n, err := s.from.Read(p[:limit])
	if s.fulls++; n < limit {
		s.fulls = 0
	}
	return n, err
}

// logEnd tells operators of connections that ended in a way that they may have
// to look into; the rest is for debugging.
func (s *Server) logEnd(nc net.Conn, name string, err error) {
	level := slog.LevelWarn
	if name == "" || err == nil || isQuietEnd(err) {
		level = slog.LevelDebug
	}
	s.cfg.Log.Log(context.Background(), level, "nbd: connection ended",
		"export", name, "client", nc.RemoteAddr().String(), "err", err)
}

// isQuietEnd tells whether a session ended as sessions do.
func isQuietEnd(err error) bool {
	return errors.Is(err, errHungUp) || errors.Is(err, errServerStop) || errors.Is(err, context.Canceled)
}
