package main

import (
	"bytes"
	"slices"
	"testing"

	"sheepdog/api"
)

// The benchmark wrote zeros, which no disk gets: it told the speed of something else. And
// of a VDI that is no multiple of its objects it never wrote the end.
func TestBenchmarkWritesDataEverywhere(t *testing.T) {
	f := newFixture(t, 1)
	const size = 9<<20 + 512
	f.must(t, "", "vdi", "create", "v", "9437696")
	c := api.NewClient(f.addr)
	defer c.Close()
	b := &benchmark{threads: 2}
	if err := b.write(t.Context(), c, &api.VDI{Name: "v", SizeBytes: size, BlockSizeShift: 22}, size); err != nil {
		t.Fatal(err)
	}
	at, zero := 0, make([]byte, 4096)
	for block := range slices.Chunk(f.backend.Data("v", ""), 4096) {
		if bytes.Equal(block, zero[:len(block)]) {
			t.Fatalf("the block at %d of %d is zeros", at, size)
		}
		at += len(block)
	}
	if at != size {
		t.Errorf("%d bytes", at)
	}
}
