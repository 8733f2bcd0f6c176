package server

import (
	"context"

	"sheepdog/libvirtpool/rpc"
	"sheepdog/libvirtpool/storage"
)

// proxyCall passes on what is libvirtd's, with disks in XML rewritten.
func (c *session) proxyCall(m *rpc.Message) error {
	switch m.Procedure {
	case rpc.ConnectOpen:
		// Not in the background: nothing of the client may reach libvirtd between
		// the open and the moment when libvirtd knows who the client is.
		var out rpc.Encoder
		if err := c.open(c.ctx, m, &out); err != nil {
			return c.fail(m.Header, err)
		}
		return c.reply(m.Header, out.Bytes())
	case rpc.ConnectClose:
		c.closing.Store(true)
	case rpc.ConnectFeature:
		if rpc.NewDecoder(m.Payload()).Int32() == featureFDPassing {
			return c.reply(m.Header, make([]byte, 4)) // descriptors do not go through us
		}
	case rpc.ConnectSetIdentity:
		if c.peer.uid != 0 {
			return c.fail(m.Header, rpc.Errorf(rpc.CodeDenied, "only root may speak for somebody else"))
		}
	case rpc.DomainSnapshotCreateXML, rpc.DomainSnapshotDelete, rpc.DomainSnapshotRevert:
		return c.snapshotCall(m)
	case rpc.DomainCreate, rpc.DomainCreateFlags, rpc.DomainCreateXML, rpc.DomainAttachDevice, rpc.DomainAttachDeviceFlags, rpc.DomainUpdateDeviceFlags:
		return c.useCall(m)
	}
	return c.forward(m)
}

// open opens libvirtd's connection for the client and tells it who the client
// is, before the client can do anything.
func (c *session) open(ctx context.Context, m *rpc.Message, out *rpc.Encoder) error {
	d := rpc.NewDecoder(m.Payload())
	uri, flags := d.OptString(), d.Uint32()
	if d.Err() != nil {
		return d.Err()
	}
	if flags&openReadOnly != 0 {
		c.readOnly.Store(true)
	}
	if c.readOnly.Load() {
		flags |= openReadOnly
	}
	var e rpc.Encoder
	e.OptString(uri)
	e.Uint32(flags)
	reply, err := c.up.call(ctx, rpc.ConnectOpen, e.Bytes())
	if err != nil {
		return err
	}
	if uri != nil {
		c.uri = *uri // libvirtd opens a connection once: nobody reads it yet
	}
	out.Raw(reply)
	if c.readOnly.Load() {
		return nil // identity needs write access; libvirtd's own read-only rules hold
	}
	var id rpc.Encoder
	id.Params(c.peer.identity())
	id.Uint32(0)
	_, err = c.up.call(ctx, rpc.ConnectSetIdentity, id.Bytes())
	return err
}

// proxyStorage sends a storage call to whom it concerns.
func (c *session) proxyStorage(v verb, m *rpc.Message) error {
	if v.route == merging {
		return c.answer(m.Header, func(ctx context.Context, out *rpc.Encoder) error { return c.merge(ctx, v, m, out) })
	}
	a := v.args(rpc.NewDecoder(m.Payload()))
	if a.err != nil {
		return c.fail(m.Header, a.err)
	}
	d := c.srv.cfg.Driver
	switch v.route {
	case byXML:
		return c.createPool(v, a, m)
	case byType:
		if a.text == storage.PoolType {
			return c.local(v, m)
		}
	case byName:
		if d.Knows(a.text) {
			return c.local(v, m)
		}
		return c.libvirtFirst(v, m)
	case byUUID:
		if d.KnowsUUID(a.uuid) {
			return c.local(v, m)
		}
		return c.libvirtFirst(v, m)
	case byKey:
		return c.libvirtFirst(v, m)
	case byPool:
		if m.Procedure == rpc.VolumeCreateXMLFrom && d.Knows(a.pool) != d.Knows(a.fromPool) {
			return c.copyAcross(v, a, m)
		}
		if d.Knows(a.pool) {
			return c.local(v, m)
		}
	}
	return c.up.send(m)
}

// libvirtFirst asks libvirtd, and only if that knows nothing, the cluster, which
// may know a pool that another host has just defined.
func (c *session) libvirtFirst(v verb, m *rpc.Message) error {
	return c.up.forward(m, func(reply *rpc.Message) (*rpc.Message, error) {
		if reply.Status == rpc.OK {
			return reply, nil
		}
		switch rpc.DecodeError(reply.Payload()).Code {
		case rpc.CodeNoPool, rpc.CodeNoVolume:
			c.later(func(ctx context.Context) error { return c.lookUp(ctx, v, m) })
			return nil, nil
		}
		return reply, nil
	})
}

// lookUp answers a look-up from the cluster.
func (c *session) lookUp(ctx context.Context, v verb, m *rpc.Message) error {
	return c.answerNow(ctx, m.Header, func(ctx context.Context, out *rpc.Encoder) error { return c.run(ctx, v, m, out) })
}

// createPool defines or creates a pool, after a look at the other side for the
// same name or UUID.
func (c *session) createPool(v verb, a args, m *rpc.Message) error {
	name, id, hasUUID := storage.PoolIdentity(a.text)
	d := c.srv.cfg.Driver
	if !storage.IsOurPool(a.text) {
		if d.Knows(name) {
			return c.fail(m.Header, rpc.Errorf(rpc.CodeFailed, "pool '%s' is already defined as a pool of type %s", name, storage.PoolType))
		}
		if hasUUID && d.KnowsUUID(id) {
			return c.fail(m.Header, rpc.Errorf(rpc.CodeFailed, "a pool of type %s already exists with uuid %s", storage.PoolType, storage.FormatUUID(id)))
		}
		return c.up.send(m)
	}
	if err := c.permit(v); err != nil {
		return c.fail(m.Header, err)
	}
	return c.answer(m.Header, func(ctx context.Context, out *rpc.Encoder) error {
		if err := c.freeUpstream(ctx, name, id, hasUUID); err != nil {
			return err
		}
		return c.run(ctx, v, m, out)
	})
}

// freeUpstream fails if libvirtd has a pool of the name or UUID.
func (c *session) freeUpstream(ctx context.Context, name string, id rpc.UUID, hasUUID bool) error {
	var byName rpc.Encoder
	byName.String(name)
	if reply, err := c.up.call(ctx, rpc.PoolLookupName, byName.Bytes()); err == nil {
		d := rpc.NewDecoder(reply)
		_ = d.String()
		return rpc.Errorf(rpc.CodeFailed, "pool '%s' is already defined with uuid %s", name, storage.FormatUUID(d.UUID()))
	}
	if !hasUUID {
		return nil
	}
	var byUUID rpc.Encoder
	byUUID.UUID(id)
	if reply, err := c.up.call(ctx, rpc.PoolLookupUUID, byUUID.Bytes()); err == nil {
		return rpc.Errorf(rpc.CodeFailed, "pool '%s' already exists with uuid %s", rpc.NewDecoder(reply).String(), storage.FormatUUID(id))
	}
	return nil
}
