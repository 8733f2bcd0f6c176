package server

import (
	"errors"

	"sheepdog/libvirtpool/rpc"
	"sheepdog/libvirtpool/storage"
)

// callback is an event registration of a client.
type callback struct {
	event int32     // which events; see eventLifecycle
	pool  *rpc.UUID // nil: of all pools
}

// The events of pools that clients may register for.
const (
	eventLifecycle int32 = 0
	eventRefresh   int32 = 1
)

// errSlow ends a session whose client does not take its events.
var errSlow = errors.New("the client does not read its events")

// queue takes an event of the driver; it never blocks.
func (c *session) queue(e storage.Event) {
	select {
	case c.events <- e:
	default:
		c.srv.log.Warn("a client is cut off", "peer", c.peer, "err", errSlow)
		c.client.close()
	}
}

// sendEvents sends what clients registered for.
func (c *session) sendEvents() error {
	for {
		select {
		case e := <-c.events:
			for id, cb := range c.registered() {
				if err := c.sendEvent(id, cb, e); err != nil {
					return err
				}
			}
		case <-c.ctx.Done():
			return nil
		}
	}
}

// registered is a copy of the registrations.
func (c *session) registered() map[int32]callback {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[int32]callback, len(c.callbacks))
	for id, cb := range c.callbacks {
		out[id] = cb
	}
	return out
}

func (c *session) sendEvent(id int32, cb callback, e storage.Event) error {
	refresh := e.Kind == storage.PoolRefreshed
	if refresh != (cb.event == eventRefresh) || cb.pool != nil && *cb.pool != e.UUID {
		return nil
	}
	var out rpc.Encoder
	out.Int32(id)
	out.String(e.Pool)
	out.UUID(e.UUID)
	h := rpc.Header{Program: rpc.ProgramRemote, Version: rpc.Version, Procedure: rpc.PoolEventRefresh, Type: rpc.Event}
	if !refresh {
		h.Procedure = rpc.PoolEventLifecycle
		out.Int32(int32(e.Kind))
		out.Int32(0) // no detail
	}
	return c.client.send(rpc.NewMessage(h, out.Bytes()))
}

// register notes a registration for pool events. With a libvirtd behind it is
// made there too, and its id counts for both.
func (c *session) register(m *rpc.Message) error {
	d := rpc.NewDecoder(m.Payload())
	cb := callback{event: d.Int32()}
	if d.Bool() {
		_ = d.String()
		u := d.UUID()
		cb.pool = &u
	}
	if d.Err() != nil {
		return c.fail(m.Header, d.Err())
	}
	if cb.event != eventLifecycle && cb.event != eventRefresh {
		return c.fail(m.Header, rpc.Errorf(rpc.CodeInvalidArg, "unsupported storage pool event ID %d", cb.event))
	}
	if c.up != nil {
		return c.up.forward(m, func(reply *rpc.Message) (*rpc.Message, error) {
			if reply.Status == rpc.OK {
				id := rpc.NewDecoder(reply.Payload()).Int32()
				return reply, c.addCallback(id, cb)
			}
			return reply, nil
		})
	}
	c.nextID++
	if err := c.addCallback(c.nextID, cb); err != nil {
		return c.fail(m.Header, err)
	}
	var out rpc.Encoder
	out.Int32(c.nextID)
	return c.reply(m.Header, out.Bytes())
}

func (c *session) addCallback(id int32, cb callback) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.callbacks) >= maxCallbacks {
		return rpc.Errorf(rpc.CodeFailed, "more than %d event registrations", maxCallbacks)
	}
	c.callbacks[id] = cb
	return nil
}

// deregister forgets a registration.
func (c *session) deregister(m *rpc.Message) error {
	d := rpc.NewDecoder(m.Payload())
	id := d.Int32()
	if d.Err() != nil {
		return c.fail(m.Header, d.Err())
	}
	c.mu.Lock()
	_, ok := c.callbacks[id]
	delete(c.callbacks, id)
	c.mu.Unlock()
	switch {
	case c.up != nil:
		return c.up.send(m)
	case !ok:
		return c.fail(m.Header, rpc.Errorf(rpc.CodeInternal, "storage pool event callback %d not registered", id))
	}
	return c.reply(m.Header, nil)
}
