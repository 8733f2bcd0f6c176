package objectstore

import (
	"encoding/binary"
	"fmt"
	"slices"

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
)

// packedChunks bounds the chunks of an object that are packed: a larger one is asked
// for again.
const packedChunks = 64

// pack returns what is to be remembered of a pile that nobody uses; nil if that is
// nothing.
func (p *pile) pack() []byte {
	if p.packed != nil {
		return p.packed
	}
	if !p.loaded.Load() || p.since != 0 || len(p.freed) > 0 {
		return nil
	}
	out := make([]byte, 0, 128)
	for _, o := range p.objects {
		if o.dirty || o.dropped != 0 {
			return nil
		}
		chunks, all := o.packChunks()
		out = binary.AppendUvarint(out, uint64(o.key.Layer))
		out = binary.AppendUvarint(out, uint64(o.present))
		out = binary.AppendUvarint(out, uint64(o.data))
		out = binary.LittleEndian.AppendUint64(out, o.digest)
		out = append(out, bit(all, packedAll)|bit(o.stored, packedStored))
		out = binary.AppendUvarint(out, uint64(len(chunks)))
		out = append(out, chunks...)
	}
	return slices.Clip(slices.Clone(out))
}

func bit(is bool, b byte) byte {
	if is {
		return b
	}
	return 0
}

// packChunks packs the chunks that are known, and says whether these are all.
func (o *object) packChunks() (out []byte, all bool) {
	p := packer{all: o.complete || o.rest.all}
	own := o.chunks.numbers()
	for no, value := range o.rest.each {
		for len(own) > 0 && own[0] < no {
			p.add(own[0], o.chunks.at(own[0]).value())
			own = own[1:]
		}
		if len(own) == 0 || own[0] != no { // else memory knows it better
			p.add(no, value)
		}
	}
	for _, no := range own {
		p.add(no, o.chunks.at(no).value())
	}
	return p.out, p.all
}

// value is the chunk as the metadata store has it; nil if it does not.
func (c *chunk) value() []byte {
	if c == nil || c.present == 0 {
		return nil
	}
	return c.encode()
}

// packer packs chunks that are added in ascending order.
type packer struct {
	out []byte
	n   int
	all bool // the metadata store has no others
}

func (p *packer) add(no uint32, value []byte) {
	if value == nil && p.all {
		return
	}
	if p.n++; p.n > packedChunks {
		p.all = false
		return
	}
	p.out = binary.AppendUvarint(p.out, uint64(no))
	p.out = binary.AppendUvarint(p.out, uint64(len(value)))
	p.out = append(p.out, value...)
}

// rest is chunks of an object that were packed and have not been wanted since.
type rest struct {
	packed []byte
	all    bool // the metadata store has no others
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
	for at, v := range r.each {
		if at == no {
			return v, true
		}
		if at > no {
			break
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
		o.complete, o.stored = false, flags&packedStored != 0
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
