package vdi

import (
	"context"
	"errors"
	"fmt"

	"sheepdog"
)

// top is the working layer and what lies below it, replaced as a whole when a
// snapshot starts a new layer.
type top struct {
	layer sheepdog.LayerID
	own   *objectMap         // of the working layer
	below *objectMap         // of the frozen layers of the family below it; nil: none
	under []sheepdog.LayerID // those layers, newest first, as they were then
}

// has reports whether the family may hold anything at the index.
func (t *top) has(i sheepdog.Index) bool {
	return t.own.has(i) || t.below != nil && t.below.has(i)
}

// lacks reports whether the family holds nothing at the index; see objectMap.
func (t *top) lacks(ctx context.Context, i sheepdog.Index) bool {
	return t.own.lacks(ctx, i) && (t.below == nil || t.below.lacks(ctx, i))
}

// loadTop reads from the directory what the working layer is and what lies below,
// again when there is news if a layer went elsewhere meanwhile.
func (c *coordinator) loadTop(ctx context.Context) error {
	for {
		changed := c.m.opt.Directory.Changed()
		err := c.tryTop(ctx)
		if !errors.Is(err, errGone) {
			return err
		}
		if err := c.err(); err != nil {
			return err
		}
		if err := awaitNews(ctx, changed); err != nil {
			return err
		}
	}
}

// errGone says that a layer is not there any more.
var errGone = errors.New("the layer is gone")

func (c *coordinator) tryTop(ctx context.Context) error {
	dir := c.m.opt.Directory
	f, ok := dir.Family(c.scope.Family)
	if !ok {
		return fmt.Errorf("VDI was deleted: %w", sheepdog.ErrNotFound)
	}
	l, ok := dir.Layer(f.Working)
	if !ok {
		return fmt.Errorf("VDI has no working layer: %w", sheepdog.ErrNotFound)
	}
	t := &top{layer: l.ID, under: idsOf(logicalChain(dir, l.Parent))}
	if l.Parent != 0 && len(t.under) == 0 {
		return fmt.Errorf("%w: layer %d was absorbed while we looked", errGone, l.Parent)
	}
	if l.Parent != 0 {
		t.below = c.m.frozen.objectMap(l.Parent)
	}
	t.own = wholeMap(newIndexSet())
	if l.Written || t.below != nil && !t.below.whole.Load() {
		t.own = c.mapOf(func(set *indexSet) error { return c.loadOwn(t, set) })
	}
	c.mu.Lock()
	c.written = l.Written
	c.mu.Unlock()
	c.lastWrite.Store(c.m.elapsed())
	c.top.Store(t)
	if c.scope.Policy.Parity > 0 && !t.own.whole.Load() {
		t.own.start() // it tells how much is written
	}
	return nil
}

// mapOf makes an object map whose list is fetched by load while the coordinator is in
// service. One whose layers went elsewhere in the meantime ends the coordinator: the next
// one begins with the layers that there are then.
func (c *coordinator) mapOf(load func(*indexSet) error) *objectMap {
	return &objectMap{set: newIndexSet(), run: c.m.goUnlessClosed, load: func(set *indexSet) error {
		err := load(set)
		if errors.Is(err, sheepdog.ErrNotFound) {
			c.lose(errMoved)
		}
		return err
	}}
}

// loadOwn fetches the list of the working layer, after that of the layers below it:
// what moves up meanwhile is met at least once then, as in indexesOf.
func (c *coordinator) loadOwn(t *top, set *indexSet) error {
	if t.below != nil {
		if err := t.below.await(c.ctx); err != nil {
			return err
		}
	}
	dir := c.m.opt.Directory
	for {
		changed := dir.Changed()
		l, ok := dir.Layer(t.layer)
		if !ok {
			return fmt.Errorf("layer %d was deleted: %w", t.layer, sheepdog.ErrNotFound)
		}
		if !l.Written {
			return nil
		}
		err := layerIndexes(c.ctx, c.m.opt.Objects, c.scope, &l, set.add)
		if err == nil && c.top.Load().layer == t.layer {
			c.writtenBytes.Add(uint64(set.len()) << c.shift)
		}
		if !errors.Is(err, sheepdog.ErrNotFound) {
			return err
		}
		// Replicas know already that a layer it absorbed is gone, which the directory
		// here still lists.
		if err := awaitNews(c.ctx, changed); err != nil {
			return err
		}
	}
}

// joined is the object map of what t is made of, for when that is frozen. If t's is
// not whole yet, this one is when t's is.
func (c *coordinator) joined(t *top) *objectMap {
	join := func(set *indexSet) {
		set.union(t.own.set)
		if t.below != nil {
			set.union(t.below.set)
		}
	}
	if t.own.whole.Load() && (t.below == nil || t.below.whole.Load()) {
		set := newIndexSet()
		join(set)
		m := wholeMap(set)
		c.m.frozen.adopt(t.layer, m)
		return m
	}
	return c.mapOf(func(set *indexSet) error {
		if err := t.own.await(c.ctx); err != nil {
			return err
		}
		if t.below != nil {
			if err := t.below.await(c.ctx); err != nil {
				return err
			}
		}
		join(set)
		return nil
	})
}
