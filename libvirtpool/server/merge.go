package server

import (
	"context"
	"fmt"
	"strings"

	"sheepdog/libvirtpool/rpc"
	"sheepdog/libvirtpool/storage"
)

// merge asks both sides and joins the lists.
func (c *session) merge(ctx context.Context, v verb, m *rpc.Message, out *rpc.Encoder) error {
	theirs, err := c.up.call(ctx, m.Procedure, m.Payload())
	if err != nil {
		return err
	}
	var ours rpc.Encoder
	if err := c.run(ctx, v, m, &ours); err != nil {
		return err
	}
	a, b := rpc.NewDecoder(theirs), rpc.NewDecoder(ours.Bytes())
	switch m.Procedure {
	case rpc.ConnectNumPools, rpc.ConnectNumDefinedPools:
		out.Int32(a.Int32() + b.Int32())
	case rpc.ConnectListPools, rpc.ConnectDefinedPools:
		limit := rpc.NewDecoder(m.Payload()).Int32()
		mergeNames(out, max(int(limit), 0), a, b)
	case rpc.ConnectListAllPools:
		mergePools(out, a, b)
	case rpc.ConnectPoolCaps:
		out.String(mergeCapabilities(a.String()))
	default:
		return fmt.Errorf("procedure %d has no list to merge", m.Procedure)
	}
	if a.Err() != nil {
		return fmt.Errorf("list of libvirtd: %w", a.Err())
	}
	return b.Err()
}

func mergeNames(out *rpc.Encoder, limit int, lists ...*rpc.Decoder) {
	var names []string
	for _, d := range lists {
		for range d.Count(rpc.MaxList, 4) {
			names = append(names, d.String())
		}
	}
	names = names[:min(len(names), limit)]
	out.Uint32(uint32(len(names)))
	for _, n := range names {
		out.String(n)
	}
}

// mergePools joins lists of pools, each with its length behind it, which counts
// also where no list was asked for.
func mergePools(out *rpc.Encoder, lists ...*rpc.Decoder) {
	var pools []storage.Pool
	var total uint32
	for _, d := range lists {
		for range d.Count(rpc.MaxList, 20) {
			var p storage.Pool
			p.Name, p.UUID = d.String(), d.UUID()
			pools = append(pools, p)
		}
		total += d.Uint32()
	}
	if len(pools) > rpc.MaxList {
		pools = pools[:rpc.MaxList]
	}
	out.Uint32(uint32(len(pools)))
	for _, p := range pools {
		encodePool(out, p)
	}
	out.Uint32(total)
}

// mergeCapabilities adds our pool type to libvirtd's XML, in place of what that
// says of the type it no longer has.
func mergeCapabilities(text string) string {
	const end = "</storagepoolCapabilities>"
	if i := strings.Index(text, "  <pool type='sheepdog'"); i >= 0 {
		if n := strings.Index(text[i:], "</pool>\n"); n >= 0 {
			text = text[:i] + text[i+n+len("</pool>\n"):]
		}
	}
	return strings.Replace(text, end, storage.Capabilities+end, 1)
}
