package sim

import (
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// maxPacket is the largest packet in bytes, as of UDP over IPv4.
	maxPacket = 65507
	// maxPackets is how many packets wait to be read; further ones are lost.
	maxPackets = 4096
)

type packet struct {
	at   time.Time
	from Addr
	data []byte
}

// packetConn is a port for packets.
type packetConn struct {
	host *Host
	addr Addr

	mu        sync.Mutex
	queue     []packet
	closed    bool
	deadlineR time.Time
	deadlineW time.Time
	changed   chan struct{}
}

func newPacketConn(h *Host, a Addr) *packetConn {
	return &packetConn{host: h, addr: a, changed: make(chan struct{})}
}

func (p *packetConn) update(apply func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	apply()
	close(p.changed)
	p.changed = make(chan struct{})
}

// ReadFrom returns the packet that arrived first. What does not fit is lost.
func (p *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		paths := p.host.net.paths(p.addr.host, p.addr.host)
		p.mu.Lock()
		got, err, until := p.tryRead(paths)
		changed, deadline := p.changed, p.deadlineR
		p.mu.Unlock()
		if err != nil {
			return 0, nil, opError("read", p.addr, err)
		}
		if got.data != nil {
			return copy(b, got.data), got.from, nil
		}
		waitFor{paths, []time.Time{until, deadline}}.wait(changed)
	}
}

// tryRead is one attempt. mu is held.
func (p *packetConn) tryRead(w paths) (got packet, err error, until time.Time) {
	switch {
	case p.closed:
		return got, net.ErrClosed, until
	case expired(p.deadlineR):
		return got, os.ErrDeadlineExceeded, until
	case w.fromFrozen || len(p.queue) == 0:
		return got, nil, until
	}
	first := 0
	for i := range p.queue {
		if p.queue[i].at.Before(p.queue[first].at) {
			first = i
		}
	}
	got = p.queue[first]
	if got.at.After(time.Now()) {
		return packet{}, nil, got.at
	}
	p.queue = append(p.queue[:first], p.queue[first+1:]...)
	return got, nil, until
}

// WriteTo sends a packet; as on a real network nobody learns whether it arrives.
func (p *packetConn) WriteTo(b []byte, to net.Addr) (int, error) {
	a, err := p.host.resolve(to.String(), "udp")
	if err != nil {
		return 0, err
	}
	if len(b) > maxPacket {
		return 0, opError("write", a, syscall.EMSGSIZE)
	}
	w, err := p.thawed(a)
	if err != nil {
		return 0, opError("write", a, err)
	}
	if !w.forth || p.host.net.lost() {
		return len(b), nil
	}
	n := p.host.net
	n.mu.Lock()
	dst := n.packets[a]
	n.mu.Unlock()
	for copies := 1; dst != nil && copies > 0; copies-- {
		if copies == 1 && n.happens(n.opts.Duplicates) {
			copies++
		}
		dst.arrive(packet{at: time.Now().Add(n.delay()), from: p.addr, data: append(make([]byte, 0, len(b)+1), b...)})
	}
	return len(b), nil
}

// thawed waits while the host is frozen.
func (p *packetConn) thawed(to Addr) (paths, error) {
	for {
		w := p.host.net.paths(p.addr.host, to.host)
		p.mu.Lock()
		closed, deadline, changed := p.closed, p.deadlineW, p.changed
		p.mu.Unlock()
		switch {
		case closed:
			return w, net.ErrClosed
		case expired(deadline):
			return w, os.ErrDeadlineExceeded
		case !w.fromFrozen:
			return w, nil
		}
		waitFor{w, []time.Time{deadline}}.wait(changed)
	}
}

func (p *packetConn) arrive(k packet) {
	p.update(func() {
		if !p.closed && len(p.queue) < maxPackets {
			p.queue = append(p.queue, k)
		}
	})
}

// Close gives the port up.
func (p *packetConn) Close() error {
	n := p.host.net
	n.mu.Lock()
	if n.packets[p.addr] == p {
		delete(n.packets, p.addr)
	}
	n.mu.Unlock()
	p.update(func() { p.closed, p.queue = true, nil })
	return nil
}

// LocalAddr is the port's address.
func (p *packetConn) LocalAddr() net.Addr { return p.addr }

// SetDeadline bounds reads and writes.
func (p *packetConn) SetDeadline(t time.Time) error {
	p.update(func() { p.deadlineR, p.deadlineW = t, t })
	return nil
}

// SetReadDeadline bounds reads.
func (p *packetConn) SetReadDeadline(t time.Time) error {
	p.update(func() { p.deadlineR = t })
	return nil
}

// SetWriteDeadline bounds writes, which wait only while the host is frozen.
func (p *packetConn) SetWriteDeadline(t time.Time) error {
	p.update(func() { p.deadlineW = t })
	return nil
}
