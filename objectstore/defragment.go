package objectstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sheepdog"
	"sheepdog/internal/pause"
)

const (
	// defragmentAtOnce is how many windows are moved by one sync and one commit.
	defragmentAtOnce = 4
	// defragmentBusy is which part of its rate the defragmenter has while clients are busy.
	defragmentBusy = 32
	// defragmentLook is the time between looks whether writers are held back.
	defragmentLook = time.Second
)

// defragmenter moves windows that long reads found ragged into long rows, until the store
// closes. Nobody waits for that: it gives way, keeps to a rate, and rests while writers are
// held back.
func (d *Disk) defragmenter(ctx context.Context) {
	defer d.done.Done()
	giveWay()
	turn := time.NewTicker(raggedFor)
	defer turn.Stop()
	m := defragmentation{d: d}
	for {
		select {
		case <-ctx.Done():
			return
		case <-turn.C:
			d.ragged.forget()
			continue
		case <-d.ragged.wake:
		}
		for ctx.Err() == nil {
			if d.level() >= easyLevel {
				_ = pause.For(ctx, defragmentLook)
				continue
			}
			all := d.ragged.take(defragmentAtOnce)
			if len(all) == 0 {
				break
			}
			n, err := m.move(all)
			if err != nil {
				d.log.Warn("what is read in sequence could not be moved side by side; it stays where it is", "store", d.opts.Meta, "error", err)
			}
			_ = pause.For(ctx, d.defragmentPause(n))
		}
	}
}

// defragmentPause is how long the rate asks to rest after so many bytes.
func (d *Disk) defragmentPause(bytes uint64) time.Duration {
	rate := float64(d.opts.DefragmentRate)
	if d.opts.Busy != nil && d.opts.Busy() {
		rate /= defragmentBusy
	}
	return time.Duration(float64(bytes) / rate * float64(time.Second))
}

// defragmentation moves windows. What one of them has of a layer is written in the order
// of its blocks, so that it lies as well for whatever chain of layers is read. The copies
// are durable before a map leads to them, and what they replace is freed as everything is:
// when the metadata store has the new places, and no reader can see the old ones. Nothing
// of it is in the log, for a crash leaves the old places in the maps.
type defragmentation struct {
	d    *Disk
	data []byte
}

// copied is what a window has of a layer, and where it was copied.
type copied struct {
	p     *pile // pinned
	layer sheepdog.LayerID
	v     *volume
	nos   []sheepdog.BlockNo
	slots []slot // as they were
	to    []run
}

// move moves windows, and tells how many bytes were copied. What cannot be copied stays
// where it is.
func (m *defragmentation) move(all []window) (bytes uint64, err error) {
	if m.d.journal.failed() != nil {
		return 0, nil // told already
	}
	var copies []copied
	for _, w := range all {
		c, failed := m.copyWindow(w)
		err = errors.Join(err, failed)
		copies = append(copies, c...)
	}
	if len(copies) == 0 {
		return 0, err
	}
	for i := range copies {
		bytes += uint64(len(copies[i].nos)) * blockSize
	}
	return bytes, errors.Join(err, m.d.settleCopies(copies))
}

// settleCopies has the maps lead to copies once these are durable, and commits that.
func (d *Disk) settleCopies(copies []copied) error {
	err := d.volumes.syncHealthy()
	var ids []sheepdog.ObjectID
	for i := range copies {
		c := &copies[i]
		if c.v.lost.Load() != nil {
			d.volumes.free(c.to) // it may not have them
		} else {
			d.relink(c)
		}
		if n := len(ids); n == 0 || ids[n-1] != c.p.id {
			ids = append(ids, c.p.id)
		}
		d.cache.unpin(c.p)
	}
	d.commitPart(ids)
	return err
}

// copyWindow copies those layers of a window that are ragged, and have not been written
// lately.
func (m *defragmentation) copyWindow(w window) (out []copied, err error) {
	d := m.d
	p, err := d.load(w.obj)
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", w.obj, err)
	}
	defer d.cache.unpin(p)
	ragged, clean := d.raggedIn(p, w.start)
	if !clean {
		d.ragged.unmark(waits(w.print))
	}
	for i := range ragged {
		c := &ragged[i]
		done, failed := m.copy(c)
		err = errors.Join(err, failed)
		if done {
			d.cache.pinAgain(p)
			out = append(out, *c)
		}
	}
	return out, err
}

// raggedIn lists what of a window lies in short rows, for each layer; clean is false if it
// has to wait until what was written to the object is destaged.
func (d *Disk) raggedIn(p *pile, start sheepdog.BlockNo) (out []copied, clean bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.since != 0 {
		return nil, false
	}
	for _, o := range p.objects {
		if o.present < longRead || d.loadChunks(p, o, start, windowBlocks) != nil {
			continue // a map that is malformed was told of
		}
		c := copied{p: p, layer: o.key.Layer}
		for no := start; no < start+windowBlocks; no++ {
			if s := o.slotOf(no); s.at.isExtent() {
				c.nos, c.slots = append(c.nos, no), append(c.slots, s)
			}
		}
		if rows, blocks, _ := rowsOf(c.slots); tooRagged(rows, blocks) {
			out = append(out, c)
		}
	}
	return out, true
}

// slotOf is the slot of a block, as far as memory has it.
func (o *object) slotOf(no sheepdog.BlockNo) slot {
	if c := o.chunks.at(uint32(no) / chunkBlocks); c != nil {
		return c.at(int(no % chunkBlocks))
	}
	return slot{}
}

// copy copies the blocks to long rows of the disk that they are on; false: they stay. To
// stay on the disk means that to unplug it, or to lose it, is no different.
func (m *defragmentation) copy(c *copied) (done bool, err error) {
	d := m.d
	if c.v = d.soleVolume(c.slots); c.v == nil || c.v.scarce() {
		return false, nil
	}
	n := len(c.slots)
	if m.data == nil {
		m.data = make([]byte, windowBlocks*blockSize)
	}
	data := m.data[:n*blockSize]
	if good, err := d.readCopied(c, data); !good {
		return false, err
	}
	held := uint64(d.journal.segments()) * uint64(d.journal.segLen) * blockSize
	if err := c.v.admit(uint64(len(data)), held); err != nil {
		return false, unlessFull(err)
	}
	if c.to, err = c.v.put(data, uint64(n), route{}); err != nil {
		return false, unlessFull(err)
	}
	if tooRagged(2*len(c.to), n) { // there are no long rows
		c.v.free(c.to)
		return false, nil
	}
	c.v.hurry(c.to)
	return true, nil
}

// readCopied reads and verifies what is to be copied; false: it is bad, or has changed.
func (d *Disk) readCopied(c *copied, data []byte) (good bool, err error) {
	side := d.guard.enter() // what is read is not used for something else meanwhile
	defer side.RUnlock()
	if !c.unchanged() {
		return false, nil
	}
	bad, err := d.readSlots(c.slots, data)
	if len(bad) == 0 {
		return true, nil
	}
	for i := range bad {
		bad[i] = int(c.nos[bad[i]])
	}
	return false, d.badBlocks(c.p.id, 0, bad, err)
}

func (c *copied) unchanged() bool {
	c.p.mu.RLock()
	defer c.p.mu.RUnlock()
	o := c.p.find(c.layer)
	for i, no := range c.nos {
		if o == nil || o.slotOf(no) != c.slots[i] {
			return false
		}
	}
	return true
}

// unlessFull is an error that says more than that a disk takes nothing now.
func unlessFull(err error) error {
	if errors.Is(err, sheepdog.ErrNoSpace) || errors.Is(err, errLeft) {
		return nil
	}
	return err
}

// soleVolume is the disk that all of the slots are on, nil if there is none that takes data.
func (d *Disk) soleVolume(slots []slot) *volume {
	id := slots[0].at.disk()
	for i := range slots {
		if slots[i].at.disk() != id {
			return nil
		}
	}
	if v := d.volumes.find(id); v != nil && v.takes() {
		return v
	}
	return nil
}

// relink has the map lead to the copies of blocks that are as they were when they were
// copied. The other copies are free: nothing ever led to them.
func (d *Disk) relink(c *copied) {
	var out outcome
	var unused []run
	cur := runCursor{runs: c.to}
	p := c.p
	p.mu.Lock()
	o := p.find(c.layer)
	for i, no := range c.nos {
		to := cur.next()
		if o == nil || o.slotOf(no) != c.slots[i] {
			unused = appendPlace(unused, to)
			continue
		}
		ch := o.chunks.at(uint32(no) / chunkBlocks)
		ch.place(int(no%chunkBlocks), to)
		p.freed = appendPlace(p.freed, c.slots[i].at)
		p.replaced++
		out.freedBlocks++
		out.replaced++
		p.touchUnlogged(o, ch, max(lsn(d.journal.applied.Load()), 1), &out)
	}
	if out.dirtied && d.dirty.add(p) {
		d.cache.pinAgain(p)
	}
	p.mu.Unlock()
	d.account(&out)
	d.volumes.free(unused)
	d.defragmented.Add(uint64(out.freedBlocks))
}
