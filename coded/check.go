package coded

import (
	"context"
	"fmt"
	"slices"

	"sheepdog"
)

// Fault is what is wrong with a strip of an object on one node.
type Fault uint8

const (
	Missing   Fault = iota + 1 // nobody has it
	Bad                        // some of its blocks fail their checksum
	Differing                  // parity and data do not belong together
)

// Finding is one faulty strip. Node is 0 for a missing strip.
type Finding struct {
	Node   sheepdog.NodeID
	Object sheepdog.ObjectID
	Layer  sheepdog.LayerID // of the strip
	Blocks int
	Fault  Fault
	Healed bool
	Lost   bool // too few strips are left to make it anew
}

// CheckRequest says what of a layer is checked, and how.
type CheckRequest struct {
	DryRun bool // heal nothing
	// Want chooses partitions; nil: all.
	Want func(sheepdog.Partition) bool
	// Mine leaves out objects whose first strip belongs on another node, so that
	// all nodes together check each once.
	Mine bool
	// Pace returns when so many bytes may be read; nil: at once.
	Pace func(ctx context.Context, bytes uint64) error
}

// Check reads the strips of a complete coded layer, verifies them, and has bad
// blocks written anew unless it is a dry run. Missing strips are left to the
// keepers, which make them anew when recovery is on. It returns the number of
// strips that it met.
func (c *Client) Check(ctx context.Context, id sheepdog.LayerID, req CheckRequest, report func(Finding)) (strips uint64, err error) {
	v := c.cfg.Views.View()
	l, ok := c.cfg.Layers.Coded(id)
	if !ok || v == nil {
		return 0, gone(id)
	}
	k := &checker{Client: c, view: v, layer: &l, req: req, report: report, held: make(map[stripKey][]sheepdog.Member)}
	var indexes []sheepdog.Index
	for _, m := range storing(v) {
		err := c.list(ctx, v, m, &l, func(e sheepdog.ListEntry) {
			if !k.wants(e.Object) {
				return
			}
			key := stripKey{e.Layer, e.Object.Index}
			k.held[key] = append(k.held[key], m)
			indexes = append(indexes, e.Object.Index)
			strips++
		})
		if err != nil {
			return strips, fmt.Errorf("check coded layer %d: %w", id, err)
		}
	}
	slices.Sort(indexes)
	indexes = slices.Compact(indexes)
	for _, i := range l.Lost {
		if _, held := slices.BinarySearch(indexes, i); !held && k.wants(l.object(i)) {
			report(Finding{Object: l.object(i), Layer: id, Fault: Missing, Lost: true})
		}
	}
	for _, i := range indexes {
		if err := k.object(ctx, i); err != nil {
			if _, ok := c.cfg.Layers.Coded(id); !ok {
				return strips, nil // deleted meanwhile
			}
			return strips, fmt.Errorf("check object %d of coded layer %d: %w", i, id, err)
		}
	}
	return strips, nil
}

type checker struct {
	*Client
	view   *sheepdog.View
	layer  *Layer
	req    CheckRequest
	report func(Finding)
	held   map[stripKey][]sheepdog.Member
}

func (k *checker) wants(obj sheepdog.ObjectID) bool {
	if k.req.Want != nil && !k.req.Want(obj.Partition()) {
		return false
	}
	if !k.req.Mine {
		return true
	}
	at := homes(k.cfg.Ring, k.view, k.layer, obj)
	return len(at) > 0 && at[0].ID == k.cfg.Self
}

func (k *checker) object(ctx context.Context, index sheepdog.Index) error {
	o, err := k.open(k.view, k.layer, k.layer.object(index))
	if err != nil {
		return err
	}
	var missing []int
	for s := range o.lay.strips() {
		if len(k.held[stripKey{k.layer.strip(s), index}]) == 0 {
			missing = append(missing, s)
		}
	}
	lost := len(missing) > o.lay.parity
	for _, s := range missing {
		k.report(Finding{Object: o.id, Layer: k.layer.strip(s), Fault: Missing, Lost: lost})
	}
	if lost {
		return nil // what there is of it cannot be compared with anything
	}
	for seg := range o.lay.segments() {
		if err := k.segment(ctx, o, seg); err != nil {
			return err
		}
	}
	return nil
}

// segment verifies one segment of all strips: every block by its checksum, and
// the strips together by their parity.
func (k *checker) segment(ctx context.Context, o *object, seg uint32) error {
	h, err := o.header(ctx, seg)
	if err != nil {
		return err
	}
	shards := make([][]byte, o.lay.strips())
	for s := range shards {
		rows := o.lay.rows(h, s)
		for _, m := range k.held[stripKey{k.layer.strip(s), o.id.Index}] {
			data, err := k.strip(ctx, o, h, m, s, 1+rows)
			if err != nil {
				return err
			}
			if data == nil {
				continue
			}
			shards[s] = make([]byte, o.lay.rows(h, o.lay.data)*sheepdog.BlockSize)
			copy(shards[s], data[sheepdog.BlockSize:])
		}
	}
	if h.count == 0 || slices.ContainsFunc(shards, func(b []byte) bool { return b == nil }) {
		return nil
	}
	same, err := o.codec.Verify(shards)
	if err == nil && !same {
		k.report(Finding{Object: o.id, Layer: k.layer.ID, Blocks: int(h.count), Fault: Differing, Lost: true})
	}
	return err
}

// strip reads one strip of a segment from a node and heals what is bad there. It
// returns nil if something stayed bad.
func (k *checker) strip(ctx context.Context, o *object, h *header, m sheepdog.Member, s int, count uint32) ([]byte, error) {
	at := o.lay.headerAt(h.segment)
	if k.req.Pace != nil {
		if err := k.req.Pace(ctx, uint64(count)*sheepdog.BlockSize); err != nil {
			return nil, err
		}
	}
	reply, err := k.cfg.Peers.Replica(m).Fetch(ctx, &sheepdog.FetchRequest{Fence: sheepdog.Fence{Revision: k.view.Revision}, Policy: k.layer.Policy,
		Object: o.id, Layer: k.layer.strip(s), Start: at, Count: count, WithData: true})
	if err != nil {
		return nil, err
	}
	bad := slices.Clone(reply.Bad)
	for i, r := range reply.Records {
		if r.State == sheepdog.Absent {
			bad = append(bad, at+sheepdog.BlockNo(i))
		}
	}
	if len(bad) == 0 {
		return reply.Data, nil
	}
	f := Finding{Node: m.ID, Object: o.id, Layer: k.layer.strip(s), Blocks: len(bad), Fault: Bad}
	whole, err := o.without(ctx, h, s)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		f.Lost = true
	case !k.req.DryRun:
		f.Healed = k.heal(ctx, o, m, s, at, whole, bad) == nil
	}
	k.report(f)
	return whole, nil
}

// without makes a segment of strip s from the other strips alone.
func (o *object) without(ctx context.Context, h *header, s int) ([]byte, error) {
	out := o.lay.encode(h)
	rows := o.lay.rows(h, s)
	for at := uint32(0); at < rows; at += rebuildRows {
		b, err := o.reconstruct(ctx, h, s, at, min(rebuildRows, rows-at), true)
		if err != nil {
			return nil, err
		}
		out = append(out, b...)
	}
	return out, nil
}

// heal writes the bad blocks of a strip anew, where they are.
func (k *checker) heal(ctx context.Context, o *object, m sheepdog.Member, s int, at sheepdog.BlockNo, whole []byte, bad []sheepdog.BlockNo) error {
	for _, b := range bad {
		if err := o.put(ctx, m, s, b, whole[uint64(b-at)*sheepdog.BlockSize:][:sheepdog.BlockSize]); err != nil {
			return err
		}
	}
	return nil
}
