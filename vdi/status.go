package vdi

import (
	"context"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// Extent is a run of bytes with one state: Data, Zero (written as zeros), or
// Absent (never written; reads as zeros).
type Extent struct {
	Length uint64
	State  sheepdog.BlockState
}

// Status describes n bytes from off, in blocks, in at most limit extents; it may
// describe fewer bytes than asked for. It asks any acting replica: a write that
// was acknowledged before the call is seen.
func (v *Volume) Status(ctx context.Context, off, n uint64, limit int) ([]Extent, error) {
	top := v.layer
	if top == 0 {
		id := v.family.Load().id
		f, ok := v.m.opt.Directory.Family(id)
		if (!ok || f.Working == 0) && v.rebind(id) {
			return v.Status(ctx, off, n, limit)
		}
		if !ok {
			return nil, sheepdog.ErrNotFound
		}
		top = f.Working
	}
	var out []Extent
	for _, pc := range pieces(off, n, v.shift) {
		states, err := v.states(ctx, top, pc)
		if err != nil {
			return nil, err
		}
		out = appendExtents(out, pc, states)
		if len(out) > limit {
			return out[:limit], nil
		}
	}
	return out, nil
}

// appendExtents adds the blocks of a piece, joining equal neighbours. A nil
// states is all absent.
func appendExtents(out []Extent, pc piece, states []sheepdog.BlockState) []Extent {
	add := func(n uint64, s sheepdog.BlockState) {
		if len(out) > 0 && out[len(out)-1].State == s {
			out[len(out)-1].Length += n
		} else {
			out = append(out, Extent{n, s})
		}
	}
	if states == nil {
		add(pc.n, sheepdog.Absent)
		return out
	}
	skip := pc.in % sheepdog.BlockSize
	for left, i := pc.n, 0; left > 0; i++ {
		n := min(sheepdog.BlockSize-skip, left)
		add(n, states[i])
		left -= n
		skip = 0
	}
	return out
}

// states resolves the blocks of a piece through the layers of the family and of
// its bases; nil: all absent.
func (v *Volume) states(ctx context.Context, top sheepdog.LayerID, pc piece) ([]sheepdog.BlockState, error) {
	start, count := pc.blocks()
	var out []sheepdog.BlockState
	for layer := top; layer != 0; layer = baseOf(v.m.opt.Directory, layer) {
		recs, err := v.m.familyRecords(ctx, layer, pc.index, start, count)
		if err != nil {
			return nil, err
		}
		if recs == nil {
			continue
		}
		if out == nil {
			out = make([]sheepdog.BlockState, count)
		}
		for i := range out {
			if out[i] == sheepdog.Absent {
				out[i] = recs[i].State
			}
		}
		if !anyAbsent(out) {
			break
		}
	}
	return out, nil
}

// familyRecords merges the records of the layer and those below it in its
// family; nil if the object map says that there are none.
func (m *Manager) familyRecords(ctx context.Context, layer sheepdog.LayerID, index sheepdog.Index, start sheepdog.BlockNo, count uint32) ([]sheepdog.Record, error) {
	dir := m.opt.Directory
	l, ok := dir.Layer(layer)
	if !ok {
		return nil, sheepdog.ErrNotFound
	}
	f, ok := dir.Family(l.Family)
	if !ok {
		return nil, sheepdog.ErrNotFound
	}
	if may, err := m.mayHold(ctx, l, index); err != nil || !may {
		return nil, err
	}
	var ids []sheepdog.LayerID
	for _, l := range logicalChain(dir, layer) {
		if l.Written {
			ids = append(ids, l.ID)
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	scope := sheepdog.Scope{Family: f.ID, Policy: f.Policy}
	return m.opt.Objects.Records(ctx, scope, sheepdog.ObjectID{Family: f.ID, Index: index}, ids, start, count)
}

// mayHold asks the object map, where there is one here. It waits for the list: to ask
// for every object of a disk takes longer.
func (m *Manager) mayHold(ctx context.Context, l directory.Layer, index sheepdog.Index) (bool, error) {
	if l.Frozen {
		held := m.frozen.objectMap(l.ID)
		if err := held.await(ctx); err != nil {
			return false, err
		}
		return held.has(index), nil
	}
	if c := m.local(l.Family); c != nil {
		if t := c.top.Load(); t.layer == l.ID {
			return t.has(index), nil
		}
	}
	return true, nil
}
