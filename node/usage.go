package node

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// layerCount is what a layer holds in the cluster.
type layerCount struct {
	Objects uint64 `json:"objects"` // each counted once, however many replicas
}

// layersRequest is the body of methodLayers and methodStrips: the answer must be of a directory
// at least as new as the caller's, or layers would be counted under the names
// of others.
type layersRequest struct {
	Applied uint64 `json:"applied"`
}

// layerCounts asks every node for what its layers hold.
func (n *Node) layerCounts(ctx context.Context) (map[sheepdog.LayerID]layerCount, error) {
	sum := make(map[sheepdog.LayerID]layerCount)
	err := askStoring(ctx, n, methodLayers, layersRequest{Applied: n.dir.Applied()}, func(one map[sheepdog.LayerID]layerCount) {
		for id, c := range one {
			t := sum[id]
			sum[id] = layerCount{Objects: t.Objects + c.Objects}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("count objects: %w", err)
	}
	return sum, nil
}

// ownLayers counts this node's share: an object counts at its first acting
// replica.
func (n *Node) ownLayers() (map[sheepdog.LayerID]layerCount, error) {
	stored, err := n.engine.Layers()
	if err != nil {
		return nil, err
	}
	owners := make(map[sheepdog.LayerID]sheepdog.FamilyID)
	for id, family := range stored {
		if owner, ok := n.dir.Owner(id); ok {
			owners[owner] = family
		}
	}
	v := n.cluster.View()
	out := make(map[sheepdog.LayerID]layerCount, len(owners))
	for owner, family := range owners {
		f, ok := n.dir.Family(family)
		if !ok {
			continue
		}
		indexes, err := n.layerObjects(owner)
		if err != nil {
			return nil, err
		}
		var c layerCount
		for i := range indexes {
			if n.counts(v, f.Policy, sheepdog.ObjectID{Family: family, Index: i}) {
				c.Objects++
			}
		}
		out[owner] = c
	}
	return out, nil
}

// layerObjects is the indexes that a layer holds with what it absorbed. A merge
// may be moving them upwards meanwhile: what is below is read first, so that
// none is missed.
func (n *Node) layerObjects(layer sheepdog.LayerID) (map[sheepdog.Index]bool, error) {
	set := make(map[sheepdog.Index]bool)
	for _, id := range slices.Backward(n.dir.Logical(layer)) {
		indexes, err := n.engine.LayerObjects(id, 0, 0)
		if err != nil {
			return nil, err
		}
		for _, i := range indexes {
			set[i] = true
		}
	}
	return set, nil
}

// counts reports whether this node is the one at which the object is counted.
func (n *Node) counts(v *sheepdog.View, policy sheepdog.Policy, obj sheepdog.ObjectID) bool {
	p, ok := v.Placement(policy, obj.Partition())
	return ok && len(p.Acting) > 0 && p.Acting[0] == n.self.ID
}

// objects counts what a VDI has written since its last snapshot, and what it
// inherits from older layers and from its base.
func (n *Node) objects(e *directory.Entry, counts map[sheepdog.LayerID]layerCount) (own, shared layerCount) {
	if counts == nil {
		return own, shared
	}
	for layer, mine := e.Layer, true; layer != 0; {
		l, ok := n.dir.Layer(layer)
		if !ok {
			break
		}
		held := counts[layer].Objects + l.Objects // of replicas, or of a coded layer
		if mine {
			own.Objects += held
		} else {
			shared.Objects += held
		}
		mine = mine && l.Parent == 0 && !e.IsClone && n.isCoded(l.Base)
		if layer = l.Parent; layer == 0 {
			layer = l.Base
		}
	}
	// Of an object there may be parts in several layers.
	limit := (e.Size + 1<<e.BlockSizeShift - 1) >> e.BlockSizeShift
	own.Objects, shared.Objects = min(own.Objects, limit), min(shared.Objects, limit)
	return own, shared
}

// holders tells with which VDI, named by its origin, a layer is counted: the oldest
// one that reads it.
func (n *Node) holders() map[sheepdog.LayerID]uint64 {
	list := n.dir.List()
	slices.SortStableFunc(list, func(a, b directory.Entry) int { return cmp.Compare(a.Origin, b.Origin) })
	out := make(map[sheepdog.LayerID]uint64, len(list))
	for i := range list {
		for layer := list[i].Layer; layer != 0; layer = n.below(layer) {
			if _, ok := out[layer]; ok {
				break // and so has all that is below
			}
			out[layer] = list[i].Origin
		}
	}
	return out
}

// held counts the objects that a VDI or snapshot reads and no older VDI does.
func (n *Node) held(e *directory.Entry, counts map[sheepdog.LayerID]layerCount, holders map[sheepdog.LayerID]uint64) (objects uint64) {
	for layer := e.Layer; layer != 0 && holders[layer] == e.Origin; layer = n.below(layer) {
		l, _ := n.dir.Layer(layer)
		objects += counts[layer].Objects + l.Objects // of replicas, or of a coded layer
	}
	return min(objects, (e.Size+1<<e.BlockSizeShift-1)>>e.BlockSizeShift)
}

// below is the next layer that a reader of one looks into; 0: there is none.
func (n *Node) below(layer sheepdog.LayerID) sheepdog.LayerID {
	l, _ := n.dir.Layer(layer)
	return l.Below()
}

// isCoded reports whether a layer is coded: as the base of a VDI or snapshot that
// is no clone it holds what was written to that.
func (n *Node) isCoded(layer sheepdog.LayerID) bool {
	l, ok := n.dir.Coded(layer)
	return ok && l.ID == layer
}

// handleLayers answers methodLayers.
func (n *Node) handleLayers(ctx context.Context, body []byte) ([]byte, error) {
	var req layersRequest
	if err := json.Unmarshal(body, &req); err != nil {
		return nil, fmt.Errorf("%s: %v: %w", methodLayers, err, sheepdog.ErrInvalid)
	}
	if err := n.awaitDirectory(ctx, req.Applied); err != nil {
		return nil, err
	}
	counts, err := n.ownLayers()
	if err != nil {
		return nil, err
	}
	return json.Marshal(counts)
}

// awaitDirectory waits until this node's directory is at least as new as another's.
func (n *Node) awaitDirectory(ctx context.Context, applied uint64) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	for {
		changed := n.dir.Changed()
		if n.dir.Applied() >= applied {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("directory is at %d, asked for %d: %w", n.dir.Applied(), applied, sheepdog.ErrBehind)
		}
	}
}
