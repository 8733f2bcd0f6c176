package objectstore

import (
	"testing"

	"sheepdog"
)

// Of two piles that meet in a shard each is found, and one that left the cache is not
// found any more.
func TestPilesThatMeetInAShard(t *testing.T) {
	c := newCache(3 * 4 * pileBytes)
	a, b := sheepdog.ObjectID{Family: 1, Index: 5}, sheepdog.ObjectID{Family: 1, Index: 5 + cacheShards}
	if c.shard(a) != c.shard(b) {
		t.Fatal("they do not meet")
	}
	p, q := c.pin(a), c.pin(b)
	if p == q || p.id != a || q.id != b {
		t.Fatalf("piles are of %s and %s", p.id, q.id)
	}
	for range 2 {
		for id, want := range map[sheepdog.ObjectID]*pile{a: p, b: q} {
			if got := c.pin(id); got != want {
				t.Fatalf("object %s has another pile", id)
			}
			c.unpin(want)
		}
	}
	c.unpin(q)
	p.bytes.Add(100 * pileBytes)
	c.pin(a)
	c.unpin(p)
	c.unpin(p) // it is larger than the cache
	if c.pinned(a) != nil || c.pinned(b) != nil {
		t.Fatal("somebody has them pinned")
	}
	if c.pin(a) == p {
		t.Fatal("a pile that left is used again")
	}
}
