package recovery

import (
	"context"
	"slices"

	"sheepdog"
)

// maxHeals bounds the blocks waiting to be healed; what does not fit is found
// again by the next read or check.
const maxHeals = 1024

// healing is a read that met bad blocks.
type healing struct {
	object sheepdog.ObjectID
	layer  sheepdog.LayerID
	blocks []sheepdog.BlockNo
}

// Heal asks for blocks to be healed that failed their checksum when they were
// read from the layer downwards. It does not block. It has the shape of the
// replica server's hook.
func (a *Agent) Heal(obj sheepdog.ObjectID, layer sheepdog.LayerID, blocks []sheepdog.BlockNo) {
	select {
	case a.heals <- healing{obj, layer, slices.Clone(blocks)}:
	default:
	}
}

func (a *Agent) runHealer(ctx context.Context) {
	for {
		select {
		case h := <-a.heals:
			if err := a.heal(ctx, h); err != nil && ctx.Err() == nil {
				a.cfg.Log.Warn("bad blocks are not healed yet", "object", h.object, "layer", h.layer, "err", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// heal compares the blocks in every layer that the read went through.
func (a *Agent) heal(ctx context.Context, h healing) error {
	policy, ok := a.cfg.Layers.Policy(h.object.Family)
	v := a.cfg.Views.View()
	if !ok || v == nil {
		return nil
	}
	pl, ok := v.Placement(policy, h.object.Partition())
	if !ok || pl.State != sheepdog.Clean {
		return nil
	}
	c := &checker{circle: circle{Agent: a, revision: v.Revision, policy: policy, ids: liveActing(v, pl)}, tally: new(tally)}
	seen := make(map[sheepdog.LayerID]bool)
	for _, physical := range a.cfg.Layers.Chain(h.layer) {
		layer, ok := a.cfg.Layers.Owner(physical)
		if !ok || seen[layer] {
			continue
		}
		seen[layer] = true
		for _, at := range h.blocks {
			req := place(v.Revision, policy, h.object, layer)
			req.Start, req.Count, req.Verify = at, 1, true
			if err := c.blocks(ctx, req); err != nil && !layerGone(err) {
				return err
			}
		}
	}
	return nil
}

func liveActing(v *sheepdog.View, pl *sheepdog.Placement) []sheepdog.NodeID {
	members, _ := v.ActingMembers(pl)
	ids := make([]sheepdog.NodeID, len(members))
	for i, m := range members {
		ids[i] = m.ID
	}
	return ids
}
