package objectstore

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// The dirty set has what was added and not removed, each pile once.
func TestDirtySetIsASet(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	piles, in := make([]pile, 20), make(map[*pile]bool)
	var d dirtySet
	for range 5000 {
		p := &piles[r.IntN(len(piles))]
		if r.IntN(2) == 0 {
			if d.add(p) == in[p] {
				t.Fatalf("a pile was added, though it was there: %v", in[p])
			}
			in[p] = true
		} else {
			d.remove(p)
			delete(in, p)
		}
		all := d.all()
		for i := range piles {
			if p := &piles[i]; d.has(p) != in[p] || slices.Contains(all, p) != in[p] {
				t.Fatalf("pile %d is in the set: %v, in the list %v; want %v", i, d.has(p), slices.Contains(all, p), in[p])
			}
		}
		if len(all) != len(in) {
			t.Fatalf("the list has %d piles, want %d", len(all), len(in))
		}
	}
}
