package vdi

import "sheepdog"

// piece is a part of a guest request, in one object. Offsets and lengths are in
// bytes.
type piece struct {
	index sheepdog.Index
	in    uint64 // offset in the object
	n     uint64 // length
	at    uint64 // offset in the guest's buffer
}

// pieceSize is the size of the aligned parts into which requests are cut, a
// power of two: that of objects of 2^shift bytes, or for larger ones what one
// request to a replica can carry.
func pieceSize(shift uint8) uint64 {
	return min(uint64(1)<<shift, sheepdog.MaxTransfer)
}

// pieces cuts [off, off+n) at multiples of pieceSize in objects of 2^shift bytes.
func pieces(off, n uint64, shift uint8) []piece {
	size := pieceSize(shift)
	out := make([]piece, 0, n/size+2)
	for at := uint64(0); at < n; {
		pos := off + at
		l := min(size-pos&(size-1), n-at)
		out = append(out, piece{index: sheepdog.Index(pos >> shift), in: pos & (1<<shift - 1), n: l, at: at})
		at += l
	}
	return out
}

// blocks is the range of whole blocks that covers the piece.
func (p piece) blocks() (start sheepdog.BlockNo, count uint32) {
	first := p.in / sheepdog.BlockSize
	last := (p.in + p.n + sheepdog.BlockSize - 1) / sheepdog.BlockSize
	return sheepdog.BlockNo(first), uint32(last - first)
}

// aligned reports whether the piece begins and ends at block borders.
func (p piece) aligned() bool {
	return p.in%sheepdog.BlockSize == 0 && p.n%sheepdog.BlockSize == 0
}

// span is the piece's blocks as block numbers of the VDI.
func (p piece) span(shift uint8) span {
	start, count := p.blocks()
	from := uint64(p.index)<<(shift-12) + uint64(start)
	return span{from, from + uint64(count)}
}
