package server

import (
	"context"

	"sheepdog/libvirtpool/rpc"
)

// Bits of virDomainModificationImpact.
const (
	affectLive   = 1
	affectConfig = 2
)

// useCall passes on what has QEMU open disks, if the volumes are there: QEMU's own
// words would come after the machine was built, and name neither volume nor pool.
func (c *session) useCall(m *rpc.Message) error {
	d := rpc.NewDecoder(m.Payload())
	text, dom := "", domain{}
	switch m.Procedure {
	case rpc.DomainCreate, rpc.DomainCreateFlags:
		dom = decodeDomain(d)
	case rpc.DomainCreateXML:
		text = d.String()
	case rpc.DomainAttachDevice:
		skipDomain(d)
		text = d.String()
	case rpc.DomainAttachDeviceFlags, rpc.DomainUpdateDeviceFlags:
		dom, text = decodeDomain(d), d.String()
		if impact := d.Uint32() & (affectLive | affectConfig); impact == affectConfig || impact == 0 && dom.id < 0 {
			return c.forward(m) // which only writes it down
		}
	}
	if d.Err() != nil || c.readOnly.Load() {
		return c.forward(m) // and is refused
	}
	return c.background(func(ctx context.Context) error {
		if text == "" {
			var err error
			if text, err = c.domainXML(ctx, dom, 0); err != nil {
				return c.forwardNow(ctx, m)
			}
		}
		if err := c.allThere(ctx, text); err != nil {
			return c.fail(m.Header, err)
		}
		return c.forwardNow(ctx, m)
	})
}

// allThere fails if a disk of a domain is a volume of ours that does not exist.
func (c *session) allThere(ctx context.Context, text string) error {
	if pool := c.srv.disks.UnknownPool(text); pool != "" {
		_, _ = c.srv.cfg.Driver.Lookup(ctx, pool) // another host may have just defined it
	}
	for _, d := range c.srv.disks.Sources(text) {
		if err := c.srv.cfg.Driver.Exists(ctx, d.VDI); err != nil {
			e := *rpc.AsError(err)
			e.Text = "disk '" + d.Target + "': " + e.Text
			return &e
		}
	}
	return nil
}
