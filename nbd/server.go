package nbd

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"sheepdog/internal/pause"
)

// Server serves the exports of one Exports on any number of listeners.
type Server struct {
	cfg    Config
	memory memory

	mu         sync.Mutex
	stopping   bool
	listeners  map[net.Listener]struct{}
	conns      map[*conn]struct{}
	handshakes list.List     // of *conn that have not attached, oldest first
	room       chan struct{} // holds a token after a handshake has ended
	attached   int
	handing    bool          // stopping, and connections are not to be closed
	released   []Transfer    // connections that were handed over
	emptied    chan struct{} // closed when stopping and no connection is left
}

// New returns a server that does nothing until Serve. It fails if the limits
// contradict each other.
func New(cfg Config) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Server{
		cfg:       cfg,
		memory:    memory{shared: newBudget(cfg.SharedBytes), fair: newFair(time.Now)},
		listeners: map[net.Listener]struct{}{},
		conns:     map[*conn]struct{}{},
		room:      make(chan struct{}, 1),
		emptied:   make(chan struct{}),
	}, nil
}

// Serve accepts connections from l, TCP or unix, until ctx ends, Shutdown is
// called, or l is closed or fails, and closes l. It returns when the last of its
// connections has ended: at the end of ctx they are cut, otherwise they go on.
// So a listener can be closed, to pass it to another process, without harm to
// those who came through it. It returns nil after Shutdown and after l was
// closed, and the cause of ctx when that ended.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	defer l.Close()
	if !s.addListener(l) {
		return ErrShutdown
	}
	defer s.dropListener(l)
	unhook := context.AfterFunc(ctx, func() { l.Close() })
	defer unhook()
	var serving sync.WaitGroup
	err := s.acceptAll(ctx, l, &serving)
	serving.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return fmt.Errorf("nbd: accept on %v: %w", l.Addr(), err)
}

// Waiting times after an accept that failed for want of descriptors or memory.
const (
	acceptBackoffMin = 5 * time.Millisecond
	acceptBackoffMax = time.Second
)

// acceptAll starts a goroutine for each connection.
func (s *Server) acceptAll(ctx context.Context, l net.Listener, serving *sync.WaitGroup) error {
	backoff := acceptBackoffMin
	for {
		nc, err := l.Accept()
		if err != nil {
			if !temporary(err) || ctx.Err() != nil {
				return s.acceptEnded(l, err)
			}
			s.cfg.Log.Warn("nbd: accept failed, trying again", "err", err, "after", backoff)
			if pause.For(ctx, backoff) != nil {
				return err
			}
			backoff = min(2*backoff, acceptBackoffMax)
			continue
		}
		backoff = acceptBackoffMin
		s.awaitRoom(ctx)
		connCtx, cancel := context.WithCancelCause(ctx)
		c := &conn{nc: nc, cancel: cancel, began: time.Now()}
		if !s.enter(c) {
			cancel(nil)
			nc.Close()
			continue // Accept is about to fail
		}
		serving.Go(func() { s.serveConn(connCtx, c) })
	}
}

// handshakePatience is what a handshake has before one that waits pushes it out. An
// honest one takes milliseconds, but not where all guests of a host connect at once.
const handshakePatience = 250 * time.Millisecond

// awaitRoom waits, if there are as many handshakes as may be, until one ends or the
// oldest has had its time.
func (s *Server) awaitRoom(ctx context.Context) {
	for left := s.crowded(); left > 0 && ctx.Err() == nil; left = s.crowded() {
		t := time.NewTimer(left)
		select {
		case <-s.room:
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// crowded is how long another handshake has to wait at most.
func (s *Server) crowded() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping || s.handshakes.Len() < s.cfg.MaxHandshakes {
		return 0
	}
	return handshakePatience - time.Since(s.handshakes.Front().Value.(*conn).began)
}

// acceptEnded reports a listener that failed at once: Serve returns its error
// only after the last connection, which may be long after.
func (s *Server) acceptEnded(l net.Listener, err error) error {
	if !errors.Is(err, net.ErrClosed) {
		s.cfg.Log.Error("nbd: no longer accepting connections", "listener", l.Addr().String(), "err", err)
	}
	return err
}

// temporary tells whether another accept may succeed.
func temporary(err error) bool {
	var t interface{ Temporary() bool }
	return errors.As(err, &t) && t.Temporary() && !errors.Is(err, net.ErrClosed)
}

// Shutdown stops accepting, lets requests that were read end and their replies
// go out, and closes all connections. When ctx ends first, it cuts the rest and
// returns an error without waiting for them; Serve does wait. A server that was
// shut down stays so.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop(false)
	return s.awaitEmpty(ctx)
}

// awaitEmpty waits for the last connection, or cuts what is left.
func (s *Server) awaitEmpty(ctx context.Context) error {
	select {
	case <-s.emptied:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handing = false // one that is cut is not handed over: its requests get no answer
	for c := range s.conns {
		c.cancel(errServerStop)
	}
	return fmt.Errorf("nbd: %d connections cut before their requests ended: %w", len(s.conns), context.Cause(ctx))
}

// stop closes listeners, ends handshakes and drains sessions.
func (s *Server) stop(handing bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return
	}
	s.stopping, s.handing = true, handing
	for l := range s.listeners {
		l.Close()
	}
	for c := range s.conns {
		if c.session != nil {
			c.session.drain()
		} else {
			c.cancel(errServerStop)
		}
	}
	if len(s.conns) == 0 {
		close(s.emptied)
	}
}

func (s *Server) addListener(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.listeners[l] = struct{}{}
	return true
}

func (s *Server) dropListener(l net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
}

// enter registers a connection that begins its handshake; if there are too
// many, the oldest must go.
func (s *Server) enter(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	if s.handshakes.Len() >= s.cfg.MaxHandshakes {
		oldest := s.handshakes.Remove(s.handshakes.Front()).(*conn)
		oldest.place = nil
		oldest.cancel(errEvicted)
	}
	c.place = s.handshakes.PushBack(c)
	s.conns[c] = struct{}{}
	return true
}

// attach takes a place for a session.
func (s *Server) attach(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !c.attached && s.attached < s.cfg.MaxConnections {
		s.attached++
		c.attached = true
	}
	return c.attached
}

// Clients counts the connections past their handshake, and how many there may be.
func (s *Server) Clients() (attached, most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.attached, s.cfg.MaxConnections
}

// begin turns a handshake into a session.
func (s *Server) begin(c *conn, session *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaveHandshake(c)
	c.session = session
	if s.stopping {
		session.drain()
	}
}

// settle makes a connection safe from being pushed out by handshakes.
func (s *Server) settle(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaveHandshake(c)
}

func (s *Server) leaveHandshake(c *conn) {
	if c.place != nil {
		s.handshakes.Remove(c.place)
		c.place = nil
		select {
		case s.room <- struct{}{}:
		default:
		}
	}
}

// leave forgets a connection.
func (s *Server) leave(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaveHandshake(c)
	if c.attached {
		s.attached--
	}
	delete(s.conns, c)
	if s.stopping && len(s.conns) == 0 {
		close(s.emptied)
	}
}
