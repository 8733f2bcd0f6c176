package objectstore

import (
	"encoding/binary"
	"errors"
	"fmt"

	"sheepdog"
)

// chunkBlocks is the number of records in a chunk of a map.
const chunkBlocks = 64

// slot is the record of one block in memory.
type slot struct {
	at    place
	stamp sheepdog.Stamp
	crc   uint32
	state sheepdog.BlockState
}

func (s *slot) record() sheepdog.Record {
	return sheepdog.Record{State: s.state, CRC: s.crc, Stamp: s.stamp}
}

// A chunk is kept in memory in parts, so that the map of an object with few blocks
// is small.
const partBlocks = 8

type part [partBlocks]slot

// What chunks and parts take in memory; chunkBytes is a chunk with all parts.
const (
	partBytes      = partBlocks * 40
	bareChunkBytes = chunkBlocks/partBlocks*8 + 48
	chunkBytes     = bareChunkBytes + chunkBlocks/partBlocks*partBytes
)

// chunk is a part of an object's map.
type chunk struct {
	parts   [chunkBlocks / partBlocks]*part // nil: all absent
	applied lsn                             // the last entry that was applied here
	present int                             // slots that are not absent
	dirty   bool                            // differs from the metadata store
	stored  bool                            // the metadata store has a value for it
}

// at is the slot of a block.
func (c *chunk) at(i int) slot {
	if p := c.parts[i/partBlocks]; p != nil {
		return p[i%partBlocks]
	}
	return slot{}
}

// slot finds a slot, or makes room for it; then the chunk has grown by partBytes.
func (c *chunk) slot(i int) (s *slot, grown bool) {
	p := c.parts[i/partBlocks]
	if p == nil {
		p, grown = new(part), true
		c.parts[i/partBlocks] = p
	}
	return &p[i%partBlocks], grown
}

// set replaces a slot.
func (c *chunk) set(i int, s slot) {
	if s != (slot{}) || c.parts[i/partBlocks] != nil {
		at, _ := c.slot(i)
		*at = s
	}
}

// place changes where the bytes of a block are that is there.
func (c *chunk) place(i int, at place) { c.parts[i/partBlocks][i%partBlocks].at = at }

// clone shares nothing with the chunk.
func (c *chunk) clone() chunk {
	out := *c
	for i, p := range c.parts {
		if p != nil {
			q := *p
			out.parts[i] = &q
		}
	}
	return out
}

// bytes is what the chunk takes in memory.
func (c *chunk) bytes() int64 {
	n := int64(bareChunkBytes)
	for _, p := range c.parts {
		if p != nil {
			n += partBytes
		}
	}
	return n
}

// chunkMap is the chunks of an object that memory has, by number, and those of which
// it knows that the metadata store does not have them.
type chunkMap struct {
	list []*chunk // nil: not known
	n    int      // that are known
}

// notStored stands for a chunk that the metadata store does not have.
var notStored = new(chunk)

// at is a chunk; nil if there is none.
func (m *chunkMap) at(no uint32) *chunk {
	if int(no) < len(m.list) && m.list[no] != notStored {
		return m.list[no]
	}
	return nil
}

func (m *chunkMap) known(no uint32) bool { return int(no) < len(m.list) && m.list[no] != nil }

// put makes a chunk known; nil says that the metadata store does not have it.
func (m *chunkMap) put(no uint32, c *chunk) {
	if c == nil {
		c = notStored
	}
	if more := int(no) + 1 - len(m.list); more > 0 {
		m.list = append(m.list, make([]*chunk, more)...)
	}
	if m.list[no] == nil {
		m.n++
	}
	m.list[no] = c
}

// forget makes a chunk unknown.
func (m *chunkMap) forget(no uint32) {
	if m.known(no) {
		m.list[no] = nil
		m.n--
	}
}

// each visits the chunks that there are, ascending. They may be forgotten meanwhile.
func (m *chunkMap) each(visit func(no uint32, c *chunk) bool) {
	for no := range m.list {
		if c := m.at(uint32(no)); c != nil && !visit(uint32(no), c) {
			return
		}
	}
}

const chunkVersion = 1

// encode writes the chunk as the metadata store keeps it; slots in the log are
// a programming error. Numbers are uvarints but for the CRCs.
//
//	version(1) applied runs { count state token seq place }... crc(4)...
//
// A run is blocks in a row of equal state and stamp whose places follow each
// other. Absent and zero blocks have no place (0); CRCs are of data blocks.
func (c *chunk) encode() []byte { return c.append(make([]byte, 0, 64+18*c.present)) }

// append is encode at the end of b.
func (c *chunk) append(b []byte) []byte {
	b = append(b, chunkVersion)
	b = binary.AppendUvarint(b, uint64(c.applied))
	runs := len(b)
	b = append(b, 0) // at most chunkBlocks, which is one byte
	for i := 0; i < chunkBlocks; {
		s, k := c.at(i), c.runAt(i)
		if s.at.inLog() {
			panic("objectstore: a log place would go into the metadata store")
		}
		b = binary.AppendUvarint(b, uint64(k))
		b = append(b, byte(s.state))
		b = binary.AppendUvarint(b, uint64(s.stamp.Token))
		b = binary.AppendUvarint(b, s.stamp.Seq)
		b = binary.AppendUvarint(b, uint64(s.at))
		b[runs]++
		i += k
	}
	for _, p := range c.parts {
		if p == nil {
			continue
		}
		for j := range p {
			if p[j].state == sheepdog.Data {
				b = binary.LittleEndian.AppendUint32(b, p[j].crc)
			}
		}
	}
	return b
}

// runAt is the length of the run that begins at slot i.
func (c *chunk) runAt(i int) int {
	j := i + 1
	for p := c.at(i); j < chunkBlocks; j++ {
		if j%partBlocks == 0 && c.parts[j/partBlocks] == nil && p == (slot{}) {
			j += partBlocks - 1
			continue
		}
		s := c.at(j)
		if s.state != p.state || s.stamp != p.stamp || s.state == sheepdog.Data && !s.at.follows(p.at) {
			break
		}
		p = s
	}
	return j - i
}

// decode replaces the chunk by an encoded one.
func (c *chunk) decode(b []byte) error {
	if len(b) == 0 {
		return errTruncated
	}
	if b[0] != chunkVersion {
		return &versionError{what: "block map", found: uint32(b[0]), want: chunkVersion}
	}
	d := varints{b: b[1:]}
	*c = chunk{applied: lsn(d.next()), stored: true}
	runs := d.next()
	i := 0
	for range min(runs, chunkBlocks) {
		n := int(min(d.next(), chunkBlocks+1))
		s := slot{state: sheepdog.BlockState(d.byte())}
		s.stamp.Token = sheepdog.Token(d.next())
		s.stamp.Seq = d.next()
		s.at = place(d.next())
		if d.bad || n == 0 || i+n > chunkBlocks || s.state > sheepdog.Data || (s.state == sheepdog.Data) != s.at.isExtent() || s.at.inLog() {
			return fmt.Errorf("run at block %d of a block map is malformed", i)
		}
		if s == (slot{}) {
			i += n
			continue
		}
		for range n {
			c.set(i, s)
			if s.state == sheepdog.Data {
				s.at++
			}
			i++
		}
		if s.state != sheepdog.Absent {
			c.present += n
		}
	}
	if i != chunkBlocks || runs > chunkBlocks {
		return fmt.Errorf("block map has %d blocks, want %d", i, chunkBlocks)
	}
	return c.decodeCRCs(d.b)
}

func (c *chunk) decodeCRCs(b []byte) error {
	for _, p := range c.parts {
		if p == nil {
			continue
		}
		for j := range p {
			if p[j].state != sheepdog.Data {
				continue
			}
			if len(b) < 4 {
				return errTruncated
			}
			p[j].crc, b = binary.LittleEndian.Uint32(b), b[4:]
		}
	}
	if len(b) > 0 {
		return errors.New("bytes after a block map")
	}
	return nil
}

// varints reads uvarints; bad once one could not be read.
type varints struct {
	b   []byte
	bad bool
}

func (v *varints) next() uint64 {
	x, n := binary.Uvarint(v.b)
	if n <= 0 {
		v.bad, v.b = true, nil
		return 0
	}
	v.b = v.b[n:]
	return x
}

func (v *varints) byte() byte {
	if len(v.b) == 0 {
		v.bad = true
		return 0
	}
	x := v.b[0]
	v.b = v.b[1:]
	return x
}

// header is what is told of an object without reading its map: present counts
// blocks that are not absent, data those of them that take space.
//
//	version(1) zero(1) present(4) digest(8) data(4)
//
// Version 1 ends before data; there every present block counts. In version 3 the map
// follows, all of it, and there are no chunks beside the header:
//
//	{ chunk length bytes }...
//
// with uvarints, ascending; bytes are the chunk as it is encoded.
type header struct {
	present uint32
	data    uint32
	digest  uint64
	// malformed is why this stands in for the header that is stored; see readHeader.
	malformed error
}

const (
	headerVersion    = 2
	mapHeaderVersion = 3
	headerLen        = 18
	header1Len       = 14
)

func (h header) encode() []byte { return h.append(make([]byte, 0, headerLen)) }

func (h header) append(b []byte) []byte {
	b = append(b, headerVersion, 0)
	b = binary.LittleEndian.AppendUint32(b, h.present)
	b = binary.LittleEndian.AppendUint64(b, h.digest)
	return binary.LittleEndian.AppendUint32(b, h.data)
}

// appendWithMap is append with the map of the object, see rest.
func (h header) appendWithMap(b, packed []byte) []byte {
	at := len(b)
	b = append(h.append(b), packed...)
	b[at] = mapHeaderVersion
	return b
}

// decodeHeader reads a header. If the map of the object is in it, that is rest.all.
func decodeHeader(b []byte) (header, rest, error) {
	if len(b) > 0 && (b[0] == 0 || b[0] > mapHeaderVersion) {
		return header{}, rest{}, &versionError{what: "object header", found: uint32(b[0]), want: mapHeaderVersion}
	}
	old, whole := len(b) == header1Len && b[0] == 1, len(b) > headerLen && b[0] == mapHeaderVersion
	if !old && !whole && (len(b) != headerLen || b[0] != headerVersion) || b[1] != 0 {
		return header{}, rest{}, fmt.Errorf("object header of %d bytes is malformed", len(b))
	}
	h := header{present: binary.LittleEndian.Uint32(b[2:]), digest: binary.LittleEndian.Uint64(b[6:])}
	if h.data = h.present; !old {
		h.data = binary.LittleEndian.Uint32(b[14:])
	}
	if h.data > h.present {
		return header{}, rest{}, fmt.Errorf("object header has %d blocks of data among %d", h.data, h.present)
	}
	if !whole {
		return h, rest{}, nil
	}
	r := rest{packed: b[headerLen:], all: true}
	return h, r, r.check()
}
