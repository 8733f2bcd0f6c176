package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"sheepdog"
)

// Handler does the work behind a Server. Contexts end when the caller gave up
// or its connection broke.
type Handler interface {
	// Write is called on the goroutine that reads the connection, with all
	// writes that had arrived. While it runs nothing else is read from that
	// connection: what has to wait for anything but the local disk should be
	// answered later, through done, and at the latest when ctx ends. The data are
	// not kept after done.
	sheepdog.Replica
	// Forward must not keep the request's data or buf after it returned.
	sheepdog.Forwarder
	// Control runs a method for a node, which may belong to no cluster yet.
	Control(ctx context.Context, from sheepdog.NodeID, method string, body []byte) ([]byte, error)
}

// Server serves the frames of other nodes' Pools.
type Server struct {
	opts    Options
	handler Handler
	buffers buffers
	batches sync.Pool // of *writeBatch
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu        sync.Mutex
	sessions  map[*session]struct{}
	greeting  map[net.Conn]struct{}
	listeners map[net.Listener]struct{}
	closed    bool
}

// NewServer makes a server. It runs until Close.
func NewServer(h Handler, opts Options) *Server {
	s := &Server{
		opts: opts.withDefaults(), handler: h, sessions: make(map[*session]struct{}),
		greeting: make(map[net.Conn]struct{}), listeners: make(map[net.Listener]struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.wg.Go(s.heartbeats)
	return s
}

// Serve accepts peer connections, of which the preamble was dealt with (see
// Mux), until l or the server is closed.
func (s *Server) Serve(l net.Listener) error {
	if !s.enter(l) {
		return l.Close()
	}
	defer s.leave(l)
	for {
		conn, err := l.Accept()
		if err != nil {
			if s.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("accept peer connections: %w", err)
		}
		s.accept(conn)
	}
}

func (s *Server) enter(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Add(1)
	s.listeners[l] = struct{}{}
	return true
}

func (s *Server) leave(l net.Listener) {
	s.mu.Lock()
	delete(s.listeners, l)
	s.mu.Unlock()
	s.wg.Done()
}

func (s *Server) accept(conn net.Conn) {
	s.mu.Lock()
	full := len(s.sessions)+len(s.greeting) >= s.opts.MaxSessions
	if full || s.closed {
		s.mu.Unlock()
		conn.Close()
		if full {
			s.opts.Logger.Warn("peer connection refused: too many", "addr", conn.RemoteAddr(), "limit", s.opts.MaxSessions)
		}
		return
	}
	s.greeting[conn] = struct{}{}
	s.wg.Go(func() { s.serve(conn) })
	s.mu.Unlock()
}

// serve greets and serves one connection.
func (s *Server) serve(conn net.Conn) {
	ss := newSession(s, conn)
	err := ss.greet()
	s.mu.Lock()
	delete(s.greeting, conn)
	if s.closed {
		err = errors.Join(err, sheepdog.ErrClosed)
	}
	if err == nil {
		s.sessions[ss] = struct{}{}
	}
	s.mu.Unlock()
	if err == nil {
		err = ss.run()
		s.mu.Lock()
		delete(s.sessions, ss)
		s.mu.Unlock()
	} else {
		ss.in.close()
	}
	conn.Close()
	s.log(conn, ss.from.node, err)
}

// log tells of ends that say something: a peer that hung up does not.
func (s *Server) log(conn net.Conn, node sheepdog.NodeID, err error) {
	switch reasonOf(err) {
	case ClosedHere, Reset:
		return
	}
	s.opts.Logger.Warn("peer connection ended", "addr", conn.RemoteAddr(), "node", node, "err", err)
}

// heartbeats ticks all sessions.
func (s *Server) heartbeats() {
	t := time.NewTicker(s.opts.Heartbeat)
	defer t.Stop()
	var all []*session
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-t.C:
		}
		all = all[:0]
		s.mu.Lock()
		for ss := range s.sessions {
			all = append(all, ss)
		}
		s.mu.Unlock()
		for _, ss := range all {
			tick(ss.out, ss.live)
		}
		clear(all)
	}
}

// Close ends all connections and waits until no handler runs.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	for l := range s.listeners {
		l.Close()
	}
	for conn := range s.greeting {
		conn.Close()
	}
	for ss := range s.sessions {
		ss.out.close(sheepdog.ErrClosed)
	}
	s.mu.Unlock()
	s.cancel()
	s.wg.Wait()
}
