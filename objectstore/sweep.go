package objectstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"sheepdog"
)

// lostStamp is the stamp of a block that was lost with its disk: older than any
// write, so that every other replica knows better.
var lostStamp = sheepdog.Stamp{Seq: 1}

// lostPlace is of a block that no disk has any more.
var lostPlace = extentPlace(maxDisks, 1)

// sweepPiles bounds the piles that a sweep changes between two destages.
const sweepPiles = 1024

// slotChange is what a sweep does to a slot on the disk; false leaves it alone.
type slotChange func(s *slot) (changed bool, err error)

// sweep applies change to every slot of a disk until a whole pass finds none to
// change, and makes that durable. Nothing new may get to the disk any more.
func (d *Disk) sweep(id diskID, change slotChange) error {
	if err := d.barrier(); err != nil {
		return err
	}
	d.destageMu.Lock()   // what a destage has moved there is in the maps after it
	d.destageMu.Unlock() //nolint:staticcheck // only the moment matters
	for {
		n, err := d.sweepOnce(id, change)
		if err == nil {
			err = d.destage(true)
		}
		if err != nil || n == 0 {
			return err
		}
	}
}

// barrier returns when whatever was on its way to the log is in the maps. It is
// a drop of something that nobody has.
func (d *Disk) barrier() error {
	return d.structural([]entry{{kind: entryDrop, key: objectKey{sheepdog.ObjectID{}, 1<<64 - 1}}})
}

// sweepOnce is one pass; it returns how many slots it changed.
func (d *Disk) sweepOnce(id diskID, change slotChange) (int, error) {
	piles, err := d.pilesOn(id)
	if err != nil {
		return 0, err
	}
	n := 0
	for i, obj := range piles {
		k, err := d.sweepPile(obj, id, change)
		n += k
		if err != nil {
			return n, fmt.Errorf("object %s: %w", obj, err)
		}
		if i%sweepPiles == sweepPiles-1 || d.dirtyBytes.Load() > d.maxDirtyBytes/2 {
			if err := d.destage(true); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// pilesOn lists the objects with blocks on a disk: those of the metadata store,
// and those that memory has changes of.
func (d *Disk) pilesOn(id diskID) ([]sheepdog.ObjectID, error) {
	seen := make(map[sheepdog.ObjectID]bool)
	var out []sheepdog.ObjectID
	add := func(obj sheepdog.ObjectID) {
		if !seen[obj] {
			seen[obj] = true
			out = append(out, obj)
		}
	}
	for _, p := range d.dirty.all() {
		add(p.id) // whether it is on the disk is seen soon enough
	}
	var c chunk
	err := eachChunk(d.meta, func(k objectKey, _ uint32, value []byte) (bool, error) {
		if seen[k.Object] {
			return true, nil
		}
		err := mapError(c.decode(value))
		if errors.Is(err, errMalformed) { // nobody finds anything by it
			d.judgeMap(k, err)
			return true, nil
		}
		if err == nil && c.on(id) {
			add(k.Object)
		}
		return err == nil, err
	})
	if err != nil {
		return nil, metaError("look for what is on a disk", err)
	}
	return out, nil
}

func (c *chunk) on(id diskID) bool {
	for i := range chunkBlocks {
		if at := c.at(i).at; at.isExtent() && at.disk() == id {
			return true
		}
	}
	return false
}

// sweepPile applies change to the slots of one object.
func (d *Disk) sweepPile(obj sheepdog.ObjectID, id diskID, change slotChange) (int, error) {
	if d.closing.Load() {
		return 0, fmt.Errorf("store %s: %w", d.opts.Meta, sheepdog.ErrClosed)
	}
	p, err := d.load(obj)
	if err != nil {
		return 0, err
	}
	defer d.cache.unpin(p)
	var out outcome
	p.mu.Lock()
	n, err := d.sweepLocked(p, id, change, &out)
	if out.dirtied && d.dirty.add(p) {
		d.cache.pinAgain(p)
	}
	p.mu.Unlock()
	d.account(&out)
	return n, err
}

func (d *Disk) sweepLocked(p *pile, id diskID, change slotChange, out *outcome) (int, error) {
	n := 0
	for _, o := range p.objects {
		err := d.loadAll(p, o)
		if errors.Is(err, errMalformed) {
			continue // all of it has to be replaced, wherever it is
		}
		if err != nil {
			return n, err
		}
		for no, c := range o.chunks.each {
			if !c.on(id) {
				continue
			}
			k, err := p.sweepChunk(o, c, no, id, change, out)
			n += k
			if k > 0 {
				p.touchUnlogged(o, c, max(lsn(d.journal.applied.Load()), 1), out)
			}
			if err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

func (p *pile) sweepChunk(o *object, c *chunk, no uint32, id diskID, change slotChange, out *outcome) (int, error) {
	n := 0
	for i := range chunkBlocks {
		old := c.at(i)
		if !old.at.isExtent() || old.at.disk() != id {
			continue
		}
		s := old
		changed, err := change(&s)
		if err != nil {
			return n, err
		}
		if !changed {
			continue
		}
		block := sheepdog.BlockNo(no*chunkBlocks + uint32(i))
		o.digest ^= mixRecord(block, old.record()) ^ mixRecord(block, s.record())
		if s.at != old.at {
			p.freed = appendPlace(p.freed, old.at)
			p.replaced++
			out.freedBlocks++
			out.replaced++
		}
		c.set(i, s) // no bytes more: there was one
		n++
	}
	return n, nil
}

// touchUnlogged marks a chunk as changed by something that is not in the log:
// what a crash undoes is done again.
func (p *pile) touchUnlogged(o *object, c *chunk, at lsn, out *outcome) {
	o.dirty = true
	if !c.dirty {
		c.dirty = true
		out.dirtyChunks++
	}
	p.touchPile(at, out)
}

// giveUp loses what is on a disk, in every object. The store is incomplete from
// then on, in its later lives as well, until all of it was replaced: with the disk
// gone or back.
func (d *Disk) giveUp(id diskID) error {
	if err := d.commitSmall("note that a disk is given up", change{diskKey(keyGivenUp, id), []byte{}}); err != nil {
		return err
	}
	return d.sweep(id, lose)
}

// lacking finds out whether all that was given up is replaced by now.
func (d *Disk) lacking() (bool, error) {
	var given []diskID
	err := d.meta.Scan(scan{prefix: []byte{keyGivenUp}}, func(key, _ []byte) (bool, error) {
		if len(key) != diskKeyLen {
			return false, errTruncated
		}
		given = append(given, diskID(binary.BigEndian.Uint16(key[1:])))
		return true, nil
	})
	if err != nil {
		return false, metaError("look for disks that were given up", err)
	}
	lacks := false
	for _, id := range given {
		left, err := d.countLost(id)
		if err != nil {
			return false, err
		}
		if left > 0 {
			lacks = true
			continue
		}
		if err := d.meta.Commit([]change{{diskKey(keyGivenUp, id), nil}}); err != nil {
			return false, metaError("note that a disk is replaced", err)
		}
	}
	return lacks, nil
}

// countLost is the number of blocks that were lost with a disk and have not been
// replaced.
func (d *Disk) countLost(id diskID) (n int, err error) {
	_, err = d.sweepOnce(id, func(s *slot) (bool, error) {
		if s.stamp == lostStamp {
			n++
		}
		return false, nil
	})
	return n, err
}

// lose gives a block the stamp of what was lost. Place and checksum stay: should
// the disk come back, and no other replica be left, its bytes still count.
func lose(s *slot) (bool, error) {
	if s.stamp == lostStamp {
		return false, nil
	}
	s.stamp = lostStamp
	return true, nil
}

// movePile moves the blocks that an object has on a disk to the other ones. The
// copies are durable before the maps change: should their disk fail now, what is
// here still counts. A block that cannot be read is lost.
func (d *Disk) movePile(obj sheepdog.ObjectID, id diskID) error {
	if d.closing.Load() {
		return fmt.Errorf("store %s: %w", d.opts.Meta, sheepdog.ErrClosed)
	}
	p, err := d.load(obj)
	if err != nil {
		return err
	}
	defer d.cache.unpin(p)
	var out outcome
	p.mu.Lock()
	copies, err := d.copyOff(p, id)
	if err == nil {
		_, err = d.sweepLocked(p, id, func(s *slot) (bool, error) {
			if s.at = copies[s.at]; s.at == lostPlace {
				s.stamp = lostStamp
			}
			return true, nil
		}, &out)
	}
	if out.dirtied && d.dirty.add(p) {
		d.cache.pinAgain(p)
	}
	p.mu.Unlock()
	d.account(&out)
	return err
}

// copyOff copies what a locked pile has on a disk, and tells where to.
func (d *Disk) copyOff(p *pile, id diskID) (map[place]place, error) {
	copies := make(map[place]place)
	var runs []run
	copyAll := func() error {
		for _, o := range p.objects {
			if err := d.loadAll(p, o); err != nil {
				return err
			}
			for _, c := range o.chunks.each {
				for i := range chunkBlocks {
					s := c.at(i)
					if !s.at.isExtent() || s.at.disk() != id {
						continue
					}
					to, err := d.copyBlock(p.id, &s)
					if err != nil {
						return err
					}
					if copies[s.at] = to; to != lostPlace {
						runs = append(runs, run{to, 1})
					}
				}
			}
		}
		if len(runs) == 0 {
			return nil
		}
		return d.volumes.sync()
	}
	if err := copyAll(); err != nil {
		d.volumes.free(runs)
		return nil, err
	}
	return copies, nil
}

func (d *Disk) copyBlock(obj sheepdog.ObjectID, s *slot) (place, error) {
	buf := make([]byte, blockSize)
	if err := d.readRow(s.at, buf); err != nil || crc32.Checksum(buf, castagnoli) != s.crc {
		return lostPlace, nil
	}
	runs, err := d.volumes.store(obj, buf, route{}, 0)
	if err != nil {
		return 0, err
	}
	return runs[0].at, nil
}

// LoseDisk gives a disk up that failed to keep data. Its blocks, in every
// object, get a stamp older than any write, so that other replicas replace
// them, and are bad to whoever reads them if the disk cannot tell their bytes.
// Once RetireDisk was called flushes do without the disk: call it when no
// replica of this store counts any more for what was on it.
func (d *Disk) LoseDisk(dir string) error {
	v, err := d.begun(dir)
	if err != nil {
		return err
	}
	defer d.end()
	v.failed.Store(true)
	if err := d.giveUp(v.id); err != nil {
		return fmt.Errorf("lose disk %s: %w", dir, err)
	}
	return nil
}

// RetireDisk lets flushes do without a disk whose loss is known.
func (d *Disk) RetireDisk(dir string) error {
	v, err := d.begun(dir)
	if err != nil {
		return err
	}
	defer d.end()
	v.retired.Store(true)
	return nil
}

// begun finds the disk of a directory, and keeps the store open until end.
func (d *Disk) begun(dir string) (*volume, error) {
	if err := d.begin(); err != nil {
		return nil, err
	}
	v, err := d.diskAt(dir)
	if err != nil {
		d.end()
		return nil, err
	}
	return v, nil
}

// diskFailed passes a failure on, once for each disk. Without a disk that takes
// data the store is out of service.
func (d *Disk) diskFailed(v *volume, err error) {
	if v.told.Swap(true) {
		return
	}
	d.log.Error("disk failed and gets no new data", "disk", v.dir, "error", err)
	if !d.volumes.healthy() {
		if d.opts.OnFailed != nil {
			d.opts.OnFailed(errors.Join(errors.New("no disk is left that works"), err))
		}
		return
	}
	if d.opts.OnDiskFailed != nil {
		d.opts.OnDiskFailed(v.dir, err)
	}
}
