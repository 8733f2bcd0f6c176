package objectstore

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"sheepdog"
)

// Bounds of one round of a destage, in chunks and blocks of the log. What a round
// writes is synced at once, and the syncs of flushes get their turn at the disk
// after it: so a round is short.
const (
	roundChunks = 4096
	roundBlocks = 4096
	// tightChunks is the bound while the metadata store has little room.
	tightChunks = 128
	// copyBlocks is how much is read from the log and written at once, in blocks: as
	// much as stays in the processor's cache on the way.
	copyBlocks = 256
)

// retireTombstones bounds the tombstones that go at once. Of a large disk there are
// some hundred thousand.
const retireTombstones = 8 << 10

// tombstone keeps the entries of a dropped object from being replayed, until
// the log has none of them any more.
type tombstone struct {
	key objectKey
	at  lsn
}

// destage commits what the metadata store lacks and frees what that replaces:
// all of it, or what the sealed part of the log needs to be freed.
func (d *Disk) destage(all bool) error {
	d.destageMu.Lock()
	defer d.destageMu.Unlock()
	err := d.destageAll(all)
	d.journal.ended(err)
	return err
}

func (d *Disk) destageAll(all bool) error {
	if err := d.journal.failed(); err != nil {
		return err
	}
	if err := d.journal.nameAll(); err != nil {
		return err
	}
	last, upto := d.journal.sealed()
	piles := d.dirtyUpTo(all, upto)
	var failures []error
	limit := roundChunks
	c := new(carried)
	defer func() { d.drop(c, always) }()
	for n, ahead := 0, 0; len(piles) > 0; piles, ahead = piles[n:], ahead-n {
		if ahead <= 0 {
			d.drop(c, always)
			c, ahead = d.carry(piles)
		}
		var err error
		n, err = d.destageRound(piles[:ahead], limit, c)
		if d.journal.failed() != nil {
			return err
		}
		if errors.Is(err, errMetaFull) && limit > tightChunks {
			limit, n = tightChunks, 0
			continue
		}
		failures = append(failures, err)
		d.journal.look()
		if errors.Is(err, errMetaFull) {
			break
		}
	}
	if err := errors.Join(failures...); err != nil {
		return err
	}
	if last > 0 {
		if err := d.retire(last, upto); err != nil {
			return err
		}
	}
	return d.trimScarce()
}

// dirtyUpTo lists dirty piles in the order of their keys.
func (d *Disk) dirtyUpTo(all bool, upto lsn) []*pile {
	piles := d.dirty.all()
	if !all {
		piles = slices.DeleteFunc(piles, func(p *pile) bool {
			p.mu.RLock()
			defer p.mu.RUnlock()
			return p.since == 0 || p.since > upto
		})
	}
	sortPiles(piles)
	return piles
}

// sortPiles sorts piles by their keys.
func sortPiles(piles []*pile) {
	type keyed struct {
		partition sheepdog.Partition // costs as much as the rest of a comparison
		p         *pile
	}
	all := make([]keyed, len(piles))
	for i, p := range piles {
		all[i] = keyed{p.id.Partition(), p}
	}
	slices.SortFunc(all, func(a, b keyed) int {
		return cmp.Or(cmp.Compare(a.partition, b.partition), cmp.Compare(a.p.id.Family, b.p.id.Family), cmp.Compare(a.p.id.Index, b.p.id.Index))
	})
	for i := range all {
		piles[i] = all[i].p
	}
}

// errMetaFull is why a round was undone: the metadata store has no room for it.
var errMetaFull = errors.New("no room to commit maps")

// destageRound takes some piles from the first on through all the steps, and
// returns how many. Piles whose data found no room stay as they were.
func (d *Disk) destageRound(piles []*pile, limit int, c *carried) (int, error) {
	d.dropFailed(c)
	var saved []*savedPile
	var by saver
	by.carried = c
	n, chunks, blocks := 0, 0, 0
	for n < len(piles) && chunks < limit && blocks < roundBlocks {
		near(piles, n)
		s, logged := by.save(piles[n])
		d.dirtyBytes.Add(-int64(s.chunks) * chunkBytes)
		saved = append(saved, s)
		chunks += s.chunks
		blocks += logged // carried or not: their maps are committed at once
		n++
	}
	saved, moveErr := d.moveAll(saved)
	if err := d.syncFor(saved); err != nil {
		d.unsaveAll(saved)
		return n, err
	}
	all, err := d.prepareCommit(saved)
	if err != nil {
		d.unsaveAll(saved)
		return n, fmt.Errorf("%w: %w", errMetaFull, err)
	}
	if err := d.commitSaved(saved, all); err != nil {
		return n, d.journal.fail(err)
	}
	d.publishAll(saved)
	return n, moveErr
}

// syncFor makes durable what the metadata store is about to point to. A merge
// or drop must be in the log before any part of it is committed.
func (d *Disk) syncFor(saved []*savedPile) error {
	if err := d.volumes.syncHealthy(); err != nil {
		return err
	}
	for _, s := range saved {
		if s.merged {
			return d.journal.sync(lastOf(saved))
		}
	}
	return nil
}

// lastOf is the newest entry in snapshots.
func lastOf(saved []*savedPile) lsn {
	last := lsn(0)
	for _, s := range saved {
		last = max(last, s.last)
	}
	return last
}

// unsave makes a pile dirty again, as if the destage had not been.
func (d *Disk) unsave(s *savedPile) {
	d.discardMoves(s)
	p := s.p
	p.mu.Lock()
	defer p.mu.Unlock()
	p.since = s.since
	p.freed = append(s.freed, p.freed...)
	p.replaced += s.replaced
	for i := range s.objects {
		so := &s.objects[i]
		so.o.dirty = true
		for j := range so.chunks {
			if c := so.chunks[j].c; !c.dirty && !so.chunks[j].clean {
				c.dirty = true
				d.dirtyBytes.Add(chunkBytes)
			}
		}
	}
}

func (d *Disk) unsaveAll(saved []*savedPile) {
	for _, s := range saved {
		d.unsave(s)
	}
}

// discardMoves gives extents back that nothing points to yet.
func (d *Disk) discardMoves(s *savedPile) {
	for i := range s.objects {
		for j := range s.objects[i].chunks {
			for k := range s.objects[i].chunks[j].moves {
				m := &s.objects[i].chunks[j].moves[k]
				if m.to != 0 {
					d.volumes.free([]run{{m.to, 1}})
					m.to = 0
				}
			}
		}
	}
}

// publishAll puts the new places into the maps and, when no reader can see the
// old ones any more, frees what was replaced.
func (d *Disk) publishAll(saved []*savedPile) {
	var freed []run
	replaced := 0
	for i, s := range saved {
		nearSaved(saved, i)
		freed = append(freed, s.freed...)
		replaced += s.replaced
		d.publish(s)
	}
	d.guard.wait()
	d.volumes.free(freed)
	n := int64(0)
	for _, r := range freed {
		n += int64(r.n)
	}
	d.freedBlocks.Add(-n)
	d.replaced.Add(-int64(replaced))
}

func (d *Disk) publish(s *savedPile) {
	p := s.p
	p.mu.Lock()
	for i := range s.objects {
		so := &s.objects[i]
		so.o.inHead = so.inHead
		for j := range so.chunks {
			d.publishChunk(p, so.o, &so.chunks[j])
		}
		so.o.stored = so.header.present > 0
		if so.o.dropped == so.dropped {
			so.o.dropped = 0
		}
		if o := so.o; !o.stored && !o.dirty && o.present == 0 && o.chunks.n == 0 {
			p.remove(o)
		}
	}
	clean := p.since == 0
	if clean {
		d.dirty.remove(p)
	}
	p.mu.Unlock()
	if clean {
		d.cache.unpinDestaged(p)
	}
}

func (d *Disk) publishChunk(p *pile, o *object, s *savedChunk) {
	for _, m := range s.moves {
		if !p.relocate(o, s.no, m) {
			p.freed = append(p.freed, run{m.to, 1})
			p.replaced++
			d.freedBlocks.Add(1)
			d.replaced.Add(1)
		}
	}
	s.c.stored = s.present > 0 && !o.inHead
	if s.c.dirty || s.c.present > 0 {
		return
	}
	p.bytes.Add(-s.c.bytes())
	if o.complete {
		o.chunks.forget(s.no)
	} else {
		o.chunks.put(s.no, nil)
	}
}

// relocate replaces a place in the log, wherever in the pile the block is by
// now: a merge may have moved it to another layer. It reports false if the
// block was replaced: the new place is then in the metadata store alone, until
// the pile is committed again.
func (p *pile) relocate(o *object, no uint32, m move) bool {
	if c := o.chunks.at(no); c != nil && c.at(m.slot).at == m.from {
		c.place(m.slot, m.to)
		return true
	}
	for _, other := range p.objects {
		if c := other.chunks.at(no); c != nil && c.at(m.slot).at == m.from {
			c.place(m.slot, m.to)
			return true
		}
	}
	return false
}

// retire frees log segments that nothing points to any more, once the metadata
// store says where the log begins.
func (d *Disk) retire(last generation, upto lsn) error {
	n := min(len(d.tombstones), retireTombstones)
	if err := d.meta.Room(1+n, checkpointSize+n*(objectKeyLen+32)); err != nil {
		return metaError("retire the log", err)
	}
	d.checkpoint.firstGen = d.journal.beginning(last)
	d.checkpoint.lastLSN = max(d.checkpoint.lastLSN, upto)
	d.checkpoint.retired = max(d.checkpoint.retired, upto)
	d.checkpoint.reserved = d.journal.wanted()
	changes := []change{d.checkpoint.change()}
	for key, at := range d.tombstones {
		if len(changes) > retireTombstones {
			break // the rest can wait: they say nothing about newer entries
		}
		if at <= upto {
			changes = append(changes, change{key: key.encode(keyTombstone)})
			delete(d.tombstones, key)
		}
	}
	if err := commitAll(d.meta, changes); err != nil {
		return d.journal.fail(metaError("retire the log", err))
	}
	d.journal.reserved.Store(uint64(d.checkpoint.reserved))
	d.guard.wait()
	d.journal.retire(last)
	return nil
}

// reserve reserves generations at the start. Where there is no room for that,
// segments are begun the slow way until the first destage.
func (d *Disk) reserve() error {
	ck := d.checkpoint
	ck.reserved = d.journal.wanted()
	err := d.meta.Room(1, checkpointSize)
	if errors.Is(err, sheepdog.ErrNoSpace) {
		return nil
	}
	if err == nil {
		err = d.meta.Commit([]change{ck.change()})
	}
	if err != nil {
		return metaError("reserve generations of the log", err)
	}
	d.checkpoint = ck
	d.journal.reserved.Store(uint64(ck.reserved))
	return nil
}

// trimScarce gives unused space back where the file system has little.
func (d *Disk) trimScarce() error {
	return d.trim(func(v *volume) error {
		if !v.scarce() {
			return nil
		}
		return v.trim(v.space.excess(), never)
	})
}

// trimIdle gives back what nobody has used since the call before, until stop.
func (d *Disk) trimIdle(stop func() bool) error {
	d.destageMu.Lock()
	defer d.destageMu.Unlock()
	if d.journal.failed() != nil {
		return nil // told already
	}
	return d.trim(func(v *volume) error {
		v.scarce() // what may be borrowed changes also while nothing is written
		return v.trim(v.space.takeIdle(), stop)
	})
}

// trim runs one for each disk that works.
func (d *Disk) trim(one func(*volume) error) error {
	for _, v := range d.volumes.all() {
		if v.failed.Load() {
			continue
		}
		if err := one(v); err != nil {
			return err
		}
	}
	return nil
}

func always(*volume) bool { return true }

func never() bool { return false }
