package workload

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"sheepdog/tests/internal/register"
)

// Span is a place on the disk, in whole sectors, that is read and written as a
// whole. Each of its blocks is a register: nobody promises that reads see all of a
// write to several blocks, or nothing.
type Span struct {
	Off uint64
	Len int
}

const sector = 512

// Layout spreads n spans over a disk of size bytes: most are one block of
// 4 KiB; some share a block, sector by sector, so that writes to one must leave
// the other; some are larger, lie across blocks, or across two objects of 4 MiB.
func Layout(rng *rand.Rand, n int, size uint64) []Span {
	const cell = 256 << 10
	cells := rng.Perm(int(size / cell))
	var out []Span
	for i := 0; len(out) < n; i++ {
		at := uint64(cells[i%len(cells)]) * cell
		switch i % 8 {
		case 0: // four in one block
			for k := range uint64(4) {
				out = append(out, Span{at + 4096 + k*2*sector, sector})
			}
		case 1: // not aligned
			out = append(out, Span{at + 3*sector, 9000 / sector * sector})
		case 2: // goes around the log
			out = append(out, Span{at, 128 << 10})
		case 3: // over the end of the cell, and perhaps of the object
			if at+cell < size {
				out = append(out, Span{at + cell - 8192, 8192 + 3*sector})
			}
		default:
			out = append(out, Span{at + 64<<10, 4096})
		}
	}
	return disjoint(out)
}

// disjoint drops spans that overlap an earlier one.
func disjoint(in []Span) []Span {
	taken := map[uint64]bool{}
	out := in[:0]
next:
	for _, s := range in {
		for i := s.Off / sector; i < (s.Off+uint64(s.Len))/sector; i++ {
			if taken[i] {
				continue next
			}
		}
		for i := s.Off / sector; i < (s.Off+uint64(s.Len))/sector; i++ {
			taken[i] = true
		}
		out = append(out, s)
	}
	return out
}

// encode fills p, of whole sectors, with what only this value in this span
// looks like: in each sector the value, where it belongs, and noise from both.
func encode(p []byte, span int, v register.Value) {
	for i := 0; i < len(p); i += sector {
		s := p[i : i+sector]
		binary.LittleEndian.PutUint64(s, uint64(v))
		binary.LittleEndian.PutUint32(s[8:], uint32(span))
		binary.LittleEndian.PutUint32(s[12:], uint32(i/sector))
		x := uint64(v)*0x9E3779B97F4A7C15 ^ uint64(span)<<32 ^ uint64(i)
		for k := 16; k < sector; k += 8 {
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
			binary.LittleEndian.PutUint64(s[k:], x)
		}
	}
}

// decode says which value p is, and fails if it is none: torn, or bytes of
// somebody else. It is the part of the span that begins at sector first.
func decode(p []byte, span, first int, scratch []byte) (register.Value, error) {
	v := register.Value(binary.LittleEndian.Uint64(p))
	want := scratch[:first*sector+len(p)]
	if v == 0 {
		clear(want)
	} else {
		encode(want, span, v)
	}
	want = want[first*sector:]
	for i := 0; i < len(p); i += sector {
		if string(p[i:i+sector]) != string(want[i:i+sector]) {
			return v, fmt.Errorf("sector %d is of write %d, but sector %d begins with %x", first, v, first+i/sector, p[i:i+16])
		}
	}
	return v, nil
}

// block is what reads and writes are atomic in.
const block = 4096

// cuts are the sectors of a span at which its blocks begin.
func (s Span) cuts() []int {
	out := []int{0}
	for at := s.Off/block*block + block; at < s.Off+uint64(s.Len); at += block {
		out = append(out, int(at-s.Off)/sector)
	}
	return out
}

// partsPerSpan is more than any span has.
const partsPerSpan = 64
