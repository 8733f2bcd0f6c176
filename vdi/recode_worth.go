package vdi

import (
	"context"
	"time"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// What is worth encoding.

// activeBytes is the least that is encoded while a VDI is written.
const activeBytes = 256 << 20

// copyPause is how long a layer stays the working one after CopyUp has written to
// it: whoever copies is to let go of the base in the end, and copied into this.
const copyPause = 30 * time.Second

// worth decides whether a working layer is frozen and encoded now: when nobody
// writes it, if it spoils the ratio of the whole by 4 %; else when it is large.
func (r *recoder) worth(ctx context.Context, l *directory.Layer, f directory.Family, policy sheepdog.Policy) (bool, error) {
	if r.small[l.ID].still(&f) {
		return false, nil
	}
	c := r.m.local(f.ID)
	if c == nil {
		taken, _, _, err := r.m.route(ctx, f.ID)
		if err != nil || taken == nil {
			return false, err
		}
		c = taken
		defer r.m.idle(ctx, f.ID)
	}
	if r.m.elapsed()-c.lastCopy.Load() < int64(copyPause) {
		return false, nil
	}
	now := measured{c.scope.Token, c.lastWrite, c.lastWrite.Load()} // before anything is counted
	coded := codedBytes(r.m.opt.Directory, l)
	if !c.quiet(r.m.attached(f.ID), r.m.opt.Recode.Idle) {
		return c.measure(ctx, l.ID, func(bytes uint64) bool { return bytes >= max(activeBytes, coded/2) })
	}
	d, p := uint64(policy.Copies), uint64(policy.Parity)
	worth, err := c.measure(ctx, l.ID, func(bytes uint64) bool { return bytes > 0 && bytes*25*p*(d-1) >= coded*(d+p) })
	if err != nil {
		return false, err
	}
	delete(r.small, l.ID)
	if !worth {
		r.small[l.ID] = now
	}
	return worth, nil
}

// codedBytes is the size of the coded objects below a layer.
func codedBytes(dir *directory.Directory, l *directory.Layer) uint64 {
	f, _ := dir.Family(l.Family)
	var objects uint64
	for base := baseOf(dir, l.ID); base != 0; {
		b, ok := dir.Layer(base)
		if !ok {
			break
		}
		objects += b.Objects
		base = b.Base
	}
	return objects << f.BlockSizeShift
}

// grew counts bytes that are written to the working layer.
func (c *coordinator) grew(n uint64) {
	if c.scope.Policy.Parity > 0 {
		c.writtenBytes.Add(n)
		c.lastWrite.Store(c.m.elapsed())
	}
}

// measuredObjects is the most objects whose blocks are counted; of larger layers
// the estimate is taken.
const measuredObjects = 1024

// measure counts the blocks of the working layer if the estimate says that they
// are enough: blocks that were written again and again, and objects that a
// takeover found and took for full, look like much. It puts the count in place of
// the estimate.
func (c *coordinator) measure(ctx context.Context, layer sheepdog.LayerID, enough func(bytes uint64) bool) (bool, error) {
	t := c.top.Load()
	if err := t.own.await(ctx); err != nil {
		return false, err
	}
	estimate := c.writtenBytes.Load()
	if !enough(min(estimate, uint64(t.own.set.len())<<c.shift)) || t.layer != layer {
		return false, nil
	}
	if t.own.set.len() > measuredObjects {
		return true, nil
	}
	var blocks uint64
	for _, i := range t.own.set.list() {
		recs, err := c.m.opt.Objects.Records(ctx, c.scope, sheepdog.ObjectID{Family: c.scope.Family, Index: i}, []sheepdog.LayerID{layer}, 0, 1<<(c.shift-12))
		if err != nil {
			return false, err
		}
		for _, r := range recs {
			if r.State != sheepdog.Absent {
				blocks++
			}
		}
	}
	c.writtenBytes.CompareAndSwap(estimate, blocks*sheepdog.BlockSize)
	return enough(blocks * sheepdog.BlockSize), nil
}

// quiet reports whether nobody writes the working layer.
func (c *coordinator) quiet(attached bool, idle time.Duration) bool {
	since := time.Duration(c.m.elapsed() - c.lastWrite.Load())
	return !attached || since >= idle
}

func (m *Manager) attached(id sheepdog.FamilyID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.families[id]
	return f != nil && f.attached > 0
}
