package world

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"

	"sheepdog"
)

// spoiled is which objects of a disk have metadata that nobody can make sense of: true, if
// somebody has tried. Guarded by the disk's mutex.
type spoiled struct {
	keys map[objectKey]bool
	more chan struct{} // closed when an object is found to be spoiled
}

// Spoil makes the metadata of up to n objects malformed, as rot does, and tells of how
// many. That outlives the node and losses of power, until an object is dropped.
func (d *Disk) Spoil(rng *rand.Rand, n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	keys := make([]objectKey, 0, len(d.now))
	for key := range d.now {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, objectKey.compare)
	rng.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	n = min(n, len(keys))
	for _, key := range keys[:n] {
		d.spoiled.keys[key] = false
	}
	return n
}

// readable fails if a layer of an object is spoiled, and notes that. mu is held.
func (d *Disk) readable(obj sheepdog.ObjectID, layer sheepdog.LayerID) error {
	key := objectKey{obj, layer}
	known, ok := d.spoiled.keys[key]
	if !ok {
		return nil
	}
	if d.spoiled.keys[key] = true; !known {
		close(d.spoiled.more)
		d.spoiled.more = make(chan struct{})
	}
	return fmt.Errorf("metadata of object %s layer %d are malformed: %w", obj, layer, sheepdog.ErrIO)
}

// find is the first block that the chain has; its state is Absent if none has. It fails where
// it comes to a layer that is spoiled. mu is held.
func (d *Disk) find(obj sheepdog.ObjectID, chain []sheepdog.LayerID, no sheepdog.BlockNo) (block, error) {
	for _, layer := range chain {
		if err := d.readable(obj, layer); err != nil {
			return block{}, err
		}
		if b, ok := d.now[objectKey{obj, layer}][no]; ok {
			return b, nil
		}
	}
	return block{}, nil
}

// mergeable is readable for all objects of a layer and those that they are merged with.
func (d *Disk) mergeable(from, to sheepdog.LayerID) error {
	for key := range d.now {
		if key.layer == from {
			if err := cmp.Or(d.readable(key.ObjectID, from), d.readable(key.ObjectID, to)); err != nil {
				return err
			}
		}
	}
	return nil
}

// dropped says that what was spoiled is gone. mu is held.
func (d *Disk) dropped(match func(objectKey) bool) {
	for key := range d.spoiled.keys {
		if match(key) {
			delete(d.spoiled.keys, key)
		}
	}
}

var _ sheepdog.SpoiledEngine = (*Engine)(nil)

// Spoiled implements sheepdog.SpoiledEngine.
func (e *Engine) Spoiled() (out []sheepdog.ListEntry, more <-chan struct{}) {
	d := e.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	for key, known := range d.spoiled.keys {
		if known {
			out = append(out, sheepdog.ListEntry{Object: key.ObjectID, Layer: key.layer})
		}
	}
	return out, d.spoiled.more
}
