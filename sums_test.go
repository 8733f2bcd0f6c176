package sheepdog

import (
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestSumsAreOfEachBlock(t *testing.T) {
	data := make([]byte, 5*BlockSize)
	rand.NewChaCha8([32]byte{}).Read(data)
	want := []uint32{7}
	for at := 0; at < len(data); at += BlockSize {
		want = append(want, crc32.Checksum(data[at:][:BlockSize], crc32.MakeTable(crc32.Castagnoli)))
	}
	for n := 0; n <= 5; n++ {
		got := AppendSums([]uint32{7}, data[:n*BlockSize])
		if !slices.Equal(got, want[:n+1]) {
			t.Errorf("of %d blocks: %x; want %x", n, got, want[:n+1])
		}
	}
}

// BenchmarkAppendSums sums a MiB that is in the processor's cache, and one that is not.
func BenchmarkAppendSums(b *testing.B) {
	const length = 256 * BlockSize
	sums := make([]uint32, 0, 256)
	for name, buffers := range map[string]int{"near": 1, "far": 128} {
		b.Run(name, func(b *testing.B) {
			data := make([]byte, buffers*length)
			for i := range data {
				data[i] = byte(i)
			}
			b.SetBytes(length)
			for i := 0; b.Loop(); i++ {
				AppendSums(sums, data[i%buffers*length:][:length])
			}
		})
	}
}
