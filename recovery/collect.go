package recovery

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"sheepdog"
	"sheepdog/internal/pause"
)

// collectEvery is the least time between two collections, for the directory
// may change thousands of times a second; more after one that took long.
const collectEvery = time.Second

// collectAllEvery is the time after which a collection looks at all that is stored, and not
// only at what has changed since the one before.
const collectAllEvery = time.Minute

// evictPage bounds the objects remembered between listing and dropping.
const evictPage = 4096

// collector drops what nobody wants any more.
type collector struct {
	*Agent
	evicted  *sheepdog.View // the view for which foreign objects were dropped
	departed departures
	complete *lookout // partitions that are complete without this node
	reported map[sheepdog.LayerID]bool
}

func newCollector(a *Agent) *collector {
	return &collector{Agent: a, reported: make(map[sheepdog.LayerID]bool),
		complete: newLookout(func(pl *sheepdog.Placement) bool { return unwanted(pl, a.cfg.Self) })}
}

// departures is what is known of the layers that the directory has dropped.
type departures struct {
	view *sheepdog.View // of the last look at all that is stored; nil: there was none
	at   time.Time      // of that look
	upTo uint64         // so far the departures have been treated
}

// runCollector collects at the start and after changes of directory and view.
func (a *Agent) runCollector(ctx context.Context) {
	c := newCollector(a)
	for {
		layers := a.cfg.Layers.Changed()
		v := a.cfg.Views.View()
		views := a.cfg.Views.Changed(v)
		began := time.Now()
		if err := c.collect(ctx, v); err != nil && ctx.Err() == nil {
			a.cfg.Log.Warn("garbage stays for now", "err", err)
		}
		if pause.For(ctx, max(collectEvery, min(100*time.Since(began), 10*collectEvery))) != nil {
			return
		}
		select {
		case <-layers:
		case <-views:
		case <-ctx.Done():
			return
		}
	}
}

// Collect does one round of housekeeping: it drops layers that the directory
// dropped, merges layers that were absorbed, and drops objects of partitions
// that are complete without this node.
func (a *Agent) Collect(ctx context.Context) error {
	c := newCollector(a)
	return c.collect(ctx, a.cfg.Views.View())
}

// collect asks the directory first, then lets writes that were admitted before
// finish, and looks at the store last: what it does not find then of a layer
// that the directory gave up will not come back. But recovery may bring such a layer
// from a node that is behind, so that while views change, and now and then, it looks at
// all that is stored; else only for what has gone since the last time.
func (c *collector) collect(ctx context.Context, v *sheepdog.View) error {
	gone, upTo, complete := c.cfg.Layers.Departed(c.departed.upTo)
	began := time.Now()
	all := !complete || v != c.departed.view || began.Sub(c.departed.at) > collectAllEvery
	var chains [][]sheepdog.LayerID
	for _, owner := range c.cfg.Layers.Absorbing() {
		if chain := c.cfg.Layers.Logical(owner); len(chain) > 1 {
			chains = append(chains, chain)
		}
	}
	c.cfg.Local.Drain()
	held := holdings(c.ask)
	if all {
		c.cfg.Local.Forget()
		layers, err := c.cfg.Store.Layers()
		if err != nil {
			return fmt.Errorf("list layers: %w", err)
		}
		gone, held = slices.Sorted(maps.Keys(layers)), layersHeld(layers)
	}
	if err := c.drop(ctx, gone, held); err != nil {
		return err
	}
	if err := c.merge(ctx, chains, held); err != nil {
		return err
	}
	if c.departed.upTo = upTo; all {
		c.departed.view, c.departed.at = v, began
	}
	if v == nil || v == c.evicted || !c.listed(v) {
		return nil // a view without this process is one before it came, or came back
	}
	if err := c.evict(ctx, v); err != nil {
		return err
	}
	c.evicted = v
	return nil
}

// holdings reports whether anything is stored of a layer.
type holdings func(sheepdog.LayerID) (bool, error)

// layersHeld is holdings from a list.
func layersHeld(layers map[sheepdog.LayerID]sheepdog.FamilyID) holdings {
	return func(layer sheepdog.LayerID) (bool, error) {
		_, ok := layers[layer]
		return ok, nil
	}
}

// ask asks the store for a single layer.
func (c *collector) ask(layer sheepdog.LayerID) (bool, error) {
	objects, err := c.cfg.Store.LayerObjects(layer, 0, 1)
	if err != nil {
		return false, fmt.Errorf("look for layer %d: %w", layer, err)
	}
	return len(objects) > 0, nil
}

// drop forgets layers that were listed once and are not any more. A layer that
// is newer than the directory here is not dropped: somebody may be writing it.
func (c *collector) drop(ctx context.Context, layers []sheepdog.LayerID, held holdings) error {
	for _, layer := range layers {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !c.cfg.Layers.Dropped(layer) {
			continue
		}
		if has, err := held(layer); err != nil {
			return err
		} else if !has {
			continue
		}
		if err := c.cfg.Store.DropLayer(layer); err != nil {
			return fmt.Errorf("drop layer %d: %w", layer, err)
		}
	}
	return nil
}

// merge moves the blocks of absorbed layers, the newest of each first, for what
// is above hides what is below. It is durable before anybody is told: the
// directory forgets a layer when no node holds it, and a layer that came back
// after that would be dropped with blocks that its owner needs.
func (c *collector) merge(ctx context.Context, chains [][]sheepdog.LayerID, held holdings) error {
	var absorbed []sheepdog.LayerID
	merged := false
	for _, chain := range chains {
		for _, from := range chain[1:] {
			absorbed = append(absorbed, from)
			if has, err := held(from); err != nil {
				return err
			} else if !has {
				continue
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := c.cfg.Store.Merge(from, chain[0]); err != nil {
				return fmt.Errorf("merge layer %d into %d: %w", from, chain[0], err)
			}
			merged = true
		}
	}
	return c.report(ctx, absorbed, merged)
}

func (c *collector) report(ctx context.Context, absorbed []sheepdog.LayerID, merged bool) error {
	if merged {
		if err := c.cfg.Store.Flush(); err != nil {
			return fmt.Errorf("flush merged layers: %w", err)
		}
	}
	if c.cfg.Hooks.Merged == nil || slices.IndexFunc(absorbed, func(l sheepdog.LayerID) bool { return !c.reported[l] }) < 0 {
		return nil
	}
	if err := c.cfg.Hooks.Merged(ctx, absorbed); err != nil {
		return fmt.Errorf("report merged layers: %w", err)
	}
	clear(c.reported)
	for _, l := range absorbed {
		c.reported[l] = true
	}
	return nil
}

// evict drops objects of partitions that are complete without this node. What
// it finds is checked again by the replica server, which knows the newest view.
func (c *collector) evict(ctx context.Context, v *sheepdog.View) error {
	foreign := c.foreign(v)
	if foreign == nil {
		return nil
	}
	var after sheepdog.ListEntry
	for {
		var page []sheepdog.ListEntry
		err := c.cfg.Store.List(after, foreign, func(e sheepdog.ListEntry) bool {
			page = append(page, e)
			return len(page) < evictPage && ctx.Err() == nil
		})
		if err != nil || ctx.Err() != nil || len(page) == 0 {
			return err
		}
		for _, e := range page {
			if err := c.evictEntry(v, e); err != nil {
				return err
			}
		}
		after = page[len(page)-1]
	}
}

func (c *collector) evictEntry(v *sheepdog.View, e sheepdog.ListEntry) error {
	policy, ok := c.cfg.Layers.Policy(e.Object.Family)
	if !ok {
		return nil
	}
	if pl, ok := v.Placement(policy, e.Object.Partition()); !ok || !unwanted(pl, c.cfg.Self) {
		return nil
	}
	return c.cfg.Local.Evict(policy, e.Object, e.Layer)
}

// unwanted reports whether a partition is complete without a node.
func unwanted(pl *sheepdog.Placement, self sheepdog.NodeID) bool {
	return pl.Complete() && !pl.IsWriter(self)
}

// foreign tells the partitions that are complete without this node under some
// policy; nil if there are none.
func (c *collector) foreign(v *sheepdog.View) func(sheepdog.Partition) bool {
	c.complete.look(v)
	set, found := new(partitions), false
	for _, t := range c.complete.tables {
		found = set.add(&t.found) || found
	}
	if !found {
		return nil
	}
	return set.has
}
