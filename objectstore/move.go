package objectstore

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"sheepdog"
)

// moveRef is one block on its way from the log to an extent.
type moveRef struct {
	s *savedPile
	m *move
}

// moveAll copies what the snapshots have in the log to extents, in their order,
// so that neighbours become neighbours, but for what was carried there. It returns the
// snapshots whose data found room; the others are undone.
func (d *Disk) moveAll(saved []*savedPile) ([]*savedPile, error) {
	var errs []error
	failed := make(map[*savedPile]bool)
	byVolume := make(map[*volume][]moveRef)
	for _, s := range saved {
		refs := s.refs()
		if best := d.volumes.ranked(s.p.id); len(best) > 0 {
			byVolume[best[0]] = append(byVolume[best[0]], refs...)
		} else if len(refs) > 0 {
			failed[s] = true
			errs = append(errs, fmt.Errorf("destage object %s: no disk works: %w", s.p.id, sheepdog.ErrIO))
		}
	}
	byID := func(a, b *volume) int { return cmp.Compare(a.id, b.id) }
	var buf []byte // one for all parts: fresh memory costs as much as the copying
	for _, v := range slices.SortedFunc(maps.Keys(byVolume), byID) {
		for part := range slices.Chunk(byVolume[v], copyBlocks) {
			buf = slices.Grow(buf[:0], len(part)*blockSize)[:len(part)*blockSize]
			if err := d.movePart(v, part, buf); err != nil {
				errs = append(errs, fmt.Errorf("destage: %w", err))
				for _, r := range part {
					failed[r.s] = true
				}
			}
		}
	}
	kept := slices.DeleteFunc(saved, func(s *savedPile) bool {
		if failed[s] {
			d.unsave(s)
		}
		return failed[s]
	})
	return kept, errors.Join(errs...)
}

// refs lists the blocks that are still to be moved.
func (s *savedPile) refs() []moveRef {
	var out []moveRef
	for i := range s.objects {
		for j := range s.objects[i].chunks {
			c := &s.objects[i].chunks[j]
			for k := range c.moves {
				if m := &c.moves[k]; m.to == 0 {
					out = append(out, moveRef{s, m})
				}
			}
		}
	}
	return out
}

// movePart moves blocks to a volume, or to another one that works; buf has their
// length.
func (d *Disk) movePart(v *volume, part []moveRef, buf []byte) error {
	if err := d.readLogged(part, buf); err != nil {
		return err
	}
	rank := func(order []*volume) []*volume { return append([]*volume{v}, order...) }
	return d.volumes.first(rank, func(v *volume) error {
		runs, err := v.put(buf, 1, route{}) // small writes: their neighbours are apart anyhow
		if err == nil {
			setPlaces(part, runs)
		}
		return err
	})
}

func setPlaces(part []moveRef, runs []run) {
	cur := runCursor{runs: runs}
	for _, r := range part {
		r.m.to = cur.next()
	}
}

// readLogged reads blocks from the log, those in a row at once. Their checksums
// go with them: rot is found by whoever reads the block.
func (d *Disk) readLogged(part []moveRef, buf []byte) error {
	for i := 0; i < len(part); {
		n := 1
		for i+n < len(part) && part[i+n].m.from.follows(part[i+n-1].m.from) {
			n++
		}
		if err := d.journal.read(part[i].m.from, buf[i*blockSize:][:n*blockSize]); err != nil {
			return err
		}
		i += n
	}
	return nil
}

// prepareCommit lists what each snapshot changes in the metadata store, and
// refuses if there is no room for all of it.
func (d *Disk) prepareCommit(saved []*savedPile) ([][]change, error) {
	all := make([][]change, len(saved))
	count, size := 1, checkpointSize
	var l changer
	for i, s := range saved {
		all[i] = l.of(s)
		count += len(all[i])
		size += sizeOf(all[i])
	}
	return all, d.meta.Room(count, size)
}

func sizeOf(changes []change) int {
	n := 0
	for i := range changes {
		n += changes[i].size()
	}
	return n
}

// commitSaved puts snapshots into the metadata store: a pile in one commit,
// with its neighbours as far as they fit.
func (d *Disk) commitSaved(saved []*savedPile, all [][]change) error {
	d.checkpoint.lastLSN = max(d.checkpoint.lastLSN, lsn(d.journal.applied.Load()), lastOf(saved))
	batch, size := make([]change, 0, len(saved)+1), 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		err := d.meta.Commit(append(batch, d.checkpoint.change()))
		batch, size = batch[:0], 0
		return err
	}
	for i, s := range saved {
		changes := all[i]
		n := sizeOf(changes)
		if !d.meta.Fits(len(batch)+len(changes)+1, size+n+checkpointSize) {
			if err := flush(); err != nil {
				return metaError("commit", err)
			}
		}
		if !d.meta.Fits(len(changes)+1, n+checkpointSize) {
			if err := commitLarge(d.meta, append(changes, d.checkpoint.change())); err != nil {
				return metaError("commit", err)
			}
		} else {
			batch, size = append(batch, changes...), size+n
		}
		for _, t := range s.tombstones() {
			d.tombstones[t.key] = t.at
		}
	}
	if err := flush(); err != nil {
		return metaError("commit", err)
	}
	return nil
}

func (s *savedPile) tombstones() []tombstone {
	var out []tombstone
	for i := range s.objects {
		if so := &s.objects[i]; so.dropped != 0 {
			out = append(out, tombstone{so.o.key, so.dropped})
		}
	}
	return out
}
