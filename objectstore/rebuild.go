package objectstore

import (
	"errors"
	"fmt"
	"hash/crc32"

	"sheepdog"
)

// replayer applies the log at start and then finds the space in use.
type replayer struct {
	d     *Disk
	claim lsn // entries up to here were durable
}

func newReplayer(d *Disk, claim lsn) *replayer {
	return &replayer{d: d, claim: claim}
}

// apply applies one entry of the log, as commit did in an earlier life.
func (r *replayer) apply(e *entry, at lsn) error {
	var p *pile
	var err error
	if e.kind == entryDrop || e.kind == entryMerge {
		p, err = r.d.loadWhole(e)
	} else if p, err = r.d.load(e.key.Object); err == nil {
		if err = r.d.loadRange(p, e.key.Layer, e.start, e.count); err != nil {
			r.d.cache.unpin(p)
		}
	}
	switch {
	case errors.Is(err, errMalformed):
		return nil // it has to be replaced as a whole, whatever is done to it
	case err != nil:
		return fmt.Errorf("object %s: %w", e.key.Object, err)
	}
	defer r.d.cache.unpin(p)
	var out outcome
	p.mu.Lock()
	defer p.mu.Unlock()
	r.prepare(p, e)
	if err := r.finished(p, e, at); err != nil {
		return err
	}
	p.apply(e, at, &out)
	if out.dirtied && r.d.dirty.add(p) {
		r.d.cache.pinAgain(p)
	}
	r.d.account(&out)
	return nil
}

// finished reports errUnfinished for a large write that was not durable and
// whose data are not all there. What of it an applied or newer write replaced
// does not count: that space may be in use for something else by now.
func (r *replayer) finished(p *pile, e *entry, at lsn) error {
	if e.kind != entryExtent || at <= r.claim {
		return nil
	}
	var err error
	buf := make([]byte, blockSize)
	p.pending(e, at, func(i uint32, where place) {
		if err != nil {
			return
		}
		if err = r.d.readRow(where, buf); err == nil && crc32.Checksum(buf, castagnoli) != e.crcs[i] {
			err = errUnfinished
		}
	})
	if errors.Is(err, sheepdog.ErrIO) {
		return nil // of a disk that is missing: whoever reads the block hears of it
	}
	return err
}

// prepare makes the objects know of drops that were committed already.
func (r *replayer) prepare(p *pile, e *entry) {
	for _, layer := range []sheepdog.LayerID{e.key.Layer, e.to} {
		if at := r.d.tombstones[objectKey{p.id, layer}]; at > 0 {
			p.object(layer).floor = at
		}
	}
}

// rebuildSpace marks every block in use: those that the metadata store points
// to, and those of dirty piles as memory has them. What dirty piles have
// replaced stays in use until they are committed.
func (r *replayer) rebuildSpace() error {
	for _, v := range r.d.volumes.all() {
		v.space.clear()
	}
	if err := r.markStored(); err != nil {
		return err
	}
	for _, p := range r.d.dirty.all() {
		if err := r.markPile(p); err != nil {
			return err
		}
	}
	for _, v := range r.d.volumes.all() {
		v.space.assumeSlack()
		v.markDirty()
	}
	return nil
}

func (r *replayer) markStored() error {
	dirty := make(map[sheepdog.ObjectID]*pile)
	for _, p := range r.d.dirty.all() {
		dirty[p.id] = p
	}
	var c chunk
	err := eachChunk(r.d.meta, func(k objectKey, no uint32, value []byte) (bool, error) {
		if p := dirty[k.Object]; p != nil {
			if o := p.find(k.Layer); o != nil && o.chunks.at(no) != nil {
				return true, nil
			}
		}
		switch err := mapError(c.decode(value)); {
		case errors.Is(err, errMalformed): // nobody finds anything by it
			r.d.judgeMap(k, err)
			return true, nil
		case err != nil:
			return false, fmt.Errorf("object %s layer %x chunk %d: %w", k.Object, uint64(k.Layer), no, err)
		}
		err := r.markChunk(&c)
		return err == nil, err
	})
	if err != nil {
		return metaError("find the space in use", err)
	}
	return nil
}

// eachChunk visits all maps that the metadata store has: chunks, and then those in
// headers. What visit is given is valid during the visit only.
func eachChunk(meta metadata, visit func(k objectKey, no uint32, value []byte) (bool, error)) error {
	more := true
	err := meta.Scan(scan{prefix: []byte{keyChunk}}, func(key, value []byte) (bool, error) {
		k, no, err := decodeChunkKey(key)
		if err == nil {
			more, err = visit(k, no, value)
		}
		return more, err
	})
	if err != nil || !more {
		return err
	}
	return meta.Scan(scan{prefix: []byte{keyObject}}, func(key, value []byte) (bool, error) {
		k, err := decodeObjectKey(key)
		if err != nil {
			return false, err
		}
		_, maps, err := readHeader(k, value)
		if err != nil {
			return false, err
		}
		for no, value := range maps.each {
			if more, err = visit(k, no, value); err != nil || !more {
				break
			}
		}
		return more, err
	})
}

func (r *replayer) markChunk(c *chunk) error {
	for i := range chunkBlocks {
		if at := c.at(i).at; at.isExtent() {
			if err := r.mark(at); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *replayer) markPile(p *pile) error {
	for _, o := range p.objects {
		for _, c := range o.chunks.each {
			if err := r.markChunk(c); err != nil {
				return fmt.Errorf("object %s: %w", p.id, err)
			}
		}
	}
	for _, f := range p.freed {
		for at := f.at; at < f.at+place(f.n); at++ {
			if err := r.mark(at); err != nil {
				return fmt.Errorf("object %s: %w", p.id, err)
			}
		}
	}
	return nil
}

// mark notes that a block is in use. Blocks of disks and files that are missing
// are errors of whoever reads them.
func (r *replayer) mark(at place) error {
	v := r.d.volumes.find(at.disk())
	if v == nil || at.block() >= v.space.blocks() {
		return nil
	}
	if !v.space.mark(at.block()) {
		return fmt.Errorf("%s is in use twice: the maps are damaged; %s: %w",
			at, startAnew, sheepdog.ErrChecksum)
	}
	return nil
}
