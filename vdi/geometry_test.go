package vdi

import (
	"testing"

	"sheepdog"
)

// Requests are cut at the borders of objects, and where objects are larger than
// what one request to a replica carries, at multiples of that.
func TestPieces(t *testing.T) {
	for _, c := range []struct {
		name   string
		off, n uint64
		shift  uint8
	}{
		{"within an object", 4096, 100, 22},
		{"to the border", 4 << 20, 4 << 20, 22},
		{"over borders", 5, 9 << 20, 22},
		{"fifty megabytes", 1 << 10, 50_000_000, 22},
		{"in a large object", 512, 64 << 20, 31},
		{"over large objects", 1<<31 - 512, 50_000_000, 31},
		{"whole large objects", 0, 1 << 32, 31},
		{"nothing", 77, 0, 22},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := uint64(0)
			for _, p := range pieces(c.off, c.n, c.shift) {
				if p.at != at || uint64(p.index)<<c.shift+p.in != c.off+at {
					t.Fatalf("piece %+v at %d", p, at)
				}
				if _, blocks := p.blocks(); p.n == 0 || uint64(blocks)*sheepdog.BlockSize > sheepdog.MaxTransfer {
					t.Fatalf("piece %+v has %d blocks", p, blocks)
				}
				if p.in+p.n > 1<<c.shift {
					t.Fatalf("piece %+v crosses objects", p)
				}
				at += p.n
			}
			if at != c.n {
				t.Errorf("%d bytes of %d", at, c.n)
			}
		})
	}
}
