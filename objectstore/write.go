package objectstore

import (
	"errors"
	"fmt"
	"slices"

	"sheepdog"
)

// Write implements sheepdog.Engine.
func (d *Disk) Write(ops []sheepdog.Op, errs []error) {
	if err := d.begin(); err != nil {
		for i := range ops {
			errs[i] = err
		}
		return
	}
	defer d.end()
	if err := d.pressure(1); err != nil {
		for i := range ops {
			errs[i] = err
		}
		return
	}
	c := newCall(len(ops))
	defer c.release()
	admitted := d.admitSmall(ops)
	d.headers.near(ops)
	for i := range ops {
		errs[i] = d.prepare(c, &ops[i], &errs[i], admitted)
	}
	if len(c.tasks) == 0 {
		return
	}
	d.commit(c)
	for i := range c.tasks {
		d.cache.unpin(c.tasks[i].p)
	}
}

// pressure holds writers back while the destager is so far behind, as a part of what
// it may be.
func (d *Disk) pressure(part float64) error {
	if d.keepsUp(part) {
		return d.journal.failed()
	}
	d.wholly.Store(true)
	return d.journal.await(func() bool { return d.keepsUp(part) })
}

func (d *Disk) keepsUp(part float64) bool {
	return float64(d.dirtyBytes.Load()) <= part*float64(d.maxDirtyBytes) && !d.crowded(part)
}

// admitSmall admits all data of ops that go to the log, if that is easily told.
func (d *Disk) admitSmall(ops []sheepdog.Op) bool {
	n := uint64(0)
	for i := range ops {
		if size := len(ops[i].Data); size < LargeWrite {
			n += uint64(size)
		}
	}
	return d.metaQuota.take(n) && d.volumes.take(n)
}

// prepare does for an op what needs no order: it loads the map, computes
// checksums, and writes large data. It adds a task to the call. Small data may be
// admitted already.
func (d *Disk) prepare(c *call, op *sheepdog.Op, result *error, admitted bool) error {
	if err := checkOp(op); err != nil {
		return err
	}
	p, err := d.load(op.Object)
	if err != nil {
		return err
	}
	t := c.add()
	t.p, t.err = p, result
	e := &t.e
	e.kind, e.force, e.key = entryZero, op.Force, objectKey{op.Object, op.Layer}
	e.start, e.count, e.stamp = op.Start, op.Count, op.Stamp
	if err = d.loadRange(p, op.Layer, op.Start, op.Count); err == nil && op.Data != nil {
		err = d.prepareData(t, op, admitted)
	}
	if err != nil {
		c.takeBack()
		d.cache.unpin(p)
		return fmt.Errorf("write object %s: %w", op.Object, err)
	}
	return nil
}

func (d *Disk) prepareData(t *task, op *sheepdog.Op, admitted bool) error {
	if t.e.crcs = op.Sums; t.e.crcs == nil {
		t.e.crcs = sheepdog.AppendSums(t.sum[:0], op.Data)
	}
	if admitted && len(op.Data) < LargeWrite {
		t.e.kind, t.data, t.e.runs = entryInline, op.Data, t.run[:0]
		return nil
	}
	held := uint64(d.journal.segments()) * uint64(d.journal.segLen) * blockSize
	if err := d.metaQuota.admit(uint64(len(op.Data)), 0, 0); err != nil {
		return err
	}
	if len(op.Data) >= LargeWrite {
		runs, err := d.volumes.store(op.Object, op.Data, route{direct: op.Unread}, held)
		t.e.kind, t.e.runs = entryExtent, runs
		return err
	}
	t.e.kind, t.data, t.e.runs = entryInline, op.Data, t.run[:0]
	return d.volumes.admit(op.Object, uint64(len(op.Data)), held)
}

// load pins a pile and makes sure that its objects are known. The caller unpins
// it when the error is nil.
func (d *Disk) load(id sheepdog.ObjectID) (*pile, error) {
	p := d.cache.pin(id)
	if p.loaded.Load() {
		return p, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := d.recall(p); err != nil {
		d.cache.unpin(p)
		return nil, err
	}
	return p, nil
}

// recall makes the objects of a pile known, and maps that are in their headers; p is
// locked.
func (d *Disk) recall(p *pile) error {
	if p.unpack() {
		return nil
	}
	p.objects, p.last = nil, nil
	all := d.headers.pile(p.id)
	small := len(all) <= smallPacked
	if !small { // its maps are unpacked when they are wanted
		all = slices.Clone(all)
		p.bytes.Add(int64(len(all)))
	}
	for layer, b := range eachHeader(all) {
		if err := p.addHeader(layer, b, small); err != nil {
			return metaError("load objects", err)
		}
	}
	p.loaded.Store(true)
	return nil
}

// addHeader adds an object that the metadata store has, and if its map is to be unpacked
// and sound, that; else b must last.
func (p *pile) addHeader(layer sheepdog.LayerID, b []byte, unpack bool) error {
	h, maps, err := readHeader(objectKey{p.id, layer}, b)
	if err != nil {
		return err
	}
	o := p.object(layer)
	o.stored, o.inHead, o.complete = true, maps.all, false
	o.present, o.data, o.digest = h.present, h.data, h.digest
	o.rest = maps
	if !unpack {
		return nil
	}
	if _, err := p.unpackAll(o); err != nil {
		o.rest.packed = slices.Clone(maps.packed) // whoever wants the map hears of it
	}
	return nil
}

// loadRange makes sure that the chunks of a range are loaded that is to change, and all of
// a map that is in the header of its object, for it is written as a whole.
func (d *Disk) loadRange(p *pile, layer sheepdog.LayerID, start sheepdog.BlockNo, count uint32) error {
	p.mu.RLock()
	o := p.find(layer)
	ok := o == nil || o.complete || !o.inHead && o.has(start, count)
	if o != nil && count == 1 {
		o.fetch(start)
	}
	p.mu.RUnlock()
	if ok {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if o.inHead {
		return d.loadAll(p, o)
	}
	return d.loadChunks(p, o, start, count)
}

// loadChunks loads what is missing of a range; p is locked.
func (d *Disk) loadChunks(p *pile, o *object, start sheepdog.BlockNo, count uint32) (err error) {
	defer func() { d.judgeMap(o.key, err) }()
	first, last := uint32(start)/chunkBlocks, (uint32(start)+count-1)/chunkBlocks
	if last-first >= 8 {
		return d.loadAll(p, o)
	}
	if err := p.unpackRange(o, start, count); err != nil {
		return err
	}
	for no := first; no <= last && !o.complete; no++ {
		if o.chunks.known(no) {
			continue
		}
		p.packed = nil // it lacks this
		value, err := d.meta.Get(chunkKey(o.key, no))
		if err != nil {
			return metaError("load a block map", err)
		}
		if err := p.addChunk(o, no, value); err != nil {
			return err
		}
	}
	return nil
}

// loadAll makes an object complete; p is locked.
func (d *Disk) loadAll(p *pile, o *object) (err error) {
	if o.complete {
		return nil
	}
	defer func() { d.judgeMap(o.key, err) }()
	if all, err := p.unpackAll(o); all || err != nil {
		return err
	}
	if err := d.loadStored(p, o, p.addChunk); err != nil {
		return err
	}
	o.complete = true
	return nil
}

// loadStored adds the chunks of an object that the metadata store has; p is locked.
func (d *Disk) loadStored(p *pile, o *object, add func(o *object, no uint32, value []byte) error) error {
	p.packed = nil // it lacks some
	err := d.meta.Scan(scan{prefix: o.key.encode(keyChunk)}, func(key, value []byte) (bool, error) {
		_, no, err := decodeChunkKey(key)
		if err == nil {
			err = add(o, no, value)
		}
		return err == nil, err
	})
	if err != nil {
		return metaError("load a block map", err)
	}
	return nil
}

// addChunk adds a chunk from the metadata store, unless memory has a newer one.
func (p *pile) addChunk(o *object, no uint32, value []byte) error {
	if o.chunks.known(no) {
		return nil
	}
	if value == nil {
		o.chunks.put(no, nil)
		return nil
	}
	c := o.room()
	if err := c.decode(value); err != nil {
		return fmt.Errorf("object %s layer %x chunk %d: %w", p.id, uint64(o.key.Layer), no, mapError(err))
	}
	c.stored = !o.inHead
	o.chunks.put(no, c)
	p.bytes.Add(c.bytes())
	return nil
}

// metaError wraps what the metadata store reports. What it refuses for want of
// space has not failed.
func metaError(what string, err error) error {
	if errors.Is(err, sheepdog.ErrNoSpace) {
		return fmt.Errorf("%s: metadata: %w", what, err)
	}
	return fmt.Errorf("%s: metadata: %w: %w", what, sheepdog.ErrIO, err)
}
