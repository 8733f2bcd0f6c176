package gateway

import (
	"context"
	"fmt"
	"sync"

	"sheepdog"
)

// listPage is how many entries one list message asks for: the most that a replica
// answers with, for it looks at all that is not in its metadata yet for each.
const listPage = 65536

// LayerIndexes tells visit every index at which the layer may hold anything, in
// no order and possibly more than once: the union of what all acting members
// hold. It misses nothing that was acknowledged before the call.
func (g *Gateway) LayerIndexes(ctx context.Context, s sheepdog.Scope, layer sheepdog.LayerID, visit func(sheepdog.Index)) error {
	err := g.retry(ctx, func(v *sheepdog.View) error {
		roll := g.roll(v, s.Policy)
		if roll.err != nil {
			return roll.err
		}
		var mu sync.Mutex
		return g.each(ctx, roll.acting, "list", func(ctx context.Context, _ sheepdog.Member, r sheepdog.Replica) error {
			return listLayer(ctx, r, v, s, layer, func(e sheepdog.ListEntry) {
				mu.Lock()
				visit(e.Object.Index)
				mu.Unlock()
			})
		})
	})
	if err != nil {
		return fmt.Errorf("list layer %d: %w", layer, err)
	}
	return nil
}

func listLayer(ctx context.Context, r sheepdog.Replica, v *sheepdog.View, s sheepdog.Scope, layer sheepdog.LayerID, visit func(sheepdog.ListEntry)) error {
	req := &sheepdog.ListRequest{Fence: sheepdog.Fence{Revision: v.Revision}, Policy: s.Policy, Layer: layer, Limit: listPage}
	for {
		reply, err := r.List(ctx, req)
		if err != nil {
			return err
		}
		for _, e := range reply.Entries {
			visit(e)
		}
		if !reply.More || len(reply.Entries) == 0 {
			return nil
		}
		req.After = reply.Entries[len(reply.Entries)-1]
	}
}
