package sim

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// backlog is how many connections wait to be accepted.
const backlog = 128

// Addr is an address of a Net.
type Addr struct {
	host  string
	port  int
	proto string // tcp or udp
}

// Network is "tcp" or "udp".
func (a Addr) Network() string { return a.proto }

func (a Addr) String() string { return net.JoinHostPort(a.host, strconv.Itoa(a.port)) }

// Host is one life of a host: a sheepdog.Network.
type Host struct {
	net  *Net
	name string
	dead chan struct{} // closed by Kill
}

// Name is the host's name.
func (h *Host) Name() string { return h.name }

func (h *Host) isDead() bool {
	select {
	case <-h.dead:
		return true
	default:
		return false
	}
}

// resolve reads HOST:PORT.
func (h *Host) resolve(addr, proto string) (Addr, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return Addr{}, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return Addr{}, fmt.Errorf("address %s: port: %w", addr, err)
	}
	switch host {
	case "", "0.0.0.0", "::", "127.0.0.1", "::1", "localhost":
		host = h.name
	}
	return Addr{host, int(n), proto}, nil
}

func opError(op string, a Addr, err error) error {
	return &net.OpError{Op: op, Net: a.proto, Addr: a, Err: err}
}

// bind finds the address to listen at. net.mu is held.
func (h *Host) bind(addr, proto string, taken func(Addr) bool) (Addr, error) {
	a, err := h.resolve(addr, proto)
	switch {
	case err != nil:
		return a, err
	case h.isDead():
		return a, opError("listen", a, net.ErrClosed)
	case a.host != h.name:
		return a, opError("listen", a, syscall.EADDRNOTAVAIL)
	}
	if a.port == 0 {
		a.port = h.ephemeral()
	}
	if taken(a) {
		return a, opError("listen", a, syscall.EADDRINUSE)
	}
	return a, nil
}

// ephemeral is a port that was not used before. net.mu is held.
func (h *Host) ephemeral() int {
	p := h.net.nextPort[h.name]
	h.net.nextPort[h.name] = p + 1
	return 32768 + p%28000
}

// Listen opens a port for streams.
func (h *Host) Listen(addr string) (net.Listener, error) {
	n := h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	a, err := h.bind(addr, "tcp", func(a Addr) bool { return n.listeners[a] != nil })
	if err != nil {
		return nil, err
	}
	l := &listener{host: h, addr: a, conns: make(chan *Conn, backlog), closed: make(chan struct{})}
	n.listeners[a] = l
	return l, nil
}

// ListenPacket opens a port for packets.
func (h *Host) ListenPacket(addr string) (net.PacketConn, error) {
	n := h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	a, err := h.bind(addr, "udp", func(a Addr) bool { return n.packets[a] != nil })
	if err != nil {
		return nil, err
	}
	p := newPacketConn(h, a)
	n.packets[a] = p
	return p, nil
}

// Dial opens a stream. It is refused if nobody listens, and stalls while a
// direction is cut, as long as ctx and the network's DialTimeout allow.
func (h *Host) Dial(ctx context.Context, addr string) (net.Conn, error) {
	a, err := h.resolve(addr, "tcp")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, h.net.opts.DialTimeout, syscall.ETIMEDOUT)
	defer cancel()
	if err := h.reach(ctx, a); err != nil {
		return nil, opError("dial", a, err)
	}
	c, err := h.connect(a)
	if err != nil {
		return nil, opError("dial", a, err)
	}
	return c, nil
}

// reach waits until a packet can go to the host and back.
func (h *Host) reach(ctx context.Context, a Addr) error {
	for trip := 2 * h.net.delay(); ; {
		p := h.net.paths(h.name, a.host)
		var tripped <-chan time.Time
		if p.forth && p.back && !p.fromFrozen {
			t := time.NewTimer(trip)
			defer t.Stop()
			tripped = t.C
		}
		select {
		case <-tripped:
			return nil
		case <-p.changed:
		case <-h.dead:
			return net.ErrClosed
		case <-ctx.Done():
			return dialError(ctx)
		}
	}
}

func dialError(ctx context.Context) error {
	switch cause := context.Cause(ctx); cause {
	case context.DeadlineExceeded:
		return os.ErrDeadlineExceeded
	default:
		return cause
	}
}

// connect makes both ends and puts one into the backlog.
func (h *Host) connect(a Addr) (*Conn, error) {
	n := h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.listeners[a]
	switch {
	case h.isDead():
		return nil, net.ErrClosed
	case l == nil:
		return nil, syscall.ECONNREFUSED
	}
	local := Addr{h.name, h.ephemeral(), "tcp"}
	forth, back := newStream(n, h.name, a.host), newStream(n, a.host, h.name)
	ours := newConn(back, forth, local, a)
	select {
	case l.conns <- newConn(forth, back, a, local):
		n.streams[forth], n.streams[back] = struct{}{}, struct{}{}
		return ours, nil
	default:
		return nil, syscall.ECONNREFUSED
	}
}

// listener is a port for streams.
type listener struct {
	host   *Host
	addr   Addr
	conns  chan *Conn
	once   sync.Once
	closed chan struct{}
}

func (l *listener) Addr() net.Addr { return l.addr }

func (l *listener) Accept() (net.Conn, error) {
	for {
		p := l.host.net.paths(l.addr.host, l.addr.host)
		var conns <-chan *Conn
		if !p.fromFrozen {
			conns = l.conns
		}
		select {
		case <-l.closed:
			return nil, opError("accept", l.addr, net.ErrClosed)
		default:
		}
		select {
		case c := <-conns:
			return c, nil
		case <-p.changed:
		case <-l.closed:
			return nil, opError("accept", l.addr, net.ErrClosed)
		}
	}
}

// Close gives the port up and resets what was not accepted.
func (l *listener) Close() error {
	l.once.Do(func() {
		n := l.host.net
		n.mu.Lock()
		delete(n.listeners, l.addr)
		close(l.closed)
		n.mu.Unlock()
		for {
			select {
			case c := <-l.conns:
				c.abort()
			default:
				return
			}
		}
	})
	return nil
}
