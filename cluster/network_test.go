package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"sheepdog"
	"sheepdog/internal/pause"
)

// simNetwork joins hosts in memory. A host may be up, killed (its port refuses,
// its connections are reset) or silent (nothing answers); links may be cut.
type simNetwork struct {
	mu    sync.Mutex
	hosts map[string]*simHost
	cuts  map[[2]string]bool
	conns map[*simConn]bool
	calls uint64
	// giveUp is after how long a call to a process that stands still fails; 0: never.
	giveUp time.Duration
}

type simHost struct {
	net       *simNetwork
	addr      string
	silent    bool
	starved   time.Time     // until then the process does nothing with what it gets
	killed    chan struct{} // closed when the process is gone
	listeners map[Stream]*simListener
	packets   *simPackets
	control   func(ctx context.Context, method string, body []byte) ([]byte, error, bool)
}

const simLatency = 100 * time.Microsecond

func newSimNetwork() *simNetwork {
	return &simNetwork{hosts: map[string]*simHost{}, cuts: map[[2]string]bool{}, conns: map[*simConn]bool{}}
}

// boot starts a process at an address.
func (n *simNetwork) boot(addr string) *simHost {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := &simHost{net: n, addr: addr, killed: make(chan struct{}), listeners: map[Stream]*simListener{}}
	for _, kind := range []Stream{StreamRaft, StreamGossip} {
		h.listeners[kind] = &simListener{host: h, in: make(chan net.Conn, 64), closed: make(chan struct{})}
	}
	n.hosts[addr] = h
	return h
}

// kill ends a process: ports refuse, connections are reset.
func (h *simHost) kill() {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	close(h.killed)
	if h.net.hosts[h.addr] == h {
		delete(h.net.hosts, h.addr)
	}
	for c := range h.net.conns {
		if c.host == h || c.peer.host == h {
			c.reset = true
			c.wakeLocked()
		}
	}
}

func (n *simNetwork) cut(a, b string, on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cuts[[2]string{a, b}] = on
	n.cuts[[2]string{b, a}] = on
	n.wakeAllLocked()
}

func (n *simNetwork) silence(addr string, on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[addr].silent = on
	n.wakeAllLocked()
}

// starve keeps a process from its processor for a while: its host takes packets
// and connections, but nothing is done with them.
func (n *simNetwork) starve(addr string, d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[addr].starved = time.Now().Add(d)
}

// run waits until the process has a processor.
func (h *simHost) run() {
	h.net.mu.Lock()
	until := h.starved
	h.net.mu.Unlock()
	time.Sleep(time.Until(until))
}

func (n *simNetwork) wakeAllLocked() {
	for c := range n.conns {
		c.wakeLocked()
	}
}

// openLocked reports whether packets pass from a to b.
func (n *simNetwork) openLocked(a, b *simHost) bool {
	return !a.silent && !b.silent && !n.cuts[[2]string{a.addr, b.addr}]
}

// reach finds the process at an address as seen from h; it blocks until ctx
// ends where packets are lost.
func (h *simHost) reach(ctx context.Context, addr string) (*simHost, error) {
	if err := pause.For(ctx, simLatency); err != nil {
		return nil, err
	}
	h.net.mu.Lock()
	to, up := h.net.hosts[addr]
	lost := h.silent || h.net.cuts[[2]string{h.addr, addr}] || up && to.silent
	h.net.mu.Unlock()
	if lost {
		<-ctx.Done()
		return nil, fmt.Errorf("dial %s: %w: %w", addr, sheepdog.ErrUnreachable, ctx.Err())
	}
	if !up {
		return nil, fmt.Errorf("dial %s: %w: %w", addr, sheepdog.ErrUnreachable, syscall.ECONNREFUSED)
	}
	return to, nil
}

// Redial has nothing to do: every call is an attempt of its own.
func (h *simHost) Redial(string) {}

// Call implements Caller.
func (h *simHost) Call(ctx context.Context, addr, method string, body []byte) ([]byte, error) {
	to, err := h.reach(ctx, addr)
	if err != nil {
		return nil, err
	}
	type answer struct {
		out []byte
		err error
	}
	done := make(chan answer, 1)
	serving, cancel := context.WithCancel(ctx)
	defer cancel()
	h.net.mu.Lock()
	control := to.control
	h.net.calls++
	giveUp := h.net.giveUp
	h.net.mu.Unlock()
	if giveUp > 0 {
		var stop func()
		ctx, stop = context.WithTimeout(ctx, giveUp)
		defer stop()
	}
	go func() {
		if control == nil {
			done <- answer{err: sheepdog.ErrClosed}
			return
		}
		to.run()
		out, err, ok := control(serving, method, body)
		if !ok {
			err = fmt.Errorf("%w: method %s", sheepdog.ErrInvalid, method)
		}
		done <- answer{out, err}
	}()
	select {
	case a := <-done:
		if _, err := h.reach(ctx, addr); err != nil {
			return nil, err // the answer is lost
		}
		if a.err != nil {
			return nil, sheepdog.WireError(sheepdog.ErrorCode(a.err), a.err.Error())
		}
		return a.out, nil
	case <-to.killed:
		return nil, fmt.Errorf("%w: %w", sheepdog.ErrUnreachable, syscall.ECONNRESET)
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", sheepdog.ErrUnreachable, ctx.Err())
	}
}

func (h *simHost) dialStream(ctx context.Context, kind Stream, addr string) (net.Conn, error) {
	to, err := h.reach(ctx, addr)
	if err != nil {
		return nil, err
	}
	near, far := h.net.pair(h, to)
	l := to.listeners[kind]
	select {
	case l.in <- far:
		return near, nil
	case <-l.closed:
		near.Close()
		return nil, fmt.Errorf("dial %s: %w", addr, syscall.ECONNREFUSED)
	case <-ctx.Done():
		near.Close()
		return nil, ctx.Err()
	}
}

// simHost as sheepdog.Network.

func (h *simHost) Listen(string) (net.Listener, error) { return nil, errors.ErrUnsupported }

func (h *simHost) Dial(ctx context.Context, addr string) (net.Conn, error) {
	to, err := h.reach(ctx, addr)
	if err != nil {
		return nil, err
	}
	near, far := h.net.pair(h, to)
	far.Close()
	return near, nil
}

func (h *simHost) ListenPacket(addr string) (net.PacketConn, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.packets = &simPackets{host: h, in: make(chan simPacket, 1024), closed: make(chan struct{})}
	return h.packets, nil
}

type simAddr string

func (simAddr) Network() string  { return "sim" }
func (a simAddr) String() string { return string(a) }

type simPacket struct {
	from string
	data []byte
}

type simPackets struct {
	host   *simHost
	in     chan simPacket
	closed chan struct{}
	once   sync.Once
}

func (p *simPackets) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case m := <-p.in:
		p.host.run()
		return copy(b, m.data), simAddr(m.from), nil
	case <-p.closed:
		return 0, nil, net.ErrClosed
	}
}

func (p *simPackets) WriteTo(b []byte, addr net.Addr) (int, error) {
	n := p.host.net
	n.mu.Lock()
	defer n.mu.Unlock()
	to, up := n.hosts[addr.String()]
	if up && to.packets != nil && n.openLocked(p.host, to) {
		select {
		case to.packets.in <- simPacket{p.host.addr, append([]byte(nil), b...)}:
		default:
		}
	}
	return len(b), nil
}

func (p *simPackets) Close() error                     { p.once.Do(func() { close(p.closed) }); return nil }
func (p *simPackets) LocalAddr() net.Addr              { return simAddr(p.host.addr) }
func (p *simPackets) SetDeadline(time.Time) error      { return nil }
func (p *simPackets) SetReadDeadline(time.Time) error  { return nil }
func (p *simPackets) SetWriteDeadline(time.Time) error { return nil }

type simListener struct {
	host   *simHost
	in     chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *simListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.in:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *simListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *simListener) Addr() net.Addr { return simAddr(l.host.addr) }

// simConn is one end of a stream; what arrives waits in buf.
type simConn struct {
	net      *simNetwork
	host     *simHost
	peer     *simConn
	buf      []byte
	closed   bool
	reset    bool
	deadline time.Time
	wake     chan struct{}
}

func (n *simNetwork) pair(a, b *simHost) (*simConn, *simConn) {
	x := &simConn{net: n, host: a, wake: make(chan struct{})}
	y := &simConn{net: n, host: b, wake: make(chan struct{}), peer: x}
	x.peer = y
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns[x], n.conns[y] = true, true
	return x, y
}

func (c *simConn) wakeLocked() {
	close(c.wake)
	c.wake = make(chan struct{})
}

func (c *simConn) Read(b []byte) (int, error) {
	for {
		n, wake, deadline, err := c.tryRead(b)
		if n > 0 || err != nil {
			c.host.run()
			return n, err
		}
		var timeout <-chan time.Time
		if !deadline.IsZero() {
			t := time.NewTimer(time.Until(deadline))
			defer t.Stop()
			timeout = t.C
		}
		select {
		case <-wake:
		case <-timeout:
		}
	}
}

func (c *simConn) tryRead(b []byte) (int, chan struct{}, time.Time, error) {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	open := c.net.openLocked(c.peer.host, c.host)
	switch {
	case c.closed:
		return 0, nil, time.Time{}, net.ErrClosed
	case c.reset:
		return 0, nil, time.Time{}, syscall.ECONNRESET
	case !c.deadline.IsZero() && !time.Now().Before(c.deadline):
		return 0, nil, time.Time{}, os.ErrDeadlineExceeded
	case open && len(c.buf) > 0:
		n := copy(b, c.buf)
		c.buf = c.buf[n:]
		return n, nil, time.Time{}, nil
	case open && c.peer.closed:
		return 0, nil, time.Time{}, io.EOF
	}
	return 0, c.wake, c.deadline, nil
}

func (c *simConn) Write(b []byte) (int, error) {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	switch {
	case c.closed:
		return 0, net.ErrClosed
	case c.reset, c.peer.closed:
		return 0, syscall.ECONNRESET
	}
	c.peer.buf = append(c.peer.buf, b...)
	c.peer.wakeLocked()
	return len(b), nil
}

func (c *simConn) Close() error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	c.closed = true
	c.wakeLocked()
	c.peer.wakeLocked()
	delete(c.net.conns, c)
	return nil
}

func (c *simConn) SetDeadline(t time.Time) error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	c.deadline = t
	c.wakeLocked()
	return nil
}

func (c *simConn) SetReadDeadline(t time.Time) error { return c.SetDeadline(t) }
func (c *simConn) SetWriteDeadline(time.Time) error  { return nil }
func (c *simConn) LocalAddr() net.Addr               { return simAddr(c.host.addr) }
func (c *simConn) RemoteAddr() net.Addr              { return simAddr(c.peer.host.addr) }
