package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"sheepdog/libvirtpool/rpc"
)

// ownSerials is where the serials of calls that we make ourselves begin; clients
// count from zero.
const ownSerials = 1 << 31

// upstream is a session's connection to libvirtd.
type upstream struct {
	*wire

	mu    sync.Mutex
	next  uint32
	waits map[uint32]chan *rpc.Message // our own calls, by serial
	hooks map[uint32]hook              // forwarded calls whose reply is looked at
	gone  bool
}

// hook sees the reply to a forwarded call and returns what the client gets; nil:
// the hook has seen to that.
type hook func(reply *rpc.Message) (*rpc.Message, error)

// errGone is returned for calls whose connection to libvirtd broke.
var errGone = errors.New("the connection to libvirtd broke")

// connect dials libvirtd and authenticates, if there is one.
func (c *session) connect(ctx context.Context, a Access) error {
	path := c.srv.cfg.Upstream
	if path == "" {
		return nil
	}
	if a == ReadOnly {
		path = c.srv.cfg.UpstreamReadOnly
	}
	dialer := net.Dialer{Timeout: dialTimeout}
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("connect to libvirtd: %w", err)
	}
	c.up = &upstream{wire: newWire(conn), next: ownSerials, waits: map[uint32]chan *rpc.Message{}, hooks: map[uint32]hook{}}
	_ = conn.SetReadDeadline(time.Now().Add(upstreamTimeout))
	if err := c.up.authenticate(); err != nil {
		conn.Close()
		return fmt.Errorf("authenticate to libvirtd: %w", err)
	}
	return conn.SetReadDeadline(time.Time{})
}

// Kinds of authentication.
const (
	authNone   = 0
	authPolkit = 2
)

// authenticate is done before anything else is sent. The client was admitted by
// the mode of our socket; libvirtd admits this process.
func (u *upstream) authenticate() error {
	reply, err := u.direct(rpc.AuthList)
	if err != nil {
		return err
	}
	d := rpc.NewDecoder(reply.Payload())
	kinds := map[uint32]bool{}
	for range d.Count(20, 4) {
		kinds[d.Uint32()] = true
	}
	switch {
	case d.Err() != nil:
		return d.Err()
	case len(kinds) == 0 || kinds[authNone]:
		return nil
	case kinds[authPolkit]:
		_, err := u.direct(rpc.AuthPolkit)
		return err
	}
	return errors.New("it wants SASL on its unix socket; set auth_unix_rw to none or polkit in libvirtd.conf")
}

// direct makes a call without arguments while nobody else reads.
func (u *upstream) direct(p rpc.Procedure) (*rpc.Message, error) {
	u.next++
	h := rpc.Header{Program: rpc.ProgramRemote, Version: rpc.Version, Procedure: p, Serial: u.next}
	if err := u.send(rpc.NewMessage(h, nil)); err != nil {
		return nil, err
	}
	m, err := u.read()
	if err == nil && m.Status != rpc.OK {
		err = rpc.DecodeError(m.Payload())
	}
	return m, err
}

// forward passes a call on; f sees the reply.
func (u *upstream) forward(m *rpc.Message, f hook) error {
	u.mu.Lock()
	if len(u.hooks) >= rpc.MaxList {
		u.mu.Unlock()
		return fmt.Errorf("more than %d calls without a reply", rpc.MaxList)
	}
	u.hooks[m.Serial] = f
	u.mu.Unlock()
	return u.send(m)
}

// call makes a call of our own and returns the payload of its reply.
func (u *upstream) call(ctx context.Context, p rpc.Procedure, args []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, upstreamTimeout)
	defer cancel()
	wait := make(chan *rpc.Message, 1)
	u.mu.Lock()
	if u.gone {
		u.mu.Unlock()
		return nil, errGone
	}
	if u.next++; u.next < ownSerials {
		u.next = ownSerials
	}
	serial := u.next
	u.waits[serial] = wait
	u.mu.Unlock()
	defer func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		delete(u.waits, serial)
	}()
	h := rpc.Header{Program: rpc.ProgramRemote, Version: rpc.Version, Procedure: p, Serial: serial}
	if err := u.send(rpc.NewMessage(h, args)); err != nil {
		return nil, fmt.Errorf("send to libvirtd: %w", err)
	}
	select {
	case m, ok := <-wait:
		switch {
		case !ok:
			return nil, errGone
		case m.Status != rpc.OK:
			return nil, rpc.DecodeError(m.Payload())
		}
		return m.Payload(), nil
	case <-ctx.Done():
		return nil, rpc.Errorf(rpc.CodeTimeout, "libvirtd did not answer procedure %d: %v", p, context.Cause(ctx))
	}
}

// deliver gives a reply to who waits for it; false: it is the client's.
func (u *upstream) deliver(m *rpc.Message) (hook, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if wait, ok := u.waits[m.Serial]; ok {
		delete(u.waits, m.Serial)
		wait <- m
		return nil, true
	}
	f := u.hooks[m.Serial]
	delete(u.hooks, m.Serial)
	return f, false
}

// end fails all calls of our own that still wait.
func (u *upstream) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.gone = true
	for serial, wait := range u.waits {
		close(wait)
		delete(u.waits, serial)
	}
}

// readUpstream passes on what libvirtd sends. When libvirtd hangs up, so do we:
// clients then connect again, as they would to libvirtd.
func (c *session) readUpstream() error {
	defer c.up.end()
	for {
		m, err := c.up.read()
		if err != nil && c.closing.Load() {
			return errClosed
		}
		if err != nil {
			return fmt.Errorf("read from libvirtd: %w", err)
		}
		if err := c.fromUpstream(m); err != nil {
			return err
		}
	}
}

func (c *session) fromUpstream(m *rpc.Message) error {
	if m.Program == rpc.ProgramKeepalive {
		if uint32(m.Procedure) != rpc.KeepalivePing {
			return nil
		}
		h := m.Header
		h.Procedure = rpc.Procedure(rpc.KeepalivePong)
		return c.up.send(rpc.NewMessage(h, nil))
	}
	if m.Type == rpc.Reply && m.Program == rpc.ProgramRemote {
		f, taken := c.up.deliver(m)
		if taken || m.Serial >= ownSerials {
			return nil // or it is late, and nobody waits any more
		}
		if f != nil {
			var err error
			if m, err = f(m); err != nil || m == nil {
				return err
			}
		}
	}
	return c.client.send(m)
}
