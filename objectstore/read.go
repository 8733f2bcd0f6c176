package objectstore

import (
	"fmt"
	"hash/crc32"
	"slices"
	"sync"

	"sheepdog"
)

// Read implements sheepdog.Engine. States are filled even if blocks are bad.
func (d *Disk) Read(obj sheepdog.ObjectID, chain []sheepdog.LayerID, start sheepdog.BlockNo, count uint32, buf []byte, states []sheepdog.BlockState) error {
	if err := checkRead(start, count, len(buf), len(states)); err != nil {
		return err
	}
	return d.resolved(obj, chain, start, count, func(slots []slot) error {
		for i := range slots {
			states[i] = slots[i].state
		}
		bad, err := d.readSlots(slots, buf)
		if len(bad) > 0 {
			return d.badBlocks(obj, start, bad, err)
		}
		d.ragged.note(obj, start, slots)
		return nil
	})
}

// resolved has where blocks are read; nothing moves away from there meanwhile.
func (d *Disk) resolved(obj sheepdog.ObjectID, chain []sheepdog.LayerID, start sheepdog.BlockNo, count uint32, read func(slots []slot) error) error {
	if err := d.begin(); err != nil {
		return err
	}
	defer d.end()
	scratch := slotsPool.Get().(*[]slot)
	defer slotsPool.Put(scratch)
	side := d.guard.enter()
	defer side.RUnlock()
	slots, err := d.resolve(obj, chain, start, count, (*scratch)[:0])
	*scratch = slots
	if err != nil {
		return fmt.Errorf("read object %s: %w", obj, err)
	}
	return read(slots)
}

// badBlocks reports blocks that are rotten, or, with an error, cannot be read:
// another replica must serve and mend them either way.
func (d *Disk) badBlocks(obj sheepdog.ObjectID, start sheepdog.BlockNo, bad []int, ioErr error) error {
	e := &sheepdog.BadBlocksError{Object: obj}
	for _, i := range bad {
		e.Blocks = append(e.Blocks, start+sheepdog.BlockNo(i))
	}
	if ioErr != nil {
		d.unread.Add(uint64(len(bad)))
		d.log.Error("blocks cannot be read", "object", obj, "blocks", e.Blocks, "error", ioErr)
	} else {
		d.rotten.Add(uint64(len(bad)))
		d.log.Warn("blocks failed their checksum", "object", obj, "blocks", e.Blocks)
	}
	return e
}

// readSlots fills buf and lists the slots whose bytes are bad or cannot be read;
// those are zeros. The error is the first of the disks.
func (d *Disk) readSlots(slots []slot, buf []byte) (bad []int, err error) {
	err = d.readRows(slots, buf, func(i, n int) { bad = verify(slots, buf, i, n, bad) })
	slices.Sort(bad)
	return bad, err
}

// ReadRaw implements sheepdog.RawEngine. Blocks that the disk does not give get bytes
// that do not match.
func (d *Disk) ReadRaw(obj sheepdog.ObjectID, chain []sheepdog.LayerID, start sheepdog.BlockNo, count uint32, buf []byte, recs []sheepdog.Record) error {
	if err := checkRead(start, count, len(buf), len(recs)); err != nil {
		return err
	}
	return d.resolved(obj, chain, start, count, func(slots []slot) error {
		if err := d.readRows(slots, buf, func(int, int) {}); err != nil {
			d.log.Error("blocks cannot be read", "object", obj, "start", start, "count", count, "error", err)
		}
		for i := range slots {
			recs[i] = slots[i].record()
		}
		return nil
	})
}

// rot makes the bytes of a block that could not be read fail its checksum.
func rot(b []byte, crc uint32) {
	clear(b)
	if crc32.Checksum(b, castagnoli) == crc {
		b[0] = 1
	}
}

func verify(slots []slot, buf []byte, i, n int, bad []int) []int {
	for j := i; j < i+n; j++ {
		b := buf[j*blockSize:][:blockSize]
		if crc32.Checksum(b, castagnoli) != slots[j].crc {
			clear(b)
			bad = append(bad, j)
		}
	}
	return bad
}

func (d *Disk) readRow(at place, buf []byte) error {
	if at.inLog() {
		return d.journal.read(at, buf)
	}
	v, err := d.volumes.volume(at.disk())
	if err != nil {
		return err
	}
	return v.read(at, buf)
}

// Records implements sheepdog.Engine.
func (d *Disk) Records(obj sheepdog.ObjectID, chain []sheepdog.LayerID, start sheepdog.BlockNo, count uint32, recs []sheepdog.Record) error {
	if err := checkRecords(start, count, len(recs)); err != nil {
		return err
	}
	if err := d.begin(); err != nil {
		return err
	}
	defer d.end()
	scratch := slotsPool.Get().(*[]slot)
	defer slotsPool.Put(scratch)
	slots, err := d.resolve(obj, chain, start, count, (*scratch)[:0])
	*scratch = slots
	if err != nil {
		return fmt.Errorf("read records of object %s: %w", obj, err)
	}
	for i := range slots {
		recs[i] = slots[i].record()
	}
	return nil
}

// resolve appends the slots that a chain shows of a range, all as of one
// moment.
func (d *Disk) resolve(obj sheepdog.ObjectID, chain []sheepdog.LayerID, start sheepdog.BlockNo, count uint32, slots []slot) ([]slot, error) {
	base := len(slots)
	slots = slices.Grow(slots, int(count))[:base+int(count)]
	out := slots[base:]
	clear(out)
	if d.peek(obj, chain, start, out) {
		return slots, nil
	}
	p, err := d.load(obj)
	if err != nil {
		return slots, err
	}
	defer d.cache.unpin(p)
	p.mu.RLock()
	found := p.look(chain, start, out)
	p.mu.RUnlock()
	if found {
		return slots, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, layer := range chain {
		o := p.find(layer)
		if o == nil || o.has(start, count) {
			continue
		}
		if err := d.loadChunks(p, o, start, count); err != nil {
			return slots, err
		}
		clear(out)
		if p.look(chain, start, out) {
			break // what is below decides nothing, and may be spoiled
		}
	}
	clear(out)
	p.look(chain, start, out)
	return slots, nil
}

// look fills out, which is clear, with the first record of each block that is not
// absent, and reports whether all of the maps that decide are loaded. If not, out
// has only some.
func (p *pile) look(chain []sheepdog.LayerID, start sheepdog.BlockNo, out []slot) bool {
	var room [fewObjects]sheepdog.LayerID
	left := len(out)
	for _, layer := range p.shown(chain, room[:0]) {
		o := p.find(layer)
		if o == nil {
			continue
		}
		if !o.has(start, uint32(len(out))) {
			return false
		}
		if left -= o.show(start, out); left == 0 {
			return true
		}
	}
	return true
}

// show fills what is absent of a range with what an object has, and counts that.
func (o *object) show(start sheepdog.BlockNo, out []slot) (shown int) {
	for i := 0; i < len(out); {
		no := uint32(start) + uint32(i)
		c := o.chunks.at(no / chunkBlocks)
		if c == nil {
			i += int(chunkBlocks - no%chunkBlocks)
			continue
		}
		q, at := c.parts[no%chunkBlocks/partBlocks], no%partBlocks
		if q == nil {
			i += int(partBlocks - at)
			continue
		}
		for ; at < partBlocks && i < len(out); at, i = at+1, i+1 {
			if out[i].state == sheepdog.Absent && q[at].state != sheepdog.Absent {
				out[i] = q[at]
				shown++
			}
		}
	}
	return shown
}

// fewObjects is how many objects of a pile are looked for in a chain, instead of the
// other way round.
const fewObjects = 8

// shown is what is left of a chain without layers that have nothing in the pile, if
// it is long and the pile is small: to ask a map for each of 500 layers takes as long
// as a read. Else it is the chain. It appends to room.
func (p *pile) shown(chain, room []sheepdog.LayerID) []sheepdog.LayerID {
	if len(p.objects) > fewObjects || len(chain) <= fewObjects {
		return chain
	}
	var at [fewObjects]int // where the layers in room are in the chain, ascending
	for _, o := range p.objects {
		layer := o.key.Layer
		i := slices.Index(chain, layer)
		if i < 0 {
			continue
		}
		k := len(room)
		room = append(room, layer)
		for ; k > 0 && at[k-1] > i; k-- {
			room[k], at[k] = room[k-1], at[k-1]
		}
		room[k], at[k] = layer, i
	}
	return room
}

// slotsPool holds the scratch of reads.
var slotsPool = sync.Pool{New: func() any { return new([]slot) }}
