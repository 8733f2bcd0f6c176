package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"sheepdog"
)

// Read fills req.Buf and req.States from one acting replica: this node's own if
// it acts, else the others in an order that spreads objects over nodes. A
// replica that fails, or whose bytes fail their checksum, is passed over for
// the next. For a writable VDI the caller is its coordinator, has its token in
// the request and orders it against writes in flight.
func (g *Gateway) Read(ctx context.Context, req *sheepdog.ReadRequest) error {
	part := req.Object.Partition()
	err := g.retry(ctx, func(v *sheepdog.View) error {
		order, err := g.readers(v, req.Policy, part)
		if err != nil {
			return err
		}
		req.Revision = v.Revision
		return g.anyReplica(order, func(m sheepdog.Member) error {
			return g.peers.Replica(m).Read(ctx, req)
		})
	})
	if err != nil {
		return fmt.Errorf("read object %s: %w", req.Object, err)
	}
	return nil
}

// Records merges what the given layers, newest first, hold of the blocks of one
// object, from one acting replica, without reading data: the first layer in
// which a block is not Absent decides. Each of layers is a whole logical layer.
func (g *Gateway) Records(ctx context.Context, s sheepdog.Scope, obj sheepdog.ObjectID, layers []sheepdog.LayerID, start sheepdog.BlockNo, count uint32) ([]sheepdog.Record, error) {
	var out []sheepdog.Record
	for _, layer := range layers {
		recs, err := g.layerRecords(ctx, s, obj, layer, start, count)
		if err != nil {
			return nil, err
		}
		if out == nil {
			out = recs // they are ours
		}
		if merge(out, recs) == 0 {
			break
		}
	}
	if out == nil {
		out = make([]sheepdog.Record, count)
	}
	return out, nil
}

// merge fills the absent entries of top from below and counts those left.
func merge(top, below []sheepdog.Record) (absent int) {
	for i := range top {
		if top[i].State == sheepdog.Absent {
			top[i] = below[i]
		}
		if top[i].State == sheepdog.Absent {
			absent++
		}
	}
	return absent
}

func (g *Gateway) layerRecords(ctx context.Context, s sheepdog.Scope, obj sheepdog.ObjectID, layer sheepdog.LayerID, start sheepdog.BlockNo, count uint32) (recs []sheepdog.Record, err error) {
	part := obj.Partition()
	err = g.retry(ctx, func(v *sheepdog.View) error {
		order, err := g.readers(v, s.Policy, part)
		if err != nil {
			return err
		}
		req := sheepdog.FetchRequest{Fence: sheepdog.Fence{Revision: v.Revision, Token: s.Token},
			Policy: s.Policy, Object: obj, Layer: layer, Start: start, Count: count}
		return g.anyReplica(order, func(m sheepdog.Member) error {
			r, err := g.peers.Replica(m).Fetch(ctx, &req)
			if err == nil {
				recs = r.Records
			}
			return err
		})
	})
	return recs, err
}

// readers is readable, remembered.
func (g *Gateway) readers(v *sheepdog.View, policy sheepdog.Policy, part sheepdog.Partition) ([]sheepdog.Member, error) {
	if r := g.route(v, policy, part); r != nil {
		return r.readers, nil
	}
	return g.readable(v, policy, part)
}

// readable lists the acting members in the order in which to ask them.
func (g *Gateway) readable(v *sheepdog.View, policy sheepdog.Policy, part sheepdog.Partition) ([]sheepdog.Member, error) {
	p, ok := v.Placement(policy, part)
	if !ok {
		return nil, fmt.Errorf("%w: no table for policy %s in revision %d", errWaiting, policy, v.Revision)
	}
	live, _ := v.ActingMembers(p)
	if p.State != sheepdog.Clean || len(live) < v.MinCopies(policy) {
		return nil, fmt.Errorf("%w: partition %d has %d acting replicas ready, needs %d",
			errWaiting, part, len(live), v.MinCopies(policy))
	}
	if i := slices.IndexFunc(live, func(m sheepdog.Member) bool { return m.ID == g.self }); i > 0 {
		live[0], live[i] = live[i], live[0]
	}
	return live, nil
}

// anyReplica asks members in turn until one answers or one answer is final.
func (g *Gateway) anyReplica(order []sheepdog.Member, ask func(sheepdog.Member) error) error {
	var errs []error
	for _, m := range order {
		err := ask(m)
		if err == nil {
			return nil
		}
		g.note(m, err)
		err = g.nodeError("read", m, err)
		errs = append(errs, err)
		if final(err) {
			break
		}
	}
	return errors.Join(errs...)
}
