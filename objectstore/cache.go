package objectstore

import (
	"slices"
	"sync"
	"sync/atomic"

	"sheepdog"
)

const cacheShards = 256

// cache keeps piles in memory. Those without pins are packed, the longest unused
// first, when all together take more than limit bytes, and are forgotten, no matter
// which, when what is packed takes more than packedLimit. Dirty piles are pinned by
// the dirty set.
type cache struct {
	limit, packedLimit int64
	used, packedUsed   atomic.Int64
	shards             [cacheShards]cacheShard
}

type cacheShard struct {
	mu     sync.Mutex
	latest *pile // of piles, the one that was asked for; nil: none
	piles  map[sheepdog.ObjectID]*pile
	packs  packs // those that left
	// idle is the ring of piles without pins; next is the latest used, see unpinDestaged.
	idle pile
}

// newCache makes a cache for so many bytes, a third of them for what is in use.
func newCache(bytes int64) *cache {
	c := &cache{limit: bytes / 3, packedLimit: bytes - bytes/3}
	for i := range c.shards {
		s := &c.shards[i]
		s.piles = make(map[sheepdog.ObjectID]*pile)
		s.idle.prev, s.idle.next = &s.idle, &s.idle
	}
	return c
}

// shard is that of a pile. The objects of a small disk have one each, where each is the
// latest.
func (c *cache) shard(id sheepdog.ObjectID) *cacheShard {
	return &c.shards[(mix64(uint64(id.Family))+uint64(id.Index))%cacheShards]
}

// find is the pile of an object, nil if there is none; s is locked.
func (s *cacheShard) find(id sheepdog.ObjectID) *pile {
	if p := s.latest; p != nil && p.id == id {
		return p
	}
	p := s.piles[id]
	if p != nil {
		s.latest = p
	}
	return p
}

// forget lets go of a pile; s is locked.
func (s *cacheShard) forget(p *pile) {
	delete(s.piles, p.id)
	if s.latest == p {
		s.latest = nil
	}
}

// pin finds or makes a pile and keeps it in memory until unpin.
func (c *cache) pin(id sheepdog.ObjectID) *pile {
	s := c.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.find(id)
	if p == nil {
		p = &pile{id: id}
		p.bytes.Store(pileBytes)
		p.packed = c.unshelve(s, id)
		s.piles[id] = p
	}
	if p.pins == 0 && p.next != nil {
		p.unlink()
	}
	p.pins++
	return p
}

// pinned is a pile that somebody has pinned; nil if nobody has.
func (c *cache) pinned(id sheepdog.ObjectID) *pile {
	s := c.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.find(id); p != nil && p.pins > 0 {
		return p
	}
	return nil
}

// pinAgain pins a pile that is pinned already.
func (c *cache) pinAgain(p *pile) {
	s := c.shard(p.id)
	s.mu.Lock()
	defer s.mu.Unlock()
	p.pins++
}

func (c *cache) unpin(p *pile) {
	s := c.shard(p.id)
	s.mu.Lock()
	defer s.mu.Unlock()
	c.unpinFor(s, p, &s.idle)
}

// unpinDestaged is unpin for a destage, which has used the pile for no request: a small
// one is the first to leave. It is packed while its memory is near.
func (c *cache) unpinDestaged(p *pile) {
	s := c.shard(p.id)
	s.mu.Lock()
	defer s.mu.Unlock()
	after := &s.idle
	if p.bytes.Load() <= smallPile {
		after = s.idle.prev
	}
	c.unpinFor(s, p, after)
}

// unpinFor is unpin with the shard locked; without pins the pile follows another one in
// the ring of those.
func (c *cache) unpinFor(s *cacheShard, p, after *pile) {
	if now := p.bytes.Load(); now != p.charged {
		c.used.Add(now - p.charged)
		p.charged = now
	}
	if p.pins--; p.pins > 0 {
		return
	}
	p.link(after)
	for s.idle.prev != &s.idle && c.crowded(s.idle.prev) {
		old := s.idle.prev
		old.unlink()
		s.forget(old)
		c.used.Add(-old.charged)
		c.shelve(s, old)
	}
}

// smallPile is the bytes of a pile with a few blocks. Packed it serves reads as well, takes
// an eighth, and the collector passes over it: so of these a part of the room is enough.
const (
	smallPile     = pileBytes + objectBytes + bareChunkBytes + 2*partBytes
	smallPilePart = 8
)

// crowded reports whether the longest unused pile of a shard is to leave.
func (c *cache) crowded(p *pile) bool {
	used := c.used.Load()
	return used > c.limit || used > c.limit/smallPilePart && p.charged <= smallPile
}

// packedBytes is what a packed pile takes besides its bytes.
const packedBytes = 80

// shelve remembers a pile that left, packed, unless its headers tell as much.
func (c *cache) shelve(s *cacheShard, p *pile) {
	if p.inHeaders() {
		return
	}
	k := packerPool.Get().(*packer)
	defer packerPool.Put(k)
	b := k.pack(p)
	if b == nil {
		return
	}
	if !s.packs.put(p.id, b) {
		return
	}
	c.packedUsed.Add(int64(len(b)) + packedBytes)
	for c.packedUsed.Load() > c.packedLimit {
		n, ok := s.packs.dropAny()
		if !ok {
			return
		}
		c.packedUsed.Add(-int64(n) - packedBytes)
	}
}

// away reports whether a pile is not in memory as such, and what is packed of it; nil:
// nothing.
func (c *cache) away(id sheepdog.ObjectID) (packed []byte, away bool) {
	s := c.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.packs.get(id), s.find(id) == nil
}

// unshelve takes what is packed of an object away; nil: nothing.
func (c *cache) unshelve(s *cacheShard, id sheepdog.ObjectID) []byte {
	at := s.packs.find(id)
	if at < 0 {
		return nil
	}
	b := slices.Clone(s.packs.bytesAt(at)) // the pile may outlive all that is beside it
	c.packedUsed.Add(-int64(s.packs.dropAt(at)) - packedBytes)
	return b
}

// inHeaders reports whether a pile that nobody uses has nothing but what is in the headers
// of its objects.
func (p *pile) inHeaders() bool {
	if !p.loaded.Load() || p.since != 0 || len(p.freed) > 0 {
		return false
	}
	for _, o := range p.objects {
		if o.dirty || o.dropped != 0 || o.stored && !o.inHead || !o.stored && o.present > 0 {
			return false
		}
	}
	return true
}

// link puts a pile after another one of a ring.
func (p *pile) link(after *pile) {
	p.prev, p.next = after, after.next
	p.prev.next, p.next.prev = p, p
}

func (p *pile) unlink() {
	p.prev.next, p.next.prev = p.next, p.prev
	p.prev, p.next = nil, nil
}

// dirtySet is the piles that the metadata store lacks changes of, each pinned.
type dirtySet struct {
	mu    sync.Mutex
	piles []*pile // each knows its place
}

func (d *dirtySet) add(p *pile) (added bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p.dirtyAt > 0 {
		return false
	}
	d.piles = append(d.piles, p)
	p.dirtyAt = len(d.piles)
	return true
}

func (d *dirtySet) has(p *pile) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return p.dirtyAt > 0
}

// remove puts the last one in the place of a pile.
func (d *dirtySet) remove(p *pile) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p.dirtyAt == 0 {
		return
	}
	n := len(d.piles) - 1
	last := d.piles[n]
	d.piles[p.dirtyAt-1], last.dirtyAt = last, p.dirtyAt
	d.piles[n], p.dirtyAt = nil, 0
	d.piles = d.piles[:n]
}

func (d *dirtySet) all() []*pile {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.piles)
}
