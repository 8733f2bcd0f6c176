package peer

import (
	"math/rand/v2"
	"testing"

	"sheepdog"
)

// The checksum of a frame's data is the same whether it is computed over all of them
// or from those of their blocks.
func TestJoinSums(t *testing.T) {
	r := rand.NewChaCha8([32]byte{1})
	for _, blocks := range []int{0, 1, 2, 3, 16, 257} {
		data := make([]byte, blocks*sheepdog.BlockSize)
		r.Read(data)
		if blocks == 3 {
			clear(data)
		}
		sums := sheepdog.AppendSums(nil, data)
		if len(sums) != blocks {
			t.Fatalf("%d checksums of %d blocks", len(sums), blocks)
		}
		if got, want := joinSums(sums), checksum(data); got != want {
			t.Errorf("%d blocks: %#x, computed over all %#x", blocks, got, want)
		}
	}
}
