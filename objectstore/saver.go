package objectstore

// savedPile is a pile as a destage found it.
type savedPile struct {
	p        *pile
	since    lsn
	freed    []run
	replaced int // of the blocks in freed
	objects  []savedObject
	merged   bool // has drops or merges: the log must be durable first
	last     lsn  // the newest entry in it; its record may still be being applied
	chunks   int
}

type savedObject struct {
	o       *object
	chunks  []savedChunk // all that there are if the map is or was in the header, else those that are dirty
	header  header
	inHead  bool // the map goes into the header
	dropped lsn
}

// savedChunk is a chunk as a destage found it; its log places become extents.
type savedChunk struct {
	c       *chunk
	no      uint32
	clean   bool
	stored  bool
	present int
	moves   []move
	value   []byte // see encode
	copy    *chunk // what value is made of once all has been moved; nil if it is made
}

type move struct {
	slot     int
	from, to place
}

// fewRuns is for how many runs that were freed a pile keeps the room.
const fewRuns = 16

// saver takes snapshots for a round of a destage.
type saver struct {
	carried *carried
	chunk   chunk // a copy of the one at hand
	parts   [chunkBlocks / partBlocks]part
	moves   [chunkBlocks]move
	value   []byte
	// Of the pile at hand, and of the object.
	objects []savedObject
	chunks  []savedChunk

	all struct {
		piles   slab[savedPile]
		objects slab[savedObject]
		chunks  slab[savedChunk]
		moves   slab[move]
		freed   slab[run]
		values  slab[byte]
	}
}

// save takes a snapshot of what is dirty and makes the pile clean.
func (by *saver) save(p *pile) (s *savedPile, logged int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s = by.all.piles.one(savedPile{p: p, since: p.since, freed: by.all.freed.keep(p.freed), replaced: p.replaced})
	p.since, p.freed, p.replaced = 0, p.freed[:0], 0
	if cap(p.freed) > fewRuns {
		p.freed = nil
	}
	by.objects = by.objects[:0]
	for _, o := range p.objects {
		if !o.dirty {
			continue
		}
		so := savedObject{o: o, header: o.header(), inHead: o.fitsHead(), dropped: o.dropped}
		by.chunks = by.chunks[:0]
		whole := so.inHead || o.inHead
		if whole {
			p.mustUnpack(o)
		}
		for no, c := range o.chunks.each {
			if !c.dirty && !whole {
				continue
			}
			by.chunks = append(by.chunks, by.saveChunk(no, c))
			if !c.dirty {
				continue
			}
			c.dirty = false
			s.last = max(s.last, c.applied)
			s.chunks++
			logged += len(by.chunks[len(by.chunks)-1].moves)
		}
		o.dirty = false
		s.merged = s.merged || o.dropped != 0
		s.last = max(s.last, o.dropped)
		so.chunks = by.all.chunks.keep(by.chunks)
		by.objects = append(by.objects, so)
	}
	s.objects = by.all.objects.keep(by.objects)
	return s, logged
}

// saveChunk takes a snapshot of a chunk. If all of its blocks in the log were carried,
// that is at once what the metadata store gets of it: to keep a copy until then takes
// longer than all else that is done with it.
func (by *saver) saveChunk(no uint32, c *chunk) savedChunk {
	s := savedChunk{c: c, no: no, clean: !c.dirty, stored: c.stored, present: c.present}
	by.chunk = *c
	moves, carried := by.moves[:0], true
	for i, p := range c.parts {
		if p == nil {
			continue
		}
		q := &by.parts[i]
		*q = *p
		by.chunk.parts[i] = q
		for j := range q {
			if at := q[j].at; at.inLog() {
				m := move{slot: i*partBlocks + j, from: at}
				if by.carried.take(&m) {
					q[j].at = m.to
				} else {
					carried = false
				}
				moves = append(moves, m)
			}
		}
	}
	s.moves = by.all.moves.keep(moves)
	switch {
	case c.present == 0:
	case carried:
		by.value = by.chunk.append(by.value[:0])
		s.value = by.all.values.keep(by.value)
	default:
		c := by.chunk.clone()
		s.copy = &c
	}
	return s
}

// encode is the chunk for the metadata store, once all of its blocks have been moved; nil
// if nothing is in it.
func (c *savedChunk) encode() []byte {
	if c.copy != nil {
		for _, m := range c.moves {
			c.copy.place(m.slot, m.to)
		}
		c.value, c.copy = c.copy.encode(), nil
	}
	return c.value
}
