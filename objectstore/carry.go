package objectstore

import (
	"cmp"
	"slices"
)

const (
	// carryBlocks bounds how many blocks of the log are carried ahead of the rounds
	// of a destage, and so what is kept of them: 24 bytes each.
	carryBlocks = 1 << 17
	// gapBlocks is up to how much that nobody needs is read along with its neighbours:
	// another call costs more.
	gapBlocks = 3
	// rowBlocks is how many blocks in a row are worth looking for.
	rowBlocks = LargeWrite / blockSize
	// aheadBlocks is how many blocks are written before the disk has taken them. A flush,
	// or a commit of the cluster, waits for what is ahead of it at the disk, and a snapshot
	// holds writes as long.
	aheadBlocks = 1024
)

// destination is where blocks are carried: to which disk, and whether they stay in the
// host's memory. Those of families that are not local take none of it: clients are served by
// another node, which has them in its memory, and a page that is new to the host costs it
// more than all else that a destage does with a block.
type destination struct {
	v      *volume
	direct bool
}

// carried are blocks that were copied from the log to extents ahead of the rounds of a
// destage, in the order of the log: it is read and written in long rows, where a
// round finds its blocks all over it. No map leads to the copies before a round takes
// them. Of what is written meanwhile a round copies itself what is not among them.
type carried struct {
	from   []place // ascending
	to     []place // 0: not copied, or taken
	before *carried
}

// loggedBlock is a block of the log, and what it belongs to.
type loggedBlock struct {
	from place
	rank uint64 // pile and block: neighbours on the disk become neighbours
}

// carry copies what the first of the piles have in the log, and tells how many piles
// that is. What is written meanwhile follows, while it gets less by that. It leaves out
// what it cannot copy, and disks without much room: copies that are replaced before a
// round takes them need room twice.
func (d *Disk) carry(piles []*pile) (c *carried, n int) {
	roomy := make(map[*volume]bool)
	for _, v := range d.volumes.all() {
		roomy[v] = !v.scarce()
	}
	seen := lsn(d.journal.applied.Load())
	logged, n := d.logged(piles, 0, roomy)
	c = d.carryMore(nil, logged)
	for last := 2 * len(c.from); len(c.from) >= copyBlocks && len(c.from) <= last/2; {
		last = len(c.from)
		before := seen
		seen = lsn(d.journal.applied.Load())
		logged, _ = d.logged(piles[:n], before, roomy)
		c = d.carryMore(c, logged)
	}
	return c, n
}

// logged lists what the first of the piles have in the log, by where it should
// go, as much as is carried at once, and tells how many piles that is. It leaves out
// piles that no entry after one has changed.
func (d *Disk) logged(piles []*pile, after lsn, roomy map[*volume]bool) (out map[destination][]loggedBlock, n int) {
	out = make(map[destination][]loggedBlock)
	for blocks := 0; n < len(piles) && blocks < carryBlocks; n++ {
		near(piles, n)
		order := d.volumes.ranked(piles[n].id)
		if len(order) == 0 || !roomy[order[0]] {
			continue
		}
		to := destination{order[0], !d.local.has(piles[n].id.Family)}
		all := piles[n].logged(uint64(n), after, out[to])
		blocks += len(all) - len(out[to])
		out[to] = all
	}
	return out, n
}

// carryMore copies what was not copied before.
func (d *Disk) carryMore(before *carried, logged map[destination][]loggedBlock) *carried {
	c := &carried{before: before}
	for to, refs := range logged {
		refs = slices.DeleteFunc(refs, func(b loggedBlock) bool { return before.has(b.from) })
		slices.SortFunc(refs, func(a, b loggedBlock) int { return cmp.Compare(a.from, b.from) })
		logged[to] = refs
		for i := range refs {
			c.from = append(c.from, refs[i].from)
		}
	}
	slices.Sort(c.from)
	c.to = make([]place, len(c.from))
	m := carrier{d: d, c: c}
	for _, v := range d.volumes.all() {
		for _, direct := range []bool{false, true} {
			m.all(destination{v, direct}, logged[destination{v, direct}])
		}
	}
	return c
}

func (c *carried) has(from place) bool {
	for ; c != nil; c = c.before {
		if _, ok := slices.BinarySearch(c.from, from); ok {
			return true
		}
	}
	return false
}

// logged appends the blocks that a pile has in the log, if an entry after one has
// changed it.
func (p *pile) logged(no uint64, after lsn, out []loggedBlock) []loggedBlock {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.latest <= after {
		return out
	}
	for _, o := range p.objects {
		if !o.dirty {
			continue
		}
		for no64, c := range o.chunks.each {
			if c == nil || !c.dirty {
				continue
			}
			for i, q := range c.parts {
				if q == nil {
					continue
				}
				for j := range q {
					if at := q[j].at; at.inLog() {
						block := uint64(no64)*chunkBlocks + uint64(i*partBlocks+j)
						out = append(out, loggedBlock{at, no<<32 | block})
					}
				}
			}
		}
	}
	return out
}

// carrier is the memory that the parts of a carry share.
type carrier struct {
	d         *Disk
	c         *carried
	raw, data []byte
	pieces    [][]byte
	order     []int32 // of the blocks of a part, by rank
	goes      []int32 // where each of them goes
	places    []place // the same on the disk
	ahead     int     // blocks written since it waited for the disks
}

// keepUp counts blocks that were written, and waits for the disks once that is much.
func (m *carrier) keepUp(blocks int) error {
	if m.ahead += blocks; m.ahead < aheadBlocks {
		return nil
	}
	m.ahead = 0
	return m.d.volumes.syncHealthy()
}

// all copies blocks, which are in the order of the log, as far as it can: whoever copies
// what is left tells of errors.
func (m *carrier) all(to destination, blocks []loggedBlock) {
	for part := range slices.Chunk(blocks, copyBlocks) {
		if m.part(to, part) != nil || m.keepUp(len(part)) != nil {
			return
		}
	}
}

// part copies some of them.
func (m *carrier) part(to destination, part []loggedBlock) error {
	m.order = m.order[:0]
	for i := range part {
		m.order = append(m.order, int32(i))
	}
	slices.SortFunc(m.order, func(a, b int32) int { return cmp.Compare(part[a].rank, part[b].rank) })
	m.data = slices.Grow(m.data[:0], len(part)*blockSize)[:len(part)*blockSize]
	m.goes = slices.Grow(m.goes[:0], len(part))[:len(part)]
	for i, k := range m.order {
		m.goes[k] = int32(i)
	}
	for i := 0; i < len(part); {
		n, err := m.read(part[i:], m.goes[i:])
		if err != nil {
			return err
		}
		i += n
	}
	runs, err := to.v.put(m.data, rowBlocks, route{direct: to.direct})
	if err != nil {
		return err
	}
	m.settle(part, runs)
	to.v.hurry(runs)
	return nil
}

// settle notes where the blocks of a part went.
func (m *carrier) settle(part []loggedBlock, runs []run) {
	m.places = m.places[:0]
	cur := runCursor{runs: runs}
	for range part {
		m.places = append(m.places, cur.next())
	}
	at, _ := slices.BinarySearch(m.c.from, part[0].from)
	for i := range part {
		for m.c.from[at] != part[i].from { // of another destination
			at++
		}
		m.c.to[at] = m.places[m.goes[i]]
	}
}

// read reads the blocks that the part begins with, as far as they are near each other,
// and puts them where they go.
func (m *carrier) read(part []loggedBlock, goes []int32) (int, error) {
	first := part[0].from
	n, end := 1, first.segmentOffset()+blockSize
	for ; n < len(part) && part[n].from.generation() == first.generation(); n++ {
		off := part[n].from.segmentOffset()
		if off > end+gapBlocks*blockSize || off+blockSize-first.segmentOffset() > copyBlocks*blockSize {
			break
		}
		end = off + blockSize
	}
	if n == 1 {
		return 1, m.d.journal.read(first, m.data[int(goes[0])*blockSize:][:blockSize])
	}
	if m.scatter(part[:n], goes) {
		return n, nil
	}
	m.raw = slices.Grow(m.raw[:0], copyBlocks*blockSize)[:end-first.segmentOffset()]
	if err := m.d.journal.read(first, m.raw); err != nil {
		return 0, err
	}
	for i := range n {
		copy(m.data[int(goes[i])*blockSize:][:blockSize], m.raw[part[i].from.segmentOffset()-first.segmentOffset():])
	}
	return n, nil
}

// scatter reads blocks of one segment to where they go by one call; false if the file
// cannot do that, or has not.
func (m *carrier) scatter(part []loggedBlock, goes []int32) bool {
	m.raw = slices.Grow(m.raw[:0], gapBlocks*blockSize)[:gapBlocks*blockSize]
	m.pieces = m.pieces[:0]
	defer clear(m.pieces)
	at := part[0].from.segmentOffset()
	for i := range part {
		off := part[i].from.segmentOffset()
		if gap := off - at; gap > 0 {
			m.pieces = append(m.pieces, m.raw[:gap])
		}
		m.pieces = append(m.pieces, m.data[int(goes[i])*blockSize:][:blockSize])
		at = off + blockSize
	}
	return m.d.journal.tryScatter(part[0].from, m.pieces)
}

// take has a move use the copy that was made of its block, if there is one.
func (c *carried) take(m *move) bool {
	for ; c != nil; c = c.before {
		if i, ok := slices.BinarySearch(c.from, m.from); ok {
			m.to, c.to[i] = c.to[i], 0
			return m.to != 0
		}
	}
	return false
}

// dropFailed gives up the copies on disks that failed: the log still has the data.
func (d *Disk) dropFailed(c *carried) {
	failed := func(v *volume) bool { return v.failed.Load() }
	if slices.ContainsFunc(d.volumes.all(), failed) {
		d.drop(c, failed)
	}
}

// drop gives up the copies on some disks, and on those that are gone.
func (d *Disk) drop(c *carried, bad func(v *volume) bool) {
	for ; c != nil; c = c.before {
		for i, to := range c.to {
			if v := d.volumes.find(to.disk()); to != 0 && (v == nil || bad(v)) {
				d.volumes.free([]run{{to, 1}})
				c.to[i] = 0
			}
		}
	}
}
