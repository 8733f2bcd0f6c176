package hugepage

import (
	"bytes"
	"testing"
	"unsafe"
)

func TestShortBuffersComeAlone(t *testing.T) {
	for _, n := range []int{1, least - 1} {
		if all := Alloc(n); len(all) != 1 || len(all[0]) != n {
			t.Errorf("%d buffers for one of %d bytes", len(all), n)
		}
	}
}

func TestBuffersAreApart(t *testing.T) {
	for _, c := range []struct{ n, want int }{{1 << 20, 8}, {1<<20 + 4<<10, 7}, {slab, 1}, {slab + 1, 1}, {5*hugePage + 4<<10, 1}} {
		all := Alloc(c.n)
		if len(all) != c.want {
			t.Fatalf("%d buffers of %d bytes, want %d", len(all), c.n, c.want)
		}
		if at := uintptr(unsafe.Pointer(&all[0][0])); at%hugePage != 0 {
			t.Errorf("the first buffer of %d bytes begins at %#x", c.n, at)
		}
		for i, b := range all {
			if len(b) != c.n || cap(b) != c.n {
				t.Fatalf("a buffer of %d bytes, capacity %d, want %d", len(b), cap(b), c.n)
			}
			if len(bytes.TrimLeft(b, "\x00")) > 0 {
				t.Errorf("buffer %d of %d bytes does not hold zeros", i, c.n)
			}
			for k := range b {
				b[k] = byte(i + 1)
			}
		}
		for i, b := range all {
			if bytes.Count(b, []byte{byte(i + 1)}) != c.n {
				t.Errorf("buffer %d of %d bytes has what belongs to another", i, c.n)
			}
		}
	}
}
