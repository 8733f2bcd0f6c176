package server

import (
	"context"

	"sheepdog/libvirtpool/rpc"
)

// features of libvirt's drivers that clients ask for.
const (
	featureFDPassing = 8
	featureTyped     = 9
	featureKeepalive = 10
	featureEvents    = 14
	featureClose     = 15
)

// openReadOnly is VIR_CONNECT_RO.
const openReadOnly = 1

// libVersion is the version of libvirt whose storage driver this is.
const libVersion = 9_000_000

// call decides who answers.
func (c *session) call(m *rpc.Message) error {
	if v, ok := c.srv.verbs[m.Procedure]; ok {
		return c.storageCall(v, m)
	}
	switch m.Procedure {
	case rpc.AuthList:
		var out rpc.Encoder
		out.Uint32(1)
		out.Uint32(0) // none: who may open the socket may use it
		return c.reply(m.Header, out.Bytes())
	case rpc.PoolEventRegister:
		return c.register(m)
	case rpc.PoolEventDeregister:
		return c.deregister(m)
	}
	if c.up != nil {
		return c.proxyCall(m)
	}
	return c.aloneCall(m)
}

// aloneCall answers what concerns the connection when there is no libvirtd.
func (c *session) aloneCall(m *rpc.Message) error {
	d := rpc.NewDecoder(m.Payload())
	var out rpc.Encoder
	switch m.Procedure {
	case rpc.ConnectOpen:
		d.OptString()
		if d.Uint32()&openReadOnly != 0 {
			c.readOnly.Store(true)
		}
	case rpc.ConnectClose:
		if err := c.reply(m.Header, nil); err != nil {
			return err
		}
		return errClosed
	case rpc.ConnectFeature:
		switch d.Int32() {
		case featureTyped, featureKeepalive, featureEvents, featureClose:
			out.Int32(1)
		default:
			out.Int32(0)
		}
	case rpc.ConnectType:
		out.String("storage")
	case rpc.ConnectVersion, rpc.ConnectLibVersion:
		out.Uint64(libVersion)
	case rpc.ConnectHostname:
		out.String(c.srv.hostname)
	case rpc.ConnectURI:
		out.String("storage:///system")
	case rpc.ConnectSecure:
		out.Int32(1)
	case rpc.CloseCallbackAdd, rpc.CloseCallbackDrop:
	case rpc.ConnectSetIdentity:
		if c.peer.uid != 0 {
			return c.fail(m.Header, rpc.Errorf(rpc.CodeDenied, "only root may speak for somebody else"))
		}
	default:
		return c.fail(m.Header, rpc.Errorf(rpc.CodeNoSupport, "procedure %d; this is a storage driver without hypervisor", m.Procedure))
	}
	if d.Err() != nil {
		return c.fail(m.Header, d.Err())
	}
	return c.reply(m.Header, out.Bytes())
}

// storageCall answers a call of a storage verb, or passes it on if it is about a
// pool of libvirtd's.
func (c *session) storageCall(v verb, m *rpc.Message) error {
	if c.up != nil {
		return c.proxyStorage(v, m)
	}
	return c.local(v, m)
}

// local answers a call from the cluster.
func (c *session) local(v verb, m *rpc.Message) error {
	if err := c.permit(v); err != nil {
		return c.fail(m.Header, err)
	}
	if v.begin != nil {
		return c.background(func(ctx context.Context) error { return c.beginStream(ctx, v, m) })
	}
	return c.answer(m.Header, func(ctx context.Context, out *rpc.Encoder) error { return c.run(ctx, v, m, out) })
}

// run decodes the arguments, all of which must be there, and runs the verb.
func (c *session) run(ctx context.Context, v verb, m *rpc.Message, out *rpc.Encoder) error {
	a, err := c.checked(ctx, v, m)
	if err != nil {
		return err
	}
	return v.run(ctx, c.srv.cfg.Driver, a, out)
}

// checked is the arguments of a call. What libvirt refuses for all its pools is
// refused here: bits of flags that mean nothing, and references to a pool that is
// gone, even if another one has its name now.
func (c *session) checked(ctx context.Context, v verb, m *rpc.Message) (args, error) {
	a := v.args(rpc.NewDecoder(m.Payload()))
	if a.err != nil {
		return a, a.err
	}
	if odd := a.flags &^ v.flags; odd != 0 {
		return a, rpc.Errorf(rpc.CodeInvalidArg, "unsupported flags (0x%x) in function %s", odd, v.name)
	}
	if a.pool == "" || a.uuid == (rpc.UUID{}) {
		return a, nil
	}
	return a, c.srv.cfg.Driver.Is(ctx, a.pool, a.uuid)
}

func (c *session) permit(v verb) error {
	if v.changes && c.readOnly.Load() {
		return rpc.Errorf(rpc.CodeDenied, "read only access prevents %s", v.name)
	}
	return nil
}
