package objectstore

import (
	"fmt"

	"sheepdog"
)

// structuralBatch bounds the objects that one call to the committer changes,
// and with it what is pinned in memory.
const structuralBatch = 256

// structuralPart is how far behind the destager may be for them: who deletes a large
// disk leaves the other part to writers, who would have to wait for all of it.
const structuralPart = 0.6

// DropLayer implements sheepdog.Maintainer.
func (d *Disk) DropLayer(layer sheepdog.LayerID) error {
	return d.eachOf(layer, func(id sheepdog.ObjectID) entry {
		return entry{kind: entryDrop, key: objectKey{id, layer}}
	})
}

// Merge implements sheepdog.Maintainer.
func (d *Disk) Merge(from, to sheepdog.LayerID) error {
	if from == to {
		return errMergeSelf(from)
	}
	return d.eachOf(from, func(id sheepdog.ObjectID) entry {
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

// Wipe implements sheepdog.Maintainer.
func (d *Disk) Wipe() error {
	layers, err := d.Layers()
	if err != nil {
		return err
	}
	for layer := range layers {
		if err := d.DropLayer(layer); err != nil {
			return fmt.Errorf("wipe: %w", err)
		}
	}
	return nil
}

// eachOf makes an entry for every object of a layer, applies them in batches,
// and makes them durable.
func (d *Disk) eachOf(layer sheepdog.LayerID, make func(sheepdog.ObjectID) entry) error {
	if err := d.begin(); err != nil {
		return err
	}
	defer d.end()
	ids, err := d.layerObjects(layer, 0, 0)
	if err != nil {
		return err
	}
	var batch []entry
	for i, id := range ids {
		batch = append(batch, make(id))
		if len(batch) == structuralBatch || i == len(ids)-1 {
			if err := d.structural(batch); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	return d.structuralFlush(nil)
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
	c := newCall()
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
		c.tasks = append(c.tasks, task{e: e, p: p, err: &errs[i]})
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
		o := p.objects[layer]
		if o == nil {
			continue
		}
		if err := d.loadAll(p, o); err != nil {
			d.cache.unpin(p)
			return nil, err
		}
	}
	return p, nil
}
