package world

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"

	"sheepdog"
)

// Disk is what a node stores, with the semantics of a crash: what was written
// survives the death of the process, what was flushed the loss of power. Of the
// rest a loss of power keeps any part. A disk outlives the nodes that use it,
// one at a time, each through its own Engine.
type Disk struct {
	mu      sync.Mutex
	now     content // what reads see
	durable content
	pending []change // what durable lacks of now, in order
	facts   map[string][]byte
	user    *Engine
	spoiled spoiled

	full atomic.Bool // writes find no space
	// every so many-th read, write and flush fails; 0: none
	ailing, asked atomic.Int64
}

// Ail has every so many-th read, write and flush fail with an I/O error; 0 ends it.
func (d *Disk) Ail(every int) { d.ailing.Store(int64(every)) }

// fails says whether the next operation does.
func (d *Disk) fails() error {
	if every := d.ailing.Load(); every > 0 && d.asked.Add(1)%every == 0 {
		return fmt.Errorf("simulated disk: %w", sheepdog.ErrIO)
	}
	return nil
}

// Fill says whether writes find no space.
func (d *Disk) Fill(full bool) { d.full.Store(full) }

// content is objects by layer. Blocks are immutable and shared.
type content map[objectKey]map[sheepdog.BlockNo]block

type block struct {
	rec  sheepdog.Record
	data []byte
	was  []byte // what was there before
}

type objectKey struct {
	sheepdog.ObjectID
	layer sheepdog.LayerID
}

func (k objectKey) compare(o objectKey) int {
	return cmp.Or(cmp.Compare(k.Partition(), o.Partition()), cmp.Compare(k.Family, o.Family),
		cmp.Compare(k.Index, o.Index), cmp.Compare(k.layer, o.layer))
}

// change is one change of the content, with data of its own. parts, if not nil,
// says which blocks of a write got through.
type change struct {
	apply  func(c content, part func(i uint32) bool)
	blocks uint32 // of a write; 0 for what happens whole or not at all
}

// NewDisk makes an empty disk.
func NewDisk() *Disk {
	return &Disk{now: make(content), durable: make(content), facts: make(map[string][]byte),
		spoiled: spoiled{keys: make(map[objectKey]bool), more: make(chan struct{})}}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func whole(uint32) bool { return true }

// do applies a change at once and remembers it for the next flush. mu is held.
func (d *Disk) do(c change) {
	c.apply(d.now, whole)
	d.pending = append(d.pending, c)
}

func (d *Disk) flush() {
	for _, c := range d.pending {
		c.apply(d.durable, whole)
	}
	d.pending = nil
}

// PowerLoss loses what was not flushed, except for a part that chance keeps:
// any subset of the writes, each with the given probability, the last of them
// torn between two blocks. It returns how many changes were lost.
func (d *Disk) PowerLoss(rng *rand.Rand, keep float64) (lost int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	torn := -1
	for i, c := range d.pending {
		if c.blocks > 1 {
			torn = i
		}
	}
	for i, c := range d.pending {
		switch {
		case rng.Float64() >= keep:
			lost++
		case i == torn:
			at := 1 + rng.Uint32N(c.blocks-1)
			c.apply(d.durable, func(b uint32) bool { return b < at })
		default:
			c.apply(d.durable, whole)
		}
	}
	d.pending = nil
	d.now = d.durable.clone()
	return lost
}

// Wreck forgets everything, as a disk that was replaced.
func (d *Disk) Wreck() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now, d.durable, d.pending = make(content), make(content), nil
	clear(d.facts)
	clear(d.spoiled.keys)
}

// Copy is what the disk holds now, for Become.
func (d *Disk) Copy() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &Disk{now: d.now.clone(), facts: maps.Clone(d.facts)}
}

// Become has the disk hold, durably, what it did when the copy was made.
func (d *Disk) Become(copy *Disk) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now, d.durable, d.pending, d.facts = copy.now, copy.now.clone(), nil, copy.facts
	clear(d.spoiled.keys)
}

// Rot flips a bit in up to n blocks and tells in how many.
func (d *Disk) Rot(rng *rand.Rand, n int, may func(sheepdog.ObjectID, sheepdog.LayerID, sheepdog.BlockNo) bool) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	spots := d.spots(rng, may)
	n = min(n, len(spots))
	for _, s := range spots[:n] {
		data := slices.Clone(d.now[s.key][s.no].data)
		data[rng.IntN(len(data))] ^= 1 << rng.IntN(8)
		d.setData(s, data)
	}
	return n
}

// Misdirect lets up to n writes go astray: the bytes of one block are found in
// the place of another, and its own place has what was there before, zeros. It
// tells in how many blocks.
func (d *Disk) Misdirect(rng *rand.Rand, n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	spots := d.spots(rng, anywhere)
	n = min(n, len(spots)/2)
	for i := range n {
		d.setData(spots[2*i+1], d.now[spots[2*i].key][spots[2*i].no].data)
		d.setData(spots[2*i], make([]byte, sheepdog.BlockSize))
	}
	return 2 * n
}

// Lose undoes up to n writes: their records are there, and the bytes that were
// there before. It tells in how many blocks.
func (d *Disk) Lose(rng *rand.Rand, n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	lost := 0
	for _, s := range d.spots(rng, anywhere) {
		b := d.now[s.key][s.no]
		if lost == n {
			break
		}
		if b.was != nil && !bytes.Equal(b.was, b.data) {
			d.setData(s, b.was)
			lost++
		}
	}
	return lost
}

// anywhere is for damage that may be in any place.
func anywhere(sheepdog.ObjectID, sheepdog.LayerID, sheepdog.BlockNo) bool { return true }

// spot is where the disk has bytes.
type spot struct {
	key objectKey
	no  sheepdog.BlockNo
}

// spots lists all places with bytes that may be damaged, shuffled. mu is held.
func (d *Disk) spots(rng *rand.Rand, may func(sheepdog.ObjectID, sheepdog.LayerID, sheepdog.BlockNo) bool) []spot {
	var spots []spot
	for key, blocks := range d.now {
		for no, b := range blocks {
			if b.data != nil && may(key.ObjectID, key.layer, no) {
				spots = append(spots, spot{key, no})
			}
		}
	}
	slices.SortFunc(spots, func(a, b spot) int { return cmp.Or(a.key.compare(b.key), cmp.Compare(a.no, b.no)) })
	rng.Shuffle(len(spots), func(i, j int) { spots[i], spots[j] = spots[j], spots[i] })
	return spots
}

// setData replaces the bytes of a block and leaves its record. mu is held.
func (d *Disk) setData(s spot, data []byte) {
	b := d.now[s.key][s.no]
	b.data = data
	d.now[s.key][s.no] = b
}

func (c content) clone() content {
	out := make(content, len(c))
	for key, blocks := range c {
		to := make(map[sheepdog.BlockNo]block, len(blocks))
		for no, b := range blocks {
			to[no] = b
		}
		out[key] = to
	}
	return out
}

// write is the change that an op makes.
func write(op *sheepdog.Op) change {
	blocks := make([]block, op.Count)
	for i := range blocks {
		blocks[i].rec = sheepdog.Record{State: sheepdog.Zero, Stamp: op.Stamp}
		if op.Data != nil {
			data := slices.Clone(op.Data[i*sheepdog.BlockSize:][:sheepdog.BlockSize])
			blocks[i].data = data
			blocks[i].rec.State, blocks[i].rec.CRC = sheepdog.Data, crc32.Checksum(data, castagnoli)
			if op.Sums != nil {
				blocks[i].rec.CRC = op.Sums[i]
			}
		}
	}
	key, start, force := objectKey{op.Object, op.Layer}, op.Start, op.Force
	return change{blocks: op.Count, apply: func(c content, part func(uint32) bool) {
		to := c[key]
		for i, b := range blocks {
			no := start + sheepdog.BlockNo(i)
			if !part(uint32(i)) || !force && !to[no].rec.Stamp.Less(b.rec.Stamp) {
				continue
			}
			if to == nil {
				to = make(map[sheepdog.BlockNo]block)
				c[key] = to
			}
			b.was = to[no].data
			to[no] = b
		}
	}}
}

func dropIf(match func(objectKey) bool) change {
	return change{apply: func(c content, _ func(uint32) bool) {
		for key := range c {
			if match(key) {
				delete(c, key)
			}
		}
	}}
}

func merge(from, to sheepdog.LayerID) change {
	return change{apply: func(c content, _ func(uint32) bool) {
		for key, blocks := range c {
			if key.layer != from {
				continue
			}
			target := objectKey{key.ObjectID, to}
			if c[target] == nil {
				c[target] = make(map[sheepdog.BlockNo]block)
			}
			for no, b := range blocks {
				if _, ok := c[target][no]; !ok {
					c[target][no] = b
				}
			}
			delete(c, key)
		}
	}}
}

func digest(blocks map[sheepdog.BlockNo]block) uint64 {
	var sum uint64
	for no, b := range blocks {
		h := fnv.New64a()
		var w [29]byte
		binary.LittleEndian.PutUint32(w[:], uint32(no))
		w[4] = byte(b.rec.State)
		binary.LittleEndian.PutUint32(w[5:], b.rec.CRC)
		binary.LittleEndian.PutUint64(w[9:], uint64(b.rec.Stamp.Token))
		binary.LittleEndian.PutUint64(w[17:], b.rec.Stamp.Seq)
		h.Write(w[:])
		sum += h.Sum64()
	}
	return sum
}

// Entries lists what the disk holds.
func (d *Disk) Entries() []sheepdog.ListEntry {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]sheepdog.ListEntry, 0, len(d.now))
	for key, blocks := range d.now {
		e := sheepdog.ListEntry{Object: key.ObjectID, Layer: key.layer, Digest: digest(blocks)}
		if d.readable(key.ObjectID, key.layer) != nil {
			e.Digest = rand.Uint64()
		}
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b sheepdog.ListEntry) int {
		return objectKey{a.Object, a.Layer}.compare(objectKey{b.Object, b.Layer})
	})
	return out
}

// Block tells what the disk holds of one block of one layer.
func (d *Disk) Block(obj sheepdog.ObjectID, layer sheepdog.LayerID, no sheepdog.BlockNo) (sheepdog.Record, []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.now[objectKey{obj, layer}][no]
	return b.rec, b.data
}

// Sound reports blocks whose bytes do not match their checksum, and spoiled objects.
func (d *Disk) Sound() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for key, blocks := range d.now {
		for no, b := range blocks {
			if b.rec.State == sheepdog.Data && !b.rec.Holds(b.data) {
				return fmt.Errorf("object %s layer %d block %d is rotten", key.ObjectID, key.layer, no)
			}
		}
	}
	for key := range d.spoiled.keys {
		return fmt.Errorf("object %s layer %d is spoiled", key.ObjectID, key.layer)
	}
	return nil
}
