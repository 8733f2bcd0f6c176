package replica

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"sheepdog"
)

// TestOriginSetIsAMap compares the set with a map of what it has to remember.
func TestOriginSetIsAMap(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var set originSet
		want, done := make(map[uint64]site), uint64(0)
		for step := range 500 {
			if rng.IntN(4) == 0 {
				done = max(done, uint64(step)-min(uint64(step), rng.Uint64N(40)))
				set.forget(done)
				maps.DeleteFunc(want, func(n uint64, _ site) bool { return n < done })
			}
			n, where := uint64(step)+rng.Uint64N(30), site{since: sheepdog.Revision(step)}
			set.add(n, where)
			if n >= done {
				want[n] = where
			}
			if !slices.IsSortedFunc(set.applied, func(a, b appliedRequest) int { return int(a.request) - int(b.request) }) {
				t.Fatalf("seed %d step %d: not ascending", seed, step)
			}
			got := make(map[uint64]site)
			for _, a := range set.applied {
				got[a.request] = a.site
			}
			if !maps.Equal(got, want) || len(got) != len(set.applied) {
				t.Fatalf("seed %d step %d: %v, want %v", seed, step, set.applied, want)
			}
		}
	}
}

// TestOriginSetIsBounded fills a set beyond its bound: the oldest requests go.
func TestOriginSetIsBounded(t *testing.T) {
	var set originSet
	for n := range uint64(maxOrigins + 3) {
		set.add(n, site{})
	}
	if first := set.applied[0].request; len(set.applied) != maxOrigins || first != 3 {
		t.Errorf("%d requests from %d on", len(set.applied), first)
	}
}
