package objectstore

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"sheepdog"
	"sheepdog/internal/prefetch"
)

// pile is all that the store holds of one ObjectID. Whoever uses one has it
// pinned in the cache.
type pile struct {
	id     sheepdog.ObjectID
	loaded atomic.Bool // objects has every object of the metadata store
	pins   int32       // guarded by the cache's shard

	mu   sync.RWMutex
	last *object // the latest that object found; nil or one of objects
	// since is the first entry that the metadata store lacks; 0 if it lacks none.
	since lsn

	// Guarded by the cache's shard. A write needs what is before this and not much more:
	// it is on one line of the processor's cache.
	prev, next *pile
	charged    int64 // bytes charged to the cache

	bytes  atomic.Int64 // bytes in use
	latest lsn          // the last entry that changed anything here, as far as memory knows
	// packed is what the pile was packed to, if memory knows no more than that; see
	// packed.go.
	packed []byte

	objects []*object // ascending by layer
	// freed are extents that the metadata store may still point to: free once
	// the pile has been committed.
	freed []run
	// replaced is how many blocks of freed have new data in their place.
	replaced int

	dirtyAt int // place in the dirty set, from 1 on; guarded by it

	// Room for the first object, and for the list of one. Neither is used twice:
	// somebody may still look at what was there. And for the first run of freed.
	first struct {
		o     object
		list  [1]*object
		used  bool
		freed [1]run
	}
}

// object is one layer's part of a pile, guarded by the pile's lock.
type object struct {
	key    objectKey
	chunks chunkMap
	floor  lsn // entries up to here were dropped; set by replay

	present uint32
	data    uint32 // present blocks that take space
	digest  uint64
	// complete: every chunk that the metadata store has is in chunks.
	complete bool
	dirty    bool
	stored   bool // the metadata store has a header
	inHead   bool // with the map in it, so that there are no chunks beside it
	dropped  lsn  // the last drop that the metadata store does not know; 0: none
	rest     rest // known as well

	// Room for the first chunk, not used twice either, and for a list of usual length.
	first struct {
		used bool
		list [16]*chunk
		c    chunk
	}
}

const (
	pileBytes   = 256
	objectBytes = 256
)

// object finds or makes an object. A new one has no chunks stored.
func (p *pile) object(layer sheepdog.LayerID) *object {
	o := p.find(layer)
	if o == nil {
		o = p.room()
		o.key, o.complete = objectKey{p.id, layer}, true
		o.chunks.list = o.first.list[:0]
		i, _ := p.at(layer)
		p.objects = slices.Insert(p.objects, i, o)
		p.bytes.Add(objectBytes)
	}
	p.last = o
	return o
}

// room is memory for an object.
func (p *pile) room() *object {
	if p.first.used {
		return new(object)
	}
	p.first.used = true
	p.objects = p.first.list[:0]
	return &p.first.o
}

// at is where the object of a layer is, or would be.
func (p *pile) at(layer sheepdog.LayerID) (int, bool) {
	return slices.BinarySearchFunc(p.objects, layer, func(o *object, layer sheepdog.LayerID) int { return cmp.Compare(o.key.Layer, layer) })
}

// find is the object of a layer; nil if there is none. The lock held for reading
// suffices.
func (p *pile) find(layer sheepdog.LayerID) *object {
	if o := p.last; o != nil && o.key.Layer == layer {
		return o
	}
	if i, found := p.at(layer); found {
		return p.objects[i]
	}
	return nil
}

// remove lets go of an object.
func (p *pile) remove(o *object) {
	p.objects = slices.DeleteFunc(p.objects, func(other *object) bool { return other == o })
	p.last = nil
	p.bytes.Add(-objectBytes)
}

// chunk finds or makes a chunk. The caller made sure that a stored one is
// loaded.
func (p *pile) chunk(o *object, no uint32) *chunk {
	c := o.chunks.at(no)
	if c == nil {
		c = o.room()
		o.chunks.put(no, c)
		p.bytes.Add(bareChunkBytes)
	}
	return c
}

// room is memory for a chunk.
func (o *object) room() *chunk {
	if o.first.used {
		return new(chunk)
	}
	o.first.used = true
	return &o.first.c
}

// has reports whether the chunks of a range of blocks are loaded.
func (o *object) has(start sheepdog.BlockNo, count uint32) bool {
	if o.complete {
		return true
	}
	for no := uint32(start) / chunkBlocks; no <= (uint32(start)+count-1)/chunkBlocks; no++ {
		if !o.chunks.known(no) {
			return false
		}
	}
	return true
}

// fetch has the slot of a block brought near, if there is one: it is needed when the
// data are in the log.
func (o *object) fetch(no sheepdog.BlockNo) {
	if c := o.chunks.at(uint32(no) / chunkBlocks); c != nil {
		if p := c.parts[no%chunkBlocks/partBlocks]; p != nil {
			prefetch.Line(unsafe.Pointer(&p[no%partBlocks]))
		}
	}
}

// header is what the metadata store keeps of an object beside its map. If it came
// from a header of version 1, data may be too high.
func (o *object) header() header {
	return header{present: o.present, data: min(o.data, o.present), digest: o.digest}
}

// outcome is what applying an entry did besides changing the maps.
type outcome struct {
	refused     []run // extents of the entry that no map points to
	freedBlocks int
	replaced    int // of freedBlocks: by data
	dirtyChunks int
	dirtied     bool // the pile was clean
}

// apply makes an entry visible. The chunks that it touches are loaded: those
// of its range for a write, all of its objects for a drop or merge. Entries
// that a chunk already has are skipped, so that replay may repeat any of them.
func (p *pile) apply(e *entry, at lsn, out *outcome) {
	switch e.kind {
	case entryDrop:
		p.drop(e.key.Layer, at, out)
	case entryMerge:
		p.merge(e.key.Layer, e.to, at, out)
	default:
		before := out.freedBlocks
		if e.count == 1 {
			p.writeOne(e, at, out)
		} else {
			p.write(e, at, out)
		}
		if n := out.freedBlocks - before; n > 0 && e.hasData() {
			p.replaced += n
			out.replaced += n
		}
	}
}

func (p *pile) write(e *entry, at lsn, out *outcome) {
	o := p.object(e.key.Layer)
	cur := runCursor{runs: e.runs}
	var c *chunk
	skip := false
	for i := range e.count {
		no := e.start + sheepdog.BlockNo(i)
		if c == nil || no%chunkBlocks == 0 {
			c = p.chunk(o, uint32(no)/chunkBlocks)
			skip = max(c.applied, o.floor) >= at
		}
		s := slot{state: sheepdog.Zero, stamp: e.stamp}
		if e.hasData() {
			s = slot{state: sheepdog.Data, stamp: e.stamp, crc: e.crcs[i], at: cur.next()}
		}
		var old *slot
		if !skip {
			old = p.slot(c, no)
		}
		if skip || !e.force && !old.stamp.Less(e.stamp) {
			if s.at.isExtent() {
				out.refused = appendPlace(out.refused, s.at)
			}
			continue
		}
		p.replace(o, c, no, old, &s, out)
		p.touch(o, c, at, out)
	}
}

// writeOne is write for one block.
func (p *pile) writeOne(e *entry, at lsn, out *outcome) {
	o := p.object(e.key.Layer)
	c := p.chunk(o, uint32(e.start)/chunkBlocks)
	s := slot{state: sheepdog.Zero, stamp: e.stamp}
	if e.hasData() {
		s.state, s.crc, s.at = sheepdog.Data, e.crcs[0], e.runs[0].at
	}
	if max(c.applied, o.floor) < at {
		if old := p.slot(c, e.start); e.force || old.stamp.Less(e.stamp) {
			p.replace(o, c, e.start, old, &s, out)
			p.touch(o, c, at, out)
			return
		}
	}
	if s.at.isExtent() {
		out.refused = appendPlace(out.refused, s.at)
	}
}

// slot is that of a block in its chunk.
func (p *pile) slot(c *chunk, no sheepdog.BlockNo) *slot {
	s, grown := c.slot(int(no % chunkBlocks))
	if grown {
		p.bytes.Add(partBytes)
	}
	return s
}

// replace puts s in the place of a slot of a chunk, and keeps the object's sums.
func (p *pile) replace(o *object, c *chunk, no sheepdog.BlockNo, old, s *slot, out *outcome) {
	if old.state != sheepdog.Absent {
		o.digest ^= mixRecord(no, old.record())
		o.present--
		c.present--
	}
	if old.state == sheepdog.Data {
		o.data--
	}
	if old.at.isExtent() {
		if p.freed == nil {
			p.freed = p.first.freed[:0]
		}
		p.freed = appendPlace(p.freed, old.at)
		out.freedBlocks++
	}
	if s.state != sheepdog.Absent {
		o.digest ^= mixRecord(no, s.record())
		o.present++
		c.present++
	}
	if s.state == sheepdog.Data {
		o.data++
	}
	*old = *s
}

func (p *pile) touch(o *object, c *chunk, at lsn, out *outcome) {
	c.applied = at
	o.dirty = true
	if !c.dirty {
		c.dirty = true
		out.dirtyChunks++
	}
	p.touchPile(at, out)
}

func (p *pile) touchPile(at lsn, out *outcome) {
	p.packed = nil
	p.latest = max(p.latest, at)
	if p.since == 0 {
		p.since = at
		out.dirtied = true
	}
}

// recount makes the sums of a complete object those of its chunks.
func (o *object) recount() {
	o.present, o.data, o.digest = 0, 0, 0
	for no, c := range o.chunks.each {
		for i := range chunkBlocks {
			s := c.at(i)
			if s.state == sheepdog.Absent {
				continue
			}
			o.present++
			o.digest ^= mixRecord(sheepdog.BlockNo(no*chunkBlocks+uint32(i)), s.record())
			if s.state == sheepdog.Data {
				o.data++
			}
		}
	}
}

func (p *pile) drop(layer sheepdog.LayerID, at lsn, out *outcome) {
	o := p.find(layer)
	if o == nil {
		return
	}
	for no, c := range o.chunks.each {
		if c.applied < at {
			p.empty(o, c, no, at, out)
		}
	}
	p.forget(o, at, out)
}

// forget notes that an object was dropped, so that replay does not bring
// entries before the drop back.
func (p *pile) forget(o *object, at lsn, out *outcome) {
	if !o.stored && o.chunks.n == 0 {
		return
	}
	o.dropped, o.dirty = at, true
	p.touchPile(at, out)
}

// empty makes every block of a chunk absent.
func (p *pile) empty(o *object, c *chunk, no uint32, at lsn, out *outcome) {
	for i := range chunkBlocks {
		if c.at(i).state != sheepdog.Absent {
			old, _ := c.slot(i)
			p.replace(o, c, sheepdog.BlockNo(no*chunkBlocks+uint32(i)), old, &slot{}, out)
		}
	}
	p.touch(o, c, at, out)
}

func (p *pile) merge(from, to sheepdog.LayerID, at lsn, out *outcome) {
	src := p.find(from)
	if src == nil || from == to {
		return
	}
	dst := p.object(to)
	for no, c := range src.chunks.each {
		if c.applied >= at {
			continue
		}
		if c.present > 0 {
			p.mergeChunk(src, dst, no, at, out)
		}
		p.empty(src, c, no, at, out)
	}
	p.forget(src, at, out)
}

// mergeChunk moves what dst lacks.
func (p *pile) mergeChunk(src, dst *object, no uint32, at lsn, out *outcome) {
	s, d := src.chunks.at(no), p.chunk(dst, no)
	for i := range chunkBlocks {
		from := s.at(i)
		if from.state == sheepdog.Absent || d.at(i).state != sheepdog.Absent {
			continue
		}
		s.place(i, 0) // moved, not freed
		at := sheepdog.BlockNo(no*chunkBlocks + uint32(i))
		p.replace(dst, d, at, p.slot(d, at), &from, out)
	}
	p.touch(dst, d, at, out)
}

// pending calls visit for each block of a write that apply would put into the
// map.
func (p *pile) pending(e *entry, at lsn, visit func(i uint32, place place)) {
	o := p.find(e.key.Layer)
	cur := runCursor{runs: e.runs}
	for i := range e.count {
		where := cur.next()
		no := e.start + sheepdog.BlockNo(i)
		var old slot
		if o != nil {
			if c := o.chunks.at(uint32(no) / chunkBlocks); c != nil {
				if c.applied >= at {
					continue
				}
				old = c.at(int(no % chunkBlocks))
			}
			if o.floor >= at {
				continue
			}
		}
		if e.force || old.stamp.Less(e.stamp) {
			visit(i, where)
		}
	}
}

// runCursor walks over runs block by block.
type runCursor struct {
	runs []run
	i    uint32
}

func (c *runCursor) next() place {
	r := c.runs[0]
	at := r.at + place(c.i)
	if c.i++; c.i == r.n {
		c.runs, c.i = c.runs[1:], 0
	}
	return at
}
