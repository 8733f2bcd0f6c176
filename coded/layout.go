package coded

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"sheepdog"
)

// layout says where the blocks of an object are in its strips.
//
// An object is cut into segments of up to 1024 blocks (4 MiB). In a segment the
// blocks that have bytes are counted from 0 and dealt to the data strips in
// turn: number q is row q/D of strip q%D. Zero and absent blocks are in no row,
// so holes cost nothing; the last row may be short, and what it lacks counts as
// zeros. Each row has one block on every parity strip. A strip is an object of
// its own layer id, with for every segment s the blocks
//
//	s*span      header: the states of the segment's blocks
//	s*span+1+r  row r
//
// where span is one more than the rows of a full segment. Every strip has every
// header, so that any one strip tells what the object has.
type layout struct {
	data, parity int
	object       uint32 // blocks of an object
	segment      uint32 // blocks of a segment
	span         uint32 // blocks that a segment may take in a strip
}

// segmentBlocks is the most blocks of a segment.
const segmentBlocks = 1024

func newLayout(p sheepdog.Policy, objectBlocks uint32) layout {
	l := layout{data: int(p.Copies), parity: p.ParityStrips(), object: objectBlocks, segment: min(segmentBlocks, objectBlocks)}
	l.span = 1 + (l.segment+uint32(l.data)-1)/uint32(l.data)
	return l
}

func (l layout) strips() int { return l.data + l.parity }

func (l layout) segments() uint32 { return l.object / l.segment }

// headerAt is the place of a segment's header in every strip.
func (l layout) headerAt(s uint32) sheepdog.BlockNo { return sheepdog.BlockNo(s * l.span) }

// rowAt is the place of a row in every strip that has it.
func (l layout) rowAt(s, row uint32) sheepdog.BlockNo { return sheepdog.BlockNo(s*l.span + 1 + row) }

// header is what a segment has. Its block is
//
//	0   "SDEC", version (u16), data (u8), parity (u8)
//	8   layer (u64), index (u32), segment (u32), data blocks (u32)
//	28  states, 2 bits a block, the first in the low bits
//	-4  CRC-32C of all before
//
// in little-endian order; the rest is zero.
type header struct {
	layer   sheepdog.LayerID
	index   sheepdog.Index
	segment uint32
	states  []sheepdog.BlockState
	rank    []uint16 // of every block: the data blocks before it
	count   uint32   // data blocks
}

const (
	headerVersion = 1
	headerStates  = 28
	headerCRC     = sheepdog.BlockSize - 4
)

// newHeader counts the blocks of a segment.
func newHeader(layer sheepdog.LayerID, index sheepdog.Index, segment uint32, states []sheepdog.BlockState) *header {
	h := &header{layer: layer, index: index, segment: segment, states: states, rank: make([]uint16, len(states))}
	for i, s := range states {
		h.rank[i] = uint16(h.count)
		if s == sheepdog.Data {
			h.count++
		}
	}
	return h
}

// rows is how many rows the strip has; parity strips have all.
func (l layout) rows(h *header, strip int) uint32 {
	d := uint32(l.data)
	if strip < l.data {
		return (h.count + d - 1 - uint32(strip)) / d
	}
	return (h.count + d - 1) / d
}

func (l layout) encode(h *header) []byte {
	b := make([]byte, sheepdog.BlockSize)
	copy(b, "SDEC")
	binary.LittleEndian.PutUint16(b[4:], headerVersion)
	b[6], b[7] = byte(l.data), byte(l.parity)
	binary.LittleEndian.PutUint64(b[8:], uint64(h.layer))
	binary.LittleEndian.PutUint32(b[16:], uint32(h.index))
	binary.LittleEndian.PutUint32(b[20:], h.segment)
	binary.LittleEndian.PutUint32(b[24:], h.count)
	for i, s := range h.states {
		b[headerStates+i/4] |= byte(s) << (i % 4 * 2)
	}
	binary.LittleEndian.PutUint32(b[headerCRC:], crc32.Checksum(b[:headerCRC], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// decode reads the header that should be at the place; anything else is an
// error that wraps ErrChecksum.
func (l layout) decode(b []byte, layer sheepdog.LayerID, index sheepdog.Index, segment uint32) (*header, error) {
	bad := func(what string) error {
		return fmt.Errorf("strip header of object %d, layer %d: %s: %w", index, layer, what, sheepdog.ErrChecksum)
	}
	switch {
	case len(b) != sheepdog.BlockSize || string(b[:4]) != "SDEC":
		return nil, bad("it is none")
	case binary.LittleEndian.Uint32(b[headerCRC:]) != crc32.Checksum(b[:headerCRC], crc32.MakeTable(crc32.Castagnoli)):
		return nil, bad("it is damaged")
	case binary.LittleEndian.Uint16(b[4:]) != headerVersion:
		return nil, bad("it is of another version of this program")
	case int(b[6]) != l.data || int(b[7]) != l.parity:
		return nil, bad("it is of another policy")
	case binary.LittleEndian.Uint64(b[8:]) != uint64(layer) || binary.LittleEndian.Uint32(b[16:]) != uint32(index) || binary.LittleEndian.Uint32(b[20:]) != segment:
		return nil, bad("it belongs elsewhere")
	}
	states := make([]sheepdog.BlockState, l.segment)
	for i := range states {
		states[i] = sheepdog.BlockState(b[headerStates+i/4] >> (i % 4 * 2) & 3)
		if states[i] > sheepdog.Data {
			return nil, bad("it has an unknown block state")
		}
	}
	h := newHeader(layer, index, segment, states)
	if h.count != binary.LittleEndian.Uint32(b[24:]) {
		return nil, bad("its count is wrong")
	}
	return h, nil
}

// segmentOf is a segment as it is encoded: its header and one shard a strip. A
// shard holds the rows of the strip without a gap; those of data strips are
// padded with zeros to the rows of the parity strips.
type segmentOf struct {
	header *header
	shards [][]byte
}

// code deals the blocks of a segment to strips and adds the parity. data has the
// bytes of every block of the segment.
func (l layout) code(c *Codec, h *header, data []byte) (*segmentOf, error) {
	rows := l.rows(h, l.data)
	out := &segmentOf{header: h, shards: make([][]byte, l.strips())}
	for k := range out.shards {
		out.shards[k] = make([]byte, rows*sheepdog.BlockSize)
	}
	if rows == 0 {
		return out, nil
	}
	for i, s := range h.states {
		if s == sheepdog.Data {
			q := int(h.rank[i])
			copy(out.shards[q%l.data][q/l.data*sheepdog.BlockSize:], data[i*sheepdog.BlockSize:(i+1)*sheepdog.BlockSize])
		}
	}
	return out, c.Encode(out.shards)
}

// strip is what strip k stores of the segment: the header and its rows.
func (l layout) strip(s *segmentOf, k int) []byte {
	n := l.rows(s.header, k) * sheepdog.BlockSize
	out := make([]byte, sheepdog.BlockSize+n)
	copy(out, l.encode(s.header))
	copy(out[sheepdog.BlockSize:], s.shards[k][:n])
	return out
}
