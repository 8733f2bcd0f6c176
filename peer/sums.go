package peer

import (
	"hash/crc32"

	"sheepdog"
)

// A write's frame has the CRC-32C of all its data, and the store wants that of each
// block. Either end computes those of the blocks alone, and from them the one of all:
// the CRC of A followed by B is that of A, as it becomes when as many zeros follow as B
// has bytes, added to that of B. The first step is linear, so that a table has it for
// each byte of the CRC of A and blocks of one size.
var afterBlock = makeAfterBlock()

func makeAfterBlock() (t [4][256]uint32) {
	zeros := make([]byte, sheepdog.BlockSize)
	for bit := range 32 {
		// Update inverts the CRC before and after, which is left out here.
		t[bit/8][1<<(bit%8)] = ^crc32.Update(^uint32(1<<bit), castagnoli, zeros)
	}
	for k := range t {
		for i := 1; i < 256; i++ {
			low := i & -i
			t[k][i] = t[k][low] ^ t[k][i&^low]
		}
	}
	return t
}

// joinSums is the CRC-32C of blocks in a row, of which sums has each one's.
func joinSums(sums []uint32) uint32 {
	c := uint32(0)
	for _, s := range sums {
		c = afterBlock[0][c&0xff] ^ afterBlock[1][c>>8&0xff] ^ afterBlock[2][c>>16&0xff] ^ afterBlock[3][c>>24] ^ s
	}
	return c
}
