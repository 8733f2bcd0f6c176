package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"sheepdog/internal/rawio"
)

// session is the second phase of a connection: requests and replies. One
// goroutine reads; each request runs in its own, except reads that a Prompt
// device answers at once, and writes that a Starter begins.
type session struct {
	agreement
	cfg     *Config
	known   terms // the size as it was last asked for
	nc      net.Conn
	r       *reader
	memory  *memory
	prompt  Prompt     // dev, or nil
	starter Starter    // dev, or nil
	ready   []*request // writes read, to be begun together
	writes  []Write    // and as a Starter gets them
	begun   [maxStart]bool
	window  *window
	out     writer
	running sync.WaitGroup // requests

	// The life of the connection. It is kept here, against the house rule,
	// because requests start without a closure; nothing else reads it.
	ctx    context.Context
	cancel context.CancelCauseFunc

	payload  progress    // of a WRITE being read
	waiting  atomic.Bool // the reader waits for the limits, not for the client
	draining atomic.Bool // the server stops: read no further request
}

// memory is what all sessions of a server share.
type memory struct {
	buffers  buffers
	requests sync.Pool
	readers  sync.Pool
	shared   *budget
	fair     *fair
}

func newSession(ctx context.Context, cfg *Config, m *memory, nc net.Conn, r *reader, a agreement) *session {
	s := &session{agreement: a, cfg: cfg, nc: nc, r: r, memory: m, window: newWindow(cfg, m.shared, m.fair.join(a.name))}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	s.known = s.terms()
	widen(nc)
	s.prompt, _ = a.dev.(Prompt)
	s.starter, _ = a.dev.(Starter)
	s.out = writer{
		nc: nc, raw: rawio.New(nc), structured: a.structured, buffers: &m.buffers,
		inFlight: s.window.inFlight, done: s.release, fail: s.cancel, kick: make(chan struct{}, 1),
	}
	return s
}

// answerRoom is how much of its answers the socket of a client on this host holds, in
// bytes; Linux doubles it, for what it keeps of them besides. In the usual 208 KiB an
// answer of a MiB goes in eight pieces, each after a wait until the client has taken
// three quarters of what is there (unix(7), socket(7)).
const answerRoom = 512 << 10

// widen makes room for answers in a unix socket. Others find theirs themselves. Where it
// fails, or the host allows less, answers only wait more often.
func widen(nc net.Conn) {
	if u, ok := nc.(*net.UnixConn); ok {
		_ = u.SetWriteBuffer(answerRoom)
	}
}

// run serves until the client leaves, the connection breaks, or the server
// stops, and returns after the last request has ended. The device stays open.
func (s *session) run() error {
	defer s.window.share.leave()
	unhook := context.AfterFunc(s.ctx, func() { s.nc.Close() })
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		s.watch()
	}()
	quit, written := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(written)
		s.out.run(quit)
	}()
	err := s.readAll()
	s.startAll()
	if err != nil && !errors.Is(err, errServerStop) {
		s.cancel(err)
	}
	s.running.Wait()
	close(quit)
	<-written
	s.out.flush()
	unhook() // before the end of ctx: the connection may be handed over
	if cause := context.Cause(s.ctx); cause != nil {
		err = cause
	}
	s.cancel(nil)
	<-watched
	return err
}

// drain makes the session end after the requests that were read.
func (s *session) drain() {
	s.draining.Store(true)
	s.nc.SetReadDeadline(time.Unix(1, 0))
}

// readAll reads requests until the client disconnects.
func (s *session) readAll() error {
	for {
		h, err := s.next()
		if err != nil {
			return err
		}
		if h.cmd == cmdDisc {
			return nil
		}
		if err := s.accept(h); err != nil {
			return err
		}
	}
}

// next reads one request, without its payload.
func (s *session) next() (header, error) {
	if s.r.Buffered() < headerSize {
		s.startAll()
		s.out.flush()
	}
	if s.draining.Load() {
		return header{}, errServerStop
	}
	b, err := s.r.Peek(headerSize)
	switch {
	case err == nil:
	case s.draining.Load() && errors.Is(err, os.ErrDeadlineExceeded):
		return header{}, errServerStop
	case errors.Is(err, io.EOF):
		return header{}, errHungUp
	default:
		return header{}, err
	}
	h, ok := parseHeader(b)
	if !ok {
		return header{}, fmt.Errorf("%w: request magic is %#x", errBroken, b[:4])
	}
	s.r.Discard(headerSize)
	return h, nil
}

// accept takes one request in: it waits for the limits, reads the payload, and
// starts it.
func (s *session) accept(h header) error {
	if h.check(s.known) != nil { // the device may have grown
		s.known = s.terms()
		if err := h.check(s.known); err != nil {
			return s.reject(h, err)
		}
	}
	q, err := s.admit(h, h.memory())
	if err != nil {
		return err
	}
	if h.cmd == cmdRead || h.cmd == cmdWrite {
		q.buf = s.memory.buffers.get(int(h.length))
		q.data = (*q.buf)[:h.length]
	}
	if h.cmd == cmdWrite {
		if err := s.readPayload(q.data); err != nil {
			s.release(q)
			return err
		}
	}
	if h.cmd == cmdRead && h.length > 0 && s.prompt != nil && s.prompt.TryReadAt(q.data, h.off) {
		s.out.add(q)
		return nil
	}
	if h.cmd == cmdWrite && h.flags&cmdFlagFUA == 0 && h.length > 0 && s.starter != nil {
		s.ready = append(s.ready, q)
		s.writes = append(s.writes, Write{Data: q.data, Off: q.off, Done: q.end})
		if len(s.ready) == maxStart {
			s.startAll()
		}
		return nil
	}
	s.running.Add(1)
	go q.start()
	return nil
}

// maxStart is how many writes are begun together.
const maxStart = 64

// startAll begins the writes that were read: those that the device cannot begin
// at once get goroutines. It is called whenever the reader is about to wait.
func (s *session) startAll() {
	if len(s.ready) == 0 {
		return
	}
	s.running.Add(len(s.ready))
	begun := s.begun[:len(s.ready)]
	clear(begun)
	s.starter.StartWrites(s.ctx, s.writes, begun)
	for i, q := range s.ready {
		if !begun[i] { // else q may be gone already
			go q.start()
		}
	}
	clear(s.ready)
	clear(s.writes)
	s.ready, s.writes = s.ready[:0], s.writes[:0]
}

func (s *session) terms() terms {
	return terms{
		size: s.dev.Size(), readOnly: s.dev.ReadOnly(), maxRequest: uint32(s.cfg.MaxRequestBytes),
		structured: s.structured, allocation: s.allocation,
	}
}

// reject answers a request that cannot be served. The payload of a WRITE is
// read and dropped, however long, so that the next request is found.
func (s *session) reject(h header, why error) error {
	if h.cmd == cmdWrite {
		if err := s.skipPayload(int64(h.length)); err != nil {
			return err
		}
	}
	q, err := s.admit(h, 0)
	if err != nil {
		return err
	}
	q.err = why
	s.out.add(q)
	return nil
}

// admit waits until a request may be in flight.
func (s *session) admit(h header, bytes int64) (*request, error) {
	ch, ok := s.window.tryAdmit(bytes)
	if !ok {
		s.startAll()
		s.out.flush() // what the reader itself answered holds places, too
		s.waiting.Store(true)
		var err error
		ch, err = s.window.admit(s.ctx, bytes)
		s.waiting.Store(false)
		if err != nil {
			return nil, err
		}
	}
	q := s.memory.newRequest()
	q.header, q.session, q.charge = h, s, ch
	return q, nil
}

// newRequest takes an empty request from the pool.
func (m *memory) newRequest() *request {
	if q, ok := m.requests.Get().(*request); ok {
		return q
	}
	q := &request{}
	q.start, q.end = q.run, q.ended
	return q
}

// release ends a request: its reply was sent, or nobody wants it.
func (s *session) release(q *request) {
	ch := q.charge
	if q.buf != nil {
		s.memory.buffers.put(q.buf)
	}
	*q = request{start: q.start, end: q.end}
	s.memory.requests.Put(q)
	s.window.leave(ch)
}

// cuts ends the connection, without an answer to the request, if the request
// failed because the server or its node stops. Clients that can, connect again
// and ask again; an error would be one of the disk to the guest.
func (s *session) cuts(err error) bool {
	if err == nil {
		return false
	}
	if s.ctx.Err() != nil {
		return true
	}
	if errors.Is(err, ErrShutdown) || errors.Is(err, context.Canceled) {
		s.cancel(err)
		return true
	}
	return false
}

// readPayload fills p from the client.
func (s *session) readPayload(p []byte) error {
	if s.r.Buffered() >= len(p) {
		_, err := io.ReadFull(s.r, p)
		return err
	}
	s.startAll()
	s.out.flush()
	return s.move(int64(len(p)), func(done int64, n int) (int, error) {
		return s.r.payload(p[done : done+int64(n)])
	})
}

// skipPayload drops n bytes from the client.
func (s *session) skipPayload(n int64) error {
	s.startAll()
	s.out.flush()
	return s.move(n, func(_ int64, n int) (int, error) { return s.r.Discard(n) })
}

// move takes n bytes of payload in steps, which the watcher counts. A server
// that stops interrupts the reader; a payload that has begun is read to its end.
func (s *session) move(n int64, take func(done int64, n int) (int, error)) error {
	s.payload.begin()
	defer s.payload.end()
	for done := int64(0); done < n; {
		k, err := take(done, int(min(n-done, progressStep)))
		done += int64(k)
		s.payload.step()
		if err == nil || done == n {
			continue
		}
		if !s.draining.Load() || !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("%w in the middle of a write", errHungUp)
		}
		s.nc.SetReadDeadline(time.Time{}) // the watcher bounds it
	}
	return nil
}

// watch ends the connection if the client stalls in the middle of a payload,
// or hangs up while the reader is not reading.
func (s *session) watch() {
	t := time.NewTicker(s.cfg.watchPeriod())
	defer t.Stop()
	var in, out standstill
	for {
		select {
		case <-s.ctx.Done():
			return
		case now := <-t.C:
			limit := s.patience()
			if in.lasted(&s.payload, now) > limit || out.lasted(&s.out.moving, now) > limit {
				s.cancel(errStalled)
			}
			if s.waiting.Load() && hungUp(s.nc) {
				s.cancel(errHungUp)
			}
		}
	}
}

// patience is for how long a transfer may stand still.
func (s *session) patience() time.Duration {
	if s.memory.shared.pressed() && s.window.holdsShared() {
		return min(s.cfg.PressureTimeout, s.cfg.StallTimeout)
	}
	return s.cfg.StallTimeout
}
