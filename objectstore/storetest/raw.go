package storetest

import (
	"bytes"
	"errors"
	"hash/crc32"
	"slices"
	"testing"

	"sheepdog"
)

// OwnSummer is a Reopener of an engine that computes all checksums itself.
type OwnSummer interface{ OwnSums() }

// testSums writes blocks with checksums from elsewhere: those that match are as any,
// and one that does not makes its block bad, where they get as far as the store.
func testSums(t *testing.T, s *store) {
	for _, blocks := range []int{3, 40} { // in the log, and in extents
		obj := sheepdog.ObjectID{Family: 7, Index: sheepdog.Index(blocks)}
		op := data(obj, 1, 5, Fill(1, blocks), 1)
		for i := range blocks {
			op.Sums = append(op.Sums, checksum(op.Data[i*blockSize:][:blockSize]))
		}
		s.write(op)
		wrong := data(obj, 2, 5, Fill(2, blocks), 1)
		wrong.Sums = slices.Clone(op.Sums)
		for i := range blocks {
			wrong.Sums[i] = checksum(wrong.Data[i*blockSize:][:blockSize])
		}
		wrong.Sums[1] ^= 1 << 9
		s.write(wrong)
		s.everywhere(func() {
			if got, _ := s.read(obj, []sheepdog.LayerID{1}, 5, uint32(blocks)); !bytes.Equal(got, op.Data) {
				t.Fatal("other bytes than were written with their checksums")
			}
			if _, own := s.r.(OwnSummer); own {
				return
			}
			buf, states := make([]byte, blocks*blockSize), make([]sheepdog.BlockState, blocks)
			err := s.engine().Read(obj, []sheepdog.LayerID{2}, 5, uint32(blocks), buf, states)
			var bad *sheepdog.BadBlocksError
			if !errors.As(err, &bad) || !slices.Equal(bad.Blocks, []sheepdog.BlockNo{6}) {
				t.Fatalf("read of a block with another checksum: %v", err)
			}
			recs := make([]sheepdog.Record, blocks)
			s.must(s.engine().Records(obj, []sheepdog.LayerID{2}, 5, uint32(blocks), recs))
			for i, rec := range recs {
				if rec.CRC != wrong.Sums[i] {
					t.Fatalf("block %d has checksum %x, written with %x", i, rec.CRC, wrong.Sums[i])
				}
			}
		})
	}
}

// testRaw compares raw reads with the others, through blocks of every state. Engines
// that have no raw reads pass.
func testRaw(t *testing.T, s *store) {
	s.write(data(objA, 1, 0, Fill(1, 60), 1), zero(objA, 2, 10, 4, 2), data(objA, 2, 20, Fill(2, 2), 3), data(objA, 2, 70, Fill(3, 1), 4))
	chain := []sheepdog.LayerID{2, 1}
	s.everywhere(func() {
		raw, ok := s.engine().(sheepdog.RawEngine)
		if !ok {
			return
		}
		for _, span := range [][2]uint32{{0, 80}, {9, 6}, {15, 10}, {75, 3}} {
			start, count := sheepdog.BlockNo(span[0]), span[1]
			want, states := s.read(objA, chain, start, count)
			records := make([]sheepdog.Record, count)
			s.must(s.engine().Records(objA, chain, start, count, records))
			got, recs := bytes.Repeat([]byte{0xAA}, int(count)*blockSize), make([]sheepdog.Record, count)
			s.must(raw.ReadRaw(objA, chain, start, count, got, recs))
			if !bytes.Equal(got, want) || !slices.Equal(recs, records) {
				t.Fatalf("a raw read of %d blocks at %d differs", count, start)
			}
			for i, rec := range recs {
				if rec.State != states[i] {
					t.Fatalf("block %d is in state %d, raw in %d", i, states[i], rec.State)
				}
			}
		}
		if err := raw.ReadRaw(objA, chain, 0, 2, make([]byte, blockSize), make([]sheepdog.Record, 2)); !errors.Is(err, sheepdog.ErrInvalid) {
			t.Fatalf("raw read into too little room: %v", err)
		}
	})
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }
