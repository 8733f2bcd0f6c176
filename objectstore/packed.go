package objectstore

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"sync"

	"sheepdog"
)

// A pile that leaves the cache is packed: what memory knows of it, and the metadata
// store has, takes a few bytes for each run of blocks instead of 32 for each block and
// a kilobyte besides. So a cache of the same size knows several times as many objects.
// When the pile is wanted again, of its maps only those are unpacked that are wanted.
//
// As packed, a pile is its objects one after the other; numbers are uvarints:
//
//	layer present data digest(8) flags(1) length { chunk length bytes }...
//
// The first length is that of all that follows of the object. Bytes are a chunk as
// the metadata store has it; none: it does not have it.
const (
	packedAll    = 1 << iota // the metadata store has no other chunks
	packedStored             // it has a header
	packedInHead             // with the map in it
)

// packedChunks bounds the chunks of an object that are packed: a larger one is asked
// for again.
const packedChunks = 64

// packer packs piles, in memory that it uses again for the next one.
type packer struct {
	out, chunks, value []byte
	n                  int  // chunks of the object at hand
	all                bool // the metadata store has no others of it
}

var packerPool = sync.Pool{New: func() any { return &packer{out: make([]byte, 0, 256)} }}

// pack returns what is to be remembered of a pile that nobody uses, until the next one is
// packed; nil if that is nothing.
func (k *packer) pack(p *pile) []byte {
	if p.packed != nil {
		return p.packed
	}
	if !p.loaded.Load() || p.since != 0 || len(p.freed) > 0 {
		return nil
	}
	k.out = k.out[:0]
	for _, o := range p.objects {
		if o.dirty || o.dropped != 0 {
			return nil
		}
		k.object(o)
		k.out = binary.AppendUvarint(k.out, uint64(o.key.Layer))
		k.out = binary.AppendUvarint(k.out, uint64(o.present))
		k.out = binary.AppendUvarint(k.out, uint64(o.data))
		k.out = binary.LittleEndian.AppendUint64(k.out, o.digest)
		k.out = append(k.out, bit(k.all, packedAll)|bit(o.stored, packedStored)|bit(o.inHead, packedInHead))
		k.out = binary.AppendUvarint(k.out, uint64(len(k.chunks)))
		k.out = append(k.out, k.chunks...)
	}
	return k.out
}

func bit(is bool, b byte) byte {
	if is {
		return b
	}
	return 0
}

// object packs the chunks of an object that are known.
func (k *packer) object(o *object) {
	k.chunks, k.n, k.all = k.chunks[:0], 0, o.complete || o.rest.all
	next := uint32(0)
	for no, value := range o.rest.each {
		next = k.own(o, next, no)
		if !o.chunks.known(no) { // else memory knows it better
			k.add(no, value)
		}
	}
	k.own(o, next, uint32(len(o.chunks.list)))
}

// own packs the chunks of a range that are in memory, and returns its end.
func (k *packer) own(o *object, from, to uint32) uint32 {
	for no := from; no < min(to, uint32(len(o.chunks.list))); no++ {
		if !o.chunks.known(no) {
			continue
		}
		k.value = k.value[:0]
		if c := o.chunks.at(no); c != nil && c.present > 0 {
			k.value = c.append(k.value)
		}
		k.add(no, k.value)
	}
	return max(from, to)
}

// add adds a chunk, as the metadata store has it; empty if it does not. They come in
// ascending order.
func (k *packer) add(no uint32, value []byte) {
	if len(value) == 0 && k.all {
		return
	}
	if k.n++; k.n > packedChunks {
		k.all = false
		return
	}
	k.chunks = appendPacked(k.chunks, no, value)
}

// appendPacked appends a chunk as rest has it.
func appendPacked(b []byte, no uint32, value []byte) []byte {
	b = binary.AppendUvarint(b, uint64(no))
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}

// rest is chunks of an object that were packed and have not been wanted since.
type rest struct {
	packed []byte
	all    bool // the metadata store has no others
}

// check refuses what each could not read, and chunks that are not in order.
func (r *rest) check() error {
	d := varints{b: r.packed}
	for last := int64(-1); len(d.b) > 0; {
		no := d.next()
		if len(d.take(d.next())) == 0 || no >= MaxObjectBlocks/chunkBlocks || int64(no) <= last {
			return fmt.Errorf("map in an object header of %d bytes is malformed", len(r.packed))
		}
		last = int64(no)
	}
	return nil
}

// each visits the chunks, ascending; a nil value is not in the metadata store.
func (r *rest) each(visit func(no uint32, value []byte) bool) {
	d := varints{b: r.packed}
	for len(d.b) > 0 {
		no, value := d.next(), d.take(d.next())
		if d.bad {
			panic("objectstore: a packed map is malformed")
		}
		if len(value) == 0 {
			value = nil
		}
		if !visit(uint32(no), value) {
			return
		}
	}
}

// find is the value of a chunk, and whether it is known.
func (r *rest) find(no uint32) (value []byte, known bool) {
	d := varints{b: r.packed}
	for len(d.b) > 0 {
		at, v := d.next(), d.take(d.next())
		switch {
		case d.bad:
			return nil, false // whoever unpacks it hears of it
		case at == uint64(no) && len(v) == 0:
			return nil, true
		case at == uint64(no):
			return v, true
		case at > uint64(no):
			return nil, r.all
		}
	}
	return nil, r.all
}

// take cuts the next n bytes off.
func (v *varints) take(n uint64) []byte {
	if n > uint64(len(v.b)) {
		v.bad, v.b = true, nil
		return nil
	}
	out := v.b[:n:n]
	v.b = v.b[n:]
	return out
}

// unpack makes the objects of a pile known that was packed, if it was; p is locked.
func (p *pile) unpack() bool {
	if p.loaded.Load() {
		return true
	}
	if p.packed == nil {
		return false
	}
	d := varints{b: p.packed}
	for len(d.b) > 0 {
		o := p.object(sheepdog.LayerID(d.next()))
		o.present, o.data = uint32(d.next()), uint32(d.next())
		digest, flags := d.take(8), d.byte()
		o.rest = rest{packed: d.take(d.next()), all: flags&packedAll != 0}
		if d.bad {
			panic(fmt.Sprintf("objectstore: object %s is packed in a malformed way", p.id))
		}
		o.digest = binary.LittleEndian.Uint64(digest)
		o.complete, o.stored, o.inHead = false, flags&packedStored != 0, flags&packedInHead != 0
	}
	p.bytes.Add(int64(len(p.packed)))
	p.loaded.Store(true)
	return true
}

// unpackRange unpacks the chunks of a range, as far as they are known; p is locked.
func (p *pile) unpackRange(o *object, start sheepdog.BlockNo, count uint32) error {
	if o.rest.packed == nil && !o.rest.all {
		return nil
	}
	for no := uint32(start) / chunkBlocks; no <= (uint32(start)+count-1)/chunkBlocks; no++ {
		if o.chunks.known(no) {
			continue
		}
		if value, known := o.rest.find(no); known {
			if err := p.addChunk(o, no, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// unpackAll unpacks what is left of an object, and reports whether that was all; p is
// locked.
func (p *pile) unpackAll(o *object) (bool, error) {
	for no, value := range o.rest.each {
		if err := p.addChunk(o, no, value); err != nil {
			return false, err
		}
	}
	o.complete = o.complete || o.rest.all
	o.rest = rest{}
	return o.complete, nil
}

// headBlocks is of how many blocks the map of an object is kept in its header: then it
// is one entry of the metadata, not two or more.
const headBlocks = 8

// fitsHead reports whether the map of an object is all known, and small enough for the
// header.
func (o *object) fitsHead() bool {
	switch {
	case o.present == 0 || o.present > headBlocks:
		return false
	case o.complete || o.rest.all:
		return true
	}
	known := 0
	for _, c := range o.chunks.each {
		known += c.present
	}
	return known == int(o.present)
}

// mustUnpack makes an object complete of which all is known, and was read before it
// changed, see loadRange; p is locked.
func (p *pile) mustUnpack(o *object) {
	if _, err := p.unpackAll(o); err != nil {
		panic(fmt.Sprintf("objectstore: object %s layer %x: %v", p.id, uint64(o.key.Layer), err))
	}
	o.complete = true
}

// smallPacked is up to how many bytes a pile is looked at as it is packed, or as its headers
// are: it has few blocks, and to make a pile of it takes longer.
const smallPacked = 512

// peek is look in a pile that is not in memory as such, if it is small, and leaves it so;
// false, with out clear as before, if it is one that is or is large.
func (d *Disk) peek(id sheepdog.ObjectID, chain []sheepdog.LayerID, start sheepdog.BlockNo, out []slot) bool {
	b, away := d.cache.away(id)
	if !away {
		return false
	}
	packed := b != nil
	if !packed {
		b = d.headers.pile(id)
	}
	if len(b) > smallPacked {
		return false
	}
	v := view{chain: chain}
	if packed {
		v.packed(b)
	} else {
		v.headers(b)
	}
	if !v.look(start, out) {
		clear(out)
		return false
	}
	return true
}

// view is the objects of a pile that a chain shows, from the top down, as far as there is
// room for them.
type view struct {
	chain []sheepdog.LayerID
	shown [fewObjects]viewed
	n     int
	bad   bool // there are more, or one is malformed
}

type viewed struct {
	at   int // where the layer is in the chain
	rest rest
}

// add adds an object, if the chain has its layer.
func (v *view) add(layer sheepdog.LayerID, r rest) {
	o := viewed{slices.Index(v.chain, layer), r}
	if o.at < 0 {
		return
	}
	if v.n == fewObjects {
		v.bad = true
		return
	}
	i := v.n
	for ; i > 0 && v.shown[i-1].at > o.at; i-- {
		v.shown[i] = v.shown[i-1]
	}
	v.shown[i] = o
	v.n++
}

// packed adds the objects of a packed pile.
func (v *view) packed(b []byte) {
	d := varints{b: b}
	for len(d.b) > 0 {
		layer := sheepdog.LayerID(d.next())
		d.next()
		d.next()
		d.take(8)
		flags := d.byte()
		r := rest{packed: d.take(d.next()), all: flags&packedAll != 0}
		if d.bad {
			v.bad = true
			return
		}
		v.add(layer, r)
	}
}

// headers adds the objects of a pile as its headers are.
func (v *view) headers(b []byte) {
	d := varints{b: b}
	for len(d.b) > 0 {
		layer := sheepdog.LayerID(d.next())
		_, r, err := decodeHeader(d.take(d.next()))
		if d.bad || err != nil {
			v.bad = true
			return
		}
		v.add(layer, r)
	}
}

// look fills out with what the objects show; false if that is not known.
func (v *view) look(start sheepdog.BlockNo, out []slot) bool {
	if v.bad {
		return false
	}
	for i := range v.shown[:v.n] {
		if i > 0 && !slices.ContainsFunc(out, func(s slot) bool { return s.state == sheepdog.Absent }) {
			break
		}
		if !v.shown[i].rest.show(start, out) {
			return false
		}
	}
	return true
}

// show fills what is absent of a range with what an object has; false if that is not
// known.
func (r *rest) show(start sheepdog.BlockNo, out []slot) bool {
	for i := 0; i < len(out); {
		no := uint32(start) + uint32(i)
		n := min(len(out)-i, int(chunkBlocks-no%chunkBlocks))
		value, known := r.find(no / chunkBlocks)
		if !known || value != nil && !showChunk(value, int(no%chunkBlocks), out[i:i+n]) {
			return false
		}
		i += n
	}
	return true
}

// showChunk fills what is absent of a chunk from one slot on with what its encoded form
// has; false if it is malformed.
func showChunk(b []byte, from int, out []slot) bool {
	if b[0] != chunkVersion {
		return false
	}
	d := varints{b: b[1:]}
	d.next()        // applied
	var data uint64 // slots that were filled with data, whose crc is yet the number of a checksum
	i, sums := 0, uint32(0)
	for runs := d.next(); runs > 0 && !d.bad; runs-- {
		n := int(min(d.next(), chunkBlocks))
		s := slot{state: sheepdog.BlockState(d.byte())}
		s.stamp.Token = sheepdog.Token(d.next())
		s.stamp.Seq = d.next()
		s.at = place(d.next())
		for k := max(from-i, 0); s.state != sheepdog.Absent && k < n && i+k-from < len(out); k++ {
			to := &out[i+k-from]
			if to.state != sheepdog.Absent {
				continue
			}
			if *to = s; s.state == sheepdog.Data {
				to.at, to.crc = s.at+place(k), sums+uint32(k)
				data |= 1 << (i + k - from)
			}
		}
		if i += n; s.state == sheepdog.Data {
			sums += uint32(n)
		}
	}
	if d.bad || i != chunkBlocks || len(d.b) != 4*int(sums) {
		return false
	}
	for ; data != 0; data &= data - 1 {
		s := &out[bits.TrailingZeros64(data)]
		s.crc = binary.LittleEndian.Uint32(d.b[4*s.crc:])
	}
	return true
}
