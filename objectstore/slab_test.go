package objectstore

import (
	"slices"
	"testing"

	"sheepdog"
)

// What a slab keeps is what was given, and stays so whatever is kept or appended later.
func TestSlabKeepsCopies(t *testing.T) {
	var s slab[int]
	var kept [][]int
	var ones []*int
	for n := range 5000 {
		b := []int{n, n + 1, n + 2}
		kept, ones = append(kept, s.keep(b)), append(ones, s.one(n))
		b[0] = -1
		_ = append(kept[n], -1)
	}
	for n, b := range kept {
		if !slices.Equal(b, []int{n, n + 1, n + 2}) || *ones[n] != n {
			t.Fatalf("slice %d is %v, the number %d", n, b, *ones[n])
		}
	}
	large := make([]int, slabBytes)
	large[9] = 9
	if !slices.Equal(s.keep(large), large) || s.keep(nil) != nil {
		t.Error("more than the room of a slab, or nothing, is not kept as it is")
	}
}

// Of a large disk a destage takes some ten thousand piles with a block each: what it
// needs of them is not made one by one.
func TestSnapshotsOfSmallPilesAreMadeInSlabs(t *testing.T) {
	const many = 1000
	e := entry{kind: entryExtent, key: objectKey{Layer: 1}, count: 1, crcs: []uint32{7}, runs: []run{{extentPlace(1, 9), 1}}}
	piles := make([]*pile, many)
	for i := range piles {
		piles[i] = &pile{id: sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(i)}}
		piles[i].loaded.Store(true)
	}
	at := lsn(0)
	var k packer
	allocs := testing.AllocsPerRun(5, func() {
		var by saver
		var l changer
		for _, p := range piles {
			at++
			e.stamp.Seq, e.key.Object = uint64(at), p.id
			p.apply(&e, at, new(outcome))
			s, _ := by.save(p)
			if n := len(l.of(s)); n == 0 || s.last != at {
				t.Fatalf("%d changes up to entry %d, want that of %d", n, s.last, at)
			}
			if len(k.pack(p)) == 0 {
				t.Fatal("a pile is not packed")
			}
		}
	})
	if allocs > many/4 {
		t.Errorf("%.0f allocations for %d piles", allocs, many)
	}
}
