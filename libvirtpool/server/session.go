package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"sheepdog/libvirtpool/rpc"
	"sheepdog/libvirtpool/storage"
)

// session is one client. Messages are read in order by one goroutine, which
// answers none that takes time: those have goroutines of their own.
type session struct {
	srv    *Server
	client *wire
	up     *upstream // nil: we stand alone
	peer   peer

	group *errgroup.Group
	ctx   context.Context // ends with the connection; only methods of session use it
	calls chan struct{}   // one token per call in progress

	readOnly atomic.Bool
	uri      string      // that the client opened
	closing  atomic.Bool // the client asked libvirtd to hang up
	events   chan storage.Event

	mu        sync.Mutex
	streams   map[uint32]*stream // ours, by serial
	callbacks map[int32]callback // event registrations, by callback id
	nextID    int32              // of callbacks, standing alone
}

// errClosed ends a session in an orderly way.
var errClosed = errors.New("the client closed the connection")

// session serves a client until either side hangs up.
func (s *Server) session(ctx context.Context, conn net.Conn, a Access) error {
	defer conn.Close()
	who, err := peerOf(conn)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &session{srv: s, client: newWire(conn), peer: who, calls: make(chan struct{}, maxCalls),
		events: make(chan storage.Event, eventQueue), streams: map[uint32]*stream{}, callbacks: map[int32]callback{}}
	c.readOnly.Store(a == ReadOnly)
	c.group, c.ctx = errgroup.WithContext(ctx)
	if err := c.connect(ctx, a); err != nil {
		return err
	}
	defer context.AfterFunc(c.ctx, c.hangUp)()
	defer s.cfg.Driver.Subscribe(c.queue)()
	s.log.Debug("a client connected", "peer", who, "readOnly", a == ReadOnly)
	c.group.Go(c.readClient)
	c.group.Go(c.sendEvents)
	if c.up != nil {
		c.group.Go(c.readUpstream)
	}
	err = c.group.Wait()
	c.hangUp()
	if errors.Is(err, errClosed) || ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("client pid %d uid %d: %w", who.pid, who.uid, err)
}

// hangUp wakes everybody who waits for a peer.
func (c *session) hangUp() {
	c.client.close()
	if c.up != nil {
		c.up.close()
	}
}

func (c *session) readClient() error {
	for {
		m, err := c.client.read()
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed):
			return errClosed
		case err != nil:
			return fmt.Errorf("read from the client: %w", err)
		}
		if err := c.handle(m); err != nil {
			return err
		}
	}
}

// handle is called in the order of messages and must not wait for the cluster.
func (c *session) handle(m *rpc.Message) error {
	switch {
	case c.up != nil && m.Serial >= ownSerials:
		return fmt.Errorf("%w: serial %d, which is kept for calls of ours", rpc.ErrMalformed, m.Serial)
	case m.Program == rpc.ProgramKeepalive:
		return c.keepalive(m)
	case m.Program != rpc.ProgramRemote || m.Version != rpc.Version:
		return c.foreign(m)
	case m.Type == rpc.Stream || m.Type == rpc.StreamHole:
		return c.streamMessage(m)
	case m.Type == rpc.Call:
		return c.call(m)
	}
	return fmt.Errorf("%w: type %d from a client", rpc.ErrMalformed, m.Type)
}

// keepalive answers pings here, whatever happens behind.
func (c *session) keepalive(m *rpc.Message) error {
	if uint32(m.Procedure) != rpc.KeepalivePing {
		return nil
	}
	h := m.Header
	h.Procedure, h.Type, h.Status = rpc.Procedure(rpc.KeepalivePong), rpc.Event, rpc.OK
	return c.client.send(rpc.NewMessage(h, nil))
}

// foreign passes on what is of another program, such as QEMU's.
func (c *session) foreign(m *rpc.Message) error {
	if c.up != nil {
		return c.up.send(m)
	}
	if m.Type != rpc.Call {
		return nil
	}
	return c.fail(m.Header, rpc.Errorf(rpc.CodeNoSupport, "program %#x version %d", m.Program, m.Version))
}

// background runs f while later messages are handled. It waits while too many
// calls are in progress.
func (c *session) background(f func(ctx context.Context) error) error {
	select {
	case c.calls <- struct{}{}:
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
	c.group.Go(func() error {
		defer func() { <-c.calls }()
		return f(c.ctx)
	})
	return nil
}

// later is background for the reader of libvirtd's answers, which must not wait: calls
// in progress may wait for those.
func (c *session) later(f func(ctx context.Context) error) {
	c.group.Go(func() error {
		select {
		case c.calls <- struct{}{}:
		case <-c.ctx.Done():
			return nil
		}
		defer func() { <-c.calls }()
		return f(c.ctx)
	})
}

// answer runs f in the background and sends what it encodes, or its error.
func (c *session) answer(h rpc.Header, f func(ctx context.Context, out *rpc.Encoder) error) error {
	return c.background(func(ctx context.Context) error { return c.answerNow(ctx, h, f) })
}

func (c *session) answerNow(ctx context.Context, h rpc.Header, f func(ctx context.Context, out *rpc.Encoder) error) error {
	var out rpc.Encoder
	if err := f(ctx, &out); err != nil {
		return c.fail(h, err)
	}
	return c.reply(h, out.Bytes())
}

func (c *session) reply(h rpc.Header, payload []byte) error {
	return c.client.send(rpc.NewMessage(h.Reply(rpc.OK), payload))
}

func (c *session) fail(h rpc.Header, err error) error {
	return c.client.send(rpc.NewMessage(h.Reply(rpc.Failed), rpc.AsError(err).Encode()))
}
