package objectstore

import (
	"bytes"
	"slices"
	"testing"

	"sheepdog"
)

// A destage is no use of a pile: a small one leaves before those that requests have used,
// a large one as if it had been used.
func TestSmallPilesLeaveAfterADestage(t *testing.T) {
	c := newCache(96 << 20)
	pin := func(no int, bytes int64) *pile {
		p := c.pin(sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(no * cacheShards)}) // all in one shard
		p.bytes.Store(bytes)
		return p
	}
	used, small, large := pin(1, smallPile), pin(2, smallPile), pin(3, smallPile+1)
	c.unpin(used)
	c.unpinDestaged(small)
	c.unpinDestaged(large)
	s := c.shard(used.id)
	var order []*pile
	for p := s.idle.prev; p != &s.idle; p = p.prev {
		order = append(order, p)
	}
	if want := []*pile{small, used, large}; !slices.Equal(order, want) {
		t.Errorf("piles leave in the order %v, want %v", ids(order), ids(want))
	}
}

func ids(piles []*pile) (out []sheepdog.ObjectID) {
	for _, p := range piles {
		out = append(out, p.id)
	}
	return out
}

// To have headers fetched is only a hint, whether they are there or not.
func TestNearHeadersChangesNothing(t *testing.T) {
	h := &headers{inventory: newInventory()}
	ops := make([]sheepdog.Op, 3*headerShards)
	for i := range ops {
		ops[i].Object = sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(i)}
	}
	h.near(ops)
	some := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 1+i%200) }
	var scratch []byte
	for i := 0; i < len(ops); i += 2 {
		h.set(objectKey{ops[i].Object, 1}, some(i), &scratch)
	}
	h.live.Store(farHeaders)
	h.near(ops)
	for i := range ops {
		got, err := h.Get(objectKey{ops[i].Object, 1}.encode(keyObject))
		if err != nil || (got != nil) != (i%2 == 0) || got != nil && !bytes.Equal(got, some(i)) {
			t.Errorf("object %d has %x, %v", i, got, err)
		}
	}
}
