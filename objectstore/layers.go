package objectstore

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"sheepdog"
)

// structuralBatch bounds the objects that one call to the committer changes,
// and with it what is pinned in memory, and how long it holds up whoever writes.
const structuralBatch = 256

// structuralPart is how far behind the destager may be for them: who deletes a large
// disk leaves the other part to writers, who would have to wait for all of it.
const structuralPart = 0.6

// DropLayer implements sheepdog.Maintainer.
func (d *Disk) DropLayer(layer sheepdog.LayerID) error {
	return d.eachOf(layer, d.paced, func(id sheepdog.ObjectID) entry {
		return entry{kind: entryDrop, key: objectKey{id, layer}}
	})
}

// Merge implements sheepdog.Maintainer.
func (d *Disk) Merge(from, to sheepdog.LayerID) error {
	if from == to {
		return errMergeSelf(from)
	}
	return d.eachOf(from, d.paced, func(id sheepdog.ObjectID) entry {
		return entry{kind: entryMerge, key: objectKey{id, from}, to: to}
	})
}

// DropObject implements sheepdog.Maintainer.
func (d *Disk) DropObject(obj sheepdog.ObjectID, layer sheepdog.LayerID) error {
	if err := d.begin(); err != nil {
		return err
	}
	defer d.end()
	e := entry{kind: entryDrop, key: objectKey{obj, layer}}
	return d.structuralFlush(d.structural([]entry{e}))
}

// Wipe implements sheepdog.Maintainer. It hurries: there are no guests, and the cluster
// waits for it.
func (d *Disk) Wipe() error {
	layers, err := d.Layers()
	if err != nil {
		return err
	}
	hurried := func(int, time.Duration) error { return nil }
	for layer := range layers {
		err := d.eachOf(layer, hurried, func(id sheepdog.ObjectID) entry {
			return entry{kind: entryDrop, key: objectKey{id, layer}}
		})
		if err != nil {
			return fmt.Errorf("wipe: %w", err)
		}
	}
	return nil
}

// eachOf makes an entry for every object of a layer, applies them in batches,
// and makes them durable. Rest is called between batches with the objects of the one before
// and how long it took.
func (d *Disk) eachOf(layer sheepdog.LayerID, rest func(int, time.Duration) error, make func(sheepdog.ObjectID) entry) error {
	if err := d.begin(); err != nil {
		return err
	}
	defer d.end()
	ids := d.layerObjects(layer, 0, 0)
	slices.SortFunc(ids, func(a, b sheepdog.ObjectID) int { // a batch is near each other in the metadata store
		return objectKey{Object: a}.compare(objectKey{Object: b})
	})
	var batch []entry
	for part := range slices.Chunk(ids, structuralBatch) {
		last := len(part) < structuralBatch
		batch = batch[:0]
		for _, id := range part {
			batch = append(batch, make(id))
		}
		began := time.Now()
		if err := d.structural(batch); err != nil {
			return err
		}
		if last {
			break
		}
		d.commitPart(part)
		if err := rest(len(part), time.Since(began)); err != nil {
			return err
		}
	}
	return d.structuralFlush(nil)
}

// commitPart commits what was just dropped or merged, a little at a time: a destage
// of many thousand objects at once takes the processor from guests. What it cannot
// commit stays for the next destage.
func (d *Disk) commitPart(ids []sheepdog.ObjectID) {
	d.destageMu.Lock()
	defer d.destageMu.Unlock()
	defer d.journal.look()
	for piles := d.dirtyOf(ids); len(piles) > 0; {
		n, err := d.destageRound(piles, roundChunks, nil)
		if err != nil {
			return
		}
		piles = piles[n:]
	}
}

// dirtyOf is what of some objects the metadata store lacks, in their order; the
// caller holds destageMu, so that they stay dirty.
func (d *Disk) dirtyOf(ids []sheepdog.ObjectID) []*pile {
	var out []*pile
	for _, id := range ids {
		if p := d.cache.pinned(id); p != nil && d.dirty.has(p) {
			out = append(out, p)
		}
	}
	return out
}

// Who changes a whole layer changes so many objects a second at most, and works a
// quarter of the time: nobody waits for it, and beside it guests are to be served as
// ever. A batch takes a few milliseconds, which is what a guest may have to wait.
const (
	structuralRate  = 8192
	structuralShare = 4
	structuralPause = 200 * time.Millisecond // at most, between batches
)

// Ending has drops and merges of whole layers end soon with ErrClosed, before Close: who
// waits for them before that does not wait long.
func (d *Disk) Ending() { d.ending.Store(true) }

// paced rests after a batch of so many objects that took so long; it fails when the store is
// about to be closed.
func (d *Disk) paced(objects int, took time.Duration) error {
	rest := max(time.Duration(objects)*time.Second/structuralRate-took, (structuralShare-1)*took)
	time.Sleep(min(rest, structuralPause))
	if d.closing.Load() || d.ending.Load() {
		return fmt.Errorf("store %s: %w", d.opts.Meta, sheepdog.ErrClosed)
	}
	return nil
}

// structuralFlush makes drops and merges durable, and their space come back
// soon.
func (d *Disk) structuralFlush(err error) error {
	if err == nil {
		err = d.flush()
	}
	if d.freedBlocks.Load() > 0 {
		d.kickAll()
	}
	return err
}

// structural applies entries that change whole objects, each at once.
func (d *Disk) structural(entries []entry) error {
	if err := d.pressure(structuralPart); err != nil {
		return err
	}
	c := newCall(len(entries))
	defer c.release()
	c.structural = true
	errs := make([]error, len(entries))
	defer func() {
		for i := range c.tasks {
			d.cache.unpin(c.tasks[i].p)
		}
	}()
	for i, e := range entries {
		p, err := d.loadWhole(&e)
		if err != nil {
			return err
		}
		*c.add() = task{e: e, p: p, err: &errs[i]}
	}
	d.commit(c)
	for i, err := range errs {
		if err != nil {
			return fmt.Errorf("object %s layer %x: %w", entries[i].key.Object, uint64(entries[i].key.Layer), err)
		}
	}
	return nil
}

// loadWhole pins a pile and loads all of the objects that e changes.
func (d *Disk) loadWhole(e *entry) (*pile, error) {
	p, err := d.load(e.key.Object)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, layer := range []sheepdog.LayerID{e.key.Layer, e.to} {
		o := p.find(layer)
		if o == nil {
			continue
		}
		err := d.loadAll(p, o)
		if e.kind == entryDrop && errors.Is(err, errMalformed) {
			err = d.loadSound(p, o)
		}
		if err != nil {
			d.cache.unpin(p)
			return nil, err
		}
	}
	return p, nil
}
