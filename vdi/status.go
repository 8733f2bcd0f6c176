package vdi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

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
// describe fewer bytes than asked for. A write that was acknowledged before the call is
// seen. Data may be told where there are none; Zero and Absent read as zeros. Like a read it is the coordinator's to answer, and has the VDI coordinated here if
// nobody does: a replica, this node's own not least, may be cut off from those that write.
func (v *Volume) Status(ctx context.Context, off, n uint64, limit int) (out []Extent, err error) {
	ask := statusCall{Off: off, N: n, Limit: limit}
	if v.layer != 0 {
		return describer{v.m, nil, v.shift}.describe(ctx, nil, v.layer, ask)
	}
	err = v.do(ctx, func(c *coordinator, to target) error {
		if c != nil {
			out, err = c.describe(ctx, ask)
		} else {
			out, err = v.askStatus(ctx, to, ask)
		}
		return err
	})
	return out, err
}

// methodStatus asks the coordinator of a family what a part of the VDI holds.
const methodStatus = "vdi.status"

// statusCall is what is asked, as of Status. A reply is the extents.
type statusCall struct {
	Off   uint64 `json:"off"`
	N     uint64 `json:"n"`
	Limit int    `json:"limit"`
}

// askStatus asks the coordinator at another node. One of a build that does not know the
// question has data everywhere: that is true of all that can be read.
func (v *Volume) askStatus(ctx context.Context, to target, ask statusCall) (out []Extent, err error) {
	reply, err := v.m.callCoordinator(ctx, to, methodStatus, ask)
	if errors.Is(err, sheepdog.ErrInvalid) {
		return []Extent{{ask.N, sheepdog.Data}}, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(reply, &out); err != nil {
		return nil, fmt.Errorf("%s: %w", methodStatus, err)
	}
	return out, nil
}

// status answers methodStatus.
func (c *coordinator) status(ctx context.Context, body []byte) ([]byte, error) {
	var ask statusCall
	if err := json.Unmarshal(body, &ask); err != nil || ask.N == 0 || ask.Off+ask.N < ask.N || ask.Limit < 1 {
		return nil, fmt.Errorf("%s: %d bytes from %d in %d extents (%v): %w", methodStatus, ask.N, ask.Off, ask.Limit, err, sheepdog.ErrInvalid)
	}
	return encoded(c.describe(ctx, ask))
}

// describe answers while nobody else can have written. (rule 6)
func (c *coordinator) describe(ctx context.Context, ask statusCall) ([]Extent, error) {
	for {
		if err := c.m.awaitLease(ctx, c); err != nil {
			return nil, err
		}
		t := c.top.Load()
		out, err := describer{c.m, c, c.shift}.describe(ctx, t, t.layer, ask)
		if c.overtaken(t, err) {
			continue
		}
		if err != nil || c.m.opt.Cluster.LeaseValid() && c.err() == nil {
			return out, err
		}
	}
}

// describer describes VDIs with objects of a size, a power of two. Of a working layer it is
// the coordinator's.
type describer struct {
	m     *Manager
	c     *coordinator // nil: of a snapshot
	shift uint8
}

// describe looks through the layers from top downwards; t is what the coordinator knows
// of the working one, nil for a snapshot. It begins again if a base was dropped meanwhile:
// what had been copied from there may have been missed.
func (d describer) describe(ctx context.Context, t *top, layer sheepdog.LayerID, ask statusCall) ([]Extent, error) {
	dir := d.m.opt.Directory
	for {
		changed, bases := dir.Changed(), basesOf(dir, layer)
		out, err := d.describeOnce(ctx, t, layer, span{ask.Off, ask.Off + ask.N}, ask.Limit)
		if _, ok := dir.Layer(layer); ok && errors.Is(err, sheepdog.ErrNotFound) {
			// A replica knows already that a layer below is gone.
			if err := awaitNews(ctx, changed); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil || slices.Equal(bases, basesOf(dir, layer)) {
			return out, err
		}
	}
}

func (d describer) describeOnce(ctx context.Context, t *top, layer sheepdog.LayerID, r span, limit int) (out []Extent, err error) {
	size, last := pieceSize(d.shift), sheepdog.Index((r.to-1)>>d.shift)
	for at := r.from; at < r.to && len(out) <= limit; {
		pc := piece{index: sheepdog.Index(at >> d.shift), in: at & (1<<d.shift - 1)}
		empty, err := d.m.emptyFrom(ctx, t, layer, pc.index, last)
		if err != nil {
			return nil, err
		}
		var states []sheepdog.BlockState
		if empty > 0 {
			pc.n = min(uint64(empty)<<d.shift-pc.in, r.to-at)
		} else {
			pc.n = min(size-at&(size-1), r.to-at)
			if states, err = d.states(ctx, t, layer, pc); err != nil {
				return nil, err
			}
		}
		out = appendExtents(out, pc, states)
		at += pc.n
	}
	return out[:min(limit, len(out))], nil
}

// states is Manager.states once nobody writes to the piece: zeros that are being written
// may be undone. (rule 5)
func (d describer) states(ctx context.Context, t *top, layer sheepdog.LayerID, pc piece) ([]sheepdog.BlockState, error) {
	if d.c != nil {
		h, err := d.c.lock(ctx, pc.span(d.shift), false)
		if err != nil {
			return nil, err
		}
		defer d.c.unlock(h)
	}
	return d.m.states(ctx, t, layer, pc)
}

// basesOf lists the layers of other families below a layer.
func basesOf(dir *directory.Directory, layer sheepdog.LayerID) (out []sheepdog.LayerID) {
	for base := baseOf(dir, layer); base != 0; base = baseOf(dir, base) {
		out = append(out, base)
	}
	return out
}

// emptyFrom is how many objects from index on, up to last, certainly hold nothing, by
// the object maps that are here.
func (m *Manager) emptyFrom(ctx context.Context, t *top, layer sheepdog.LayerID, index, last sheepdog.Index) (sheepdog.Index, error) {
	end := last + 1
	for ; layer != 0 && end > index; layer = baseOf(m.opt.Directory, layer) {
		next, err := m.nextHeld(ctx, t, layer, index, end)
		if err != nil {
			return 0, err
		}
		end = next
	}
	return end - index, nil
}

// nextHeld is the first index from i on, but at most end, at which the layer or those
// below it in its family may hold anything. It waits for the lists: to ask for every
// object of a disk takes longer.
func (m *Manager) nextHeld(ctx context.Context, t *top, layer sheepdog.LayerID, i, end sheepdog.Index) (sheepdog.Index, error) {
	l, ok := m.opt.Directory.Layer(layer)
	if !ok {
		return 0, sheepdog.ErrNotFound
	}
	if l.Frozen {
		return m.frozen.objectMap(layer).next(ctx, i, end)
	}
	if t != nil && t.layer == layer {
		next, err := t.own.next(ctx, i, end)
		if err == nil && t.below != nil {
			next, err = t.below.next(ctx, i, next)
		}
		return next, err
	}
	return i, nil // it is not known here
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
func (m *Manager) states(ctx context.Context, t *top, layer sheepdog.LayerID, pc piece) ([]sheepdog.BlockState, error) {
	start, count := pc.blocks()
	var out []sheepdog.BlockState
	for ; layer != 0; layer = baseOf(m.opt.Directory, layer) {
		recs, err := m.familyRecords(ctx, t, layer, pc.index, start, count)
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
func (m *Manager) familyRecords(ctx context.Context, t *top, layer sheepdog.LayerID, index sheepdog.Index, start sheepdog.BlockNo, count uint32) ([]sheepdog.Record, error) {
	dir := m.opt.Directory
	l, ok := dir.Layer(layer)
	if !ok {
		return nil, sheepdog.ErrNotFound
	}
	f, ok := dir.Family(l.Family)
	if !ok {
		return nil, sheepdog.ErrNotFound
	}
	if next, err := m.nextHeld(ctx, t, layer, index, index+1); err != nil || next > index {
		return nil, err
	}
	chain := logicalChain(dir, layer)
	if len(chain) == 0 {
		return nil, sheepdog.ErrNotFound
	}
	var ids []sheepdog.LayerID
	absorbed := false
	for _, l := range chain {
		if l.Written {
			ids = append(ids, l.ID)
		}
		absorbed = absorbed || len(l.Absorbed) > 0
	}
	if len(ids) == 0 {
		return nil, nil
	}
	scope := sheepdog.Scope{Family: f.ID, Policy: f.Policy}
	recs, err := m.opt.Objects.Records(ctx, scope, sheepdog.ObjectID{Family: f.ID, Index: index}, ids, start, count)
	if absorbed {
		// A replica that has not heard of that leaves out what the absorbed layer has. So,
		// until all have, what is absent may be data, as far as we know.
		for i := range recs {
			if recs[i].State == sheepdog.Absent {
				recs[i].State = sheepdog.Data
			}
		}
	}
	return recs, err
}
