package peer

import (
	"net"
	"slices"

	"sheepdog"
)

// keepArena is up to how many bytes an emptied batch keeps for reuse.
const keepArena = 1 << 20

// frame is a message to be sent. Its data are copied when they are less than
// bulkSize; otherwise they are kept until they are sent, and then owner, if
// any, is released.
type frame struct {
	kind  frameKind
	flags frameFlags
	id    uint64
	meta  []byte
	data  [][]byte
	size  int    // bytes of data
	crc   uint32 // of data
	owner *chunk
}

// seal computes what the header says of the data. Raw data have their checksums in
// the meta.
func (f *frame) seal() {
	f.size, f.crc = 0, 0
	for _, d := range f.data {
		f.size += len(d)
		if f.flags&flagRaw == 0 {
			f.crc = updateChecksum(f.crc, d)
		}
	}
}

func (f *frame) header() header {
	return header{
		kind: f.kind, flags: f.flags, id: f.id,
		meta: uint32(len(f.meta)), data: uint32(f.size), metaCRC: checksum(f.meta), dataCRC: f.crc,
	}
}

// outRef is data that are sent from where they are, after the first at bytes of
// the arena.
type outRef struct {
	at    int
	id    uint64
	data  []byte
	owner *chunk
}

// outBatch is what goes to the socket in one go: bytes in an arena, with
// references between them.
type outBatch struct {
	arena []byte
	refs  []outRef
	bytes int
	vec   net.Buffers // what is left to send, once sending has begun
	store [][]byte    // memory of vec
}

func (b *outBatch) add(f *frame) {
	b.arena = append(appendHeader(b.arena, f.header()), f.meta...)
	b.bytes += headerSize + len(f.meta) + f.size
	if f.size >= bulkSize {
		for i, d := range f.data {
			ref := outRef{at: len(b.arena), id: f.id, data: d}
			if i == len(f.data)-1 {
				ref.owner = f.owner
			}
			b.refs = append(b.refs, ref)
		}
		return
	}
	for _, d := range f.data {
		b.arena = append(b.arena, d...)
	}
	if f.owner != nil {
		f.owner.release()
	}
}

// addWrite is add for the most frequent request; crc is of its data.
func (b *outBatch) addWrite(id uint64, r *sheepdog.WriteRequest, crc uint32) {
	h := header{kind: kindWrite, id: id, meta: writeSize, data: uint32(len(r.Data)), dataCRC: crc}
	start, copied := len(b.arena), len(r.Data)
	if copied >= bulkSize {
		copied = 0
	}
	b.arena = slices.Grow(b.arena, headerSize+writeSize+copied)[:start+headerSize+writeSize]
	meta := b.arena[start+headerSize:]
	putWrite(meta, r)
	h.metaCRC = checksum(meta)
	putHeader(b.arena[start:], h)
	b.bytes += h.size()
	if len(r.Data) >= bulkSize {
		b.refs = append(b.refs, outRef{at: len(b.arena), id: id, data: r.Data})
	} else {
		b.arena = append(b.arena, r.Data...)
	}
}

// addAck is add for the reply to a write that was done.
func (b *outBatch) addAck(id uint64) {
	b.arena = appendHeader(b.arena, header{kind: kindWrite | kindReply, id: id})
	b.bytes += headerSize
}

func (b *outBatch) empty() bool { return b.bytes == 0 }

// start lays out the pieces to send.
func (b *outBatch) start() {
	b.store = b.store[:0]
	from := 0
	for _, r := range b.refs {
		if r.at > from {
			b.store = append(b.store, b.arena[from:r.at])
			from = r.at
		}
		b.store = append(b.store, r.data)
	}
	if from < len(b.arena) {
		b.store = append(b.store, b.arena[from:])
	}
	b.vec = b.store
}

// sent takes n bytes off what is left and reports whether nothing is.
func (b *outBatch) sent(n int) bool {
	for len(b.vec) > 0 && n >= len(b.vec[0]) {
		n -= len(b.vec[0])
		b.vec[0] = nil
		b.vec = b.vec[1:]
	}
	if len(b.vec) > 0 {
		b.vec[0] = b.vec[0][n:]
		return false
	}
	return true
}

// reset lets go of everything.
func (b *outBatch) reset() {
	for i := range b.refs {
		if o := b.refs[i].owner; o != nil {
			o.release()
		}
	}
	clear(b.refs)
	clear(b.store)
	b.refs, b.store, b.vec, b.bytes = b.refs[:0], b.store[:0], nil, 0
	if b.arena = b.arena[:0]; cap(b.arena) > keepArena {
		b.arena = nil
	}
}

// holds reports whether data of request id are referenced.
func (b *outBatch) holds(id uint64) bool {
	for i := range b.refs {
		if b.refs[i].id == id && b.refs[i].owner == nil {
			return true
		}
	}
	return false
}
