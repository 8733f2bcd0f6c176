package server

import (
	"context"
	"strings"

	"sheepdog/libvirtpool/rpc"
)

// layouts is where XML is among the arguments of procedures, a letter each:
//
//	d domain   s string   o optional string   q opaque   u unsigned int
//	h hyper    X XML      O optional XML      P typed parameters with XML in one
//	Q opaque that is XML and a zero byte, or nothing: a cookie of migrations
//
// What follows the XML is left alone.
func callLayout(p rpc.Procedure) string {
	switch p {
	case rpc.DomainCreateXML, rpc.DomainDefineXML, rpc.DomainDefineXMLFlags, rpc.DomainCreateXMLWithFiles:
		return "X"
	case rpc.DomainAttachDevice, rpc.DomainDetachDevice, rpc.DomainAttachDeviceFlags, rpc.DomainDetachDeviceFlags,
		rpc.DomainUpdateDeviceFlags, rpc.DomainSnapshotCreateXML, rpc.DomainCheckpointCreate:
		return "dX"
	case rpc.DomainXMLToNative, rpc.DomainSaveImageDefine:
		return "sX"
	case rpc.DomainBlockCopy:
		return "dsX"
	case rpc.DomainSaveFlags:
		return "dsO"
	case rpc.DomainRestoreFlags:
		return "sO"
	case rpc.DomainMigratePrepare2:
		return "ohohX"
	case rpc.DomainMigratePrepareTun:
		return "hohX"
	case rpc.DomainMigrateBegin3, rpc.DomainMigratePerform3, rpc.DomainManagedSaveDefine:
		return "dO"
	case rpc.DomainMigratePrepare3:
		return "qohohX"
	case rpc.DomainMigratePrepareTun3:
		return "qhohX"
	case rpc.DomainMigrateBegin3P, rpc.DomainSaveParams:
		return "dP"
	case rpc.DomainMigratePrepare3P, rpc.DomainMigratePrepTun3P, rpc.DomainRestoreParams:
		return "P"
	case rpc.DomainMigratePerform3P:
		return "doP"
	case rpc.DomainMigrateFinish3:
		return "sQ"
	case rpc.DomainMigrateFinish3P:
		return "PQ"
	}
	return ""
}

// replyLayout is the same for replies.
func replyLayout(p rpc.Procedure) string {
	switch p {
	case rpc.DomainXML, rpc.DomainSnapshotXML, rpc.DomainSaveImageXML, rpc.DomainXMLFromNative, rpc.DomainManagedSaveXML, rpc.DomainCheckpointXML:
		return "X"
	case rpc.DomainMigrateBegin3, rpc.DomainMigrateBegin3P:
		return "qX"
	case rpc.DomainMigratePerform3, rpc.DomainMigratePerform3P:
		return "Q" // with the configuration that is to be persistent at the destination
	}
	return ""
}

// xmlParam reports whether a typed parameter holds a domain's XML.
func xmlParam(field string) bool {
	switch field {
	case "destination_xml", "persistent_xml", "dxml":
		return true
	}
	return false
}

// forward passes a call on. The XML in it names NBD disks then, and the XML in
// the reply names volumes again. While a volume might be of a pool that another
// host has just defined, the cluster is asked once.
func (c *session) forward(m *rpc.Message) error {
	layout := callLayout(m.Procedure)
	if layout == "" {
		return c.pass(m)
	}
	strange, err := c.unknownPool(m, layout)
	switch {
	case err != nil:
		return c.fail(m.Header, err)
	case strange == "":
		return c.forwardXML(m, layout)
	}
	return c.background(func(ctx context.Context) error { return c.forwardAfter(ctx, m, layout, strange) })
}

// forwardNow is forward for calls that are in the background already.
func (c *session) forwardNow(ctx context.Context, m *rpc.Message) error {
	layout := callLayout(m.Procedure)
	if layout == "" {
		return c.pass(m)
	}
	strange, err := c.unknownPool(m, layout)
	if err != nil {
		return c.fail(m.Header, err)
	}
	return c.forwardAfter(ctx, m, layout, strange)
}

// unknownPool is a pool in the XML of a call of which it is not known whose it is.
func (c *session) unknownPool(m *rpc.Message, layout string) (pool string, err error) {
	_, _, err = rewrite(m.Payload(), layout, func(text string) string {
		pool = c.srv.disks.UnknownPool(text)
		return text
	})
	return pool, err
}

// forwardAfter asks the cluster for a pool first; empty: none.
func (c *session) forwardAfter(ctx context.Context, m *rpc.Message, layout, pool string) error {
	if pool != "" {
		_, _ = c.srv.cfg.Driver.Lookup(ctx, pool) // if it is not ours, it is libvirtd's
	}
	return c.forwardXML(m, layout)
}

func (c *session) forwardXML(m *rpc.Message, layout string) error {
	p, changed, err := rewrite(m.Payload(), layout, c.srv.disks.ToNBD)
	if err != nil {
		return c.fail(m.Header, err)
	}
	if changed {
		m = rpc.NewMessage(m.Header, p)
	}
	return c.pass(m)
}

// pass sends a call on as it is; the XML in its reply is rewritten.
func (c *session) pass(m *rpc.Message) error {
	back := replyLayout(m.Procedure)
	if back == "" {
		return c.up.send(m)
	}
	return c.up.forward(m, func(reply *rpc.Message) (*rpc.Message, error) {
		if reply.Status != rpc.OK {
			return reply, nil
		}
		p, changed, err := rewrite(reply.Payload(), back, c.srv.disks.FromNBD)
		if err != nil || !changed {
			return reply, nil
		}
		return rpc.NewMessage(reply.Header, p), nil
	})
}

// rewrite changes the XML in a payload. Nothing is encoded again that did not
// change.
func rewrite(payload []byte, layout string, f func(string) string) (out []byte, changed bool, err error) {
	d := rpc.NewDecoder(payload)
	var e rpc.Encoder
	for _, kind := range layout {
		from := len(payload) - len(d.Rest())
		var now rpc.Encoder
		if rewriteOne(d, kind, f, &now) {
			changed = true
			e.Raw(now.Bytes())
		} else {
			e.Raw(payload[from : len(payload)-len(d.Rest())])
		}
		if d.Err() != nil {
			return nil, false, d.Err()
		}
	}
	if !changed {
		return payload, false, nil
	}
	e.Raw(d.Rest())
	return e.Bytes(), true, nil
}

// rewriteOne takes one argument. If f changes the XML in it, it is true and the
// argument encoded to out.
func rewriteOne(d *rpc.Decoder, kind rune, f func(string) string, out *rpc.Encoder) (changed bool) {
	apply := func(text string) string {
		now := f(text)
		changed = now != text
		return now
	}
	switch kind {
	case 'd':
		skipDomain(d)
	case 's':
		_ = d.String()
	case 'o':
		d.OptString()
	case 'q':
		d.Opaque()
	case 'u':
		d.Uint32()
	case 'h':
		d.Uint64()
	case 'X':
		out.String(apply(d.String()))
	case 'O':
		if text := d.OptString(); text != nil {
			now := apply(*text)
			out.OptString(&now)
		}
	case 'Q':
		if text, ok := strings.CutSuffix(string(d.Opaque()), "\x00"); ok {
			out.Opaque([]byte(apply(text) + "\x00"))
		}
	case 'P':
		params := d.Params()
		changed = rewriteParams(params, f)
		out.Params(params)
	}
	return changed
}

func rewriteParams(params []rpc.Param, f func(string) string) (changed bool) {
	for i := range params {
		if text, ok := params[i].Value.(string); ok && xmlParam(params[i].Field) {
			now := f(text)
			changed = changed || now != text
			params[i].Value = now
		}
	}
	return changed
}

// domain is libvirt's reference to a domain.
type domain struct {
	name string
	uuid rpc.UUID
	id   int32
}

func decodeDomain(d *rpc.Decoder) domain {
	return domain{name: d.String(), uuid: d.UUID(), id: d.Int32()}
}

func skipDomain(d *rpc.Decoder) { decodeDomain(d) }

func (d domain) encode(out *rpc.Encoder) {
	out.String(d.name)
	out.UUID(d.uuid)
	out.Int32(d.id)
}

// domainXML asks libvirtd for a domain's XML, as libvirtd has it.
func (c *session) domainXML(ctx context.Context, dom domain, flags uint32) (string, error) {
	var e rpc.Encoder
	dom.encode(&e)
	e.Uint32(flags)
	reply, err := c.up.call(ctx, rpc.DomainXML, e.Bytes())
	if err != nil {
		return "", err
	}
	d := rpc.NewDecoder(reply)
	return d.String(), d.Err()
}
