package objectstore

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"sheepdog"
)

// Packed piles are what was put, whatever is dropped and added; what was got before
// stays as it is; and what was dropped takes no more than what is there.
func TestPacksAreAMap(t *testing.T) {
	p := packs{at: make(map[sheepdog.ObjectID]int)}
	model, kept := make(map[sheepdog.ObjectID][]byte), make(map[sheepdog.ObjectID][]byte)
	r := rand.New(rand.NewPCG(1, 1))
	for step := range 20_000 {
		id := sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(r.IntN(1000))}
		b, ok := model[id]
		if got := p.get(id); !bytes.Equal(got, b) || (got != nil) != ok {
			t.Fatalf("step %d: object %s has %x, want %x", step, id, got, b)
		}
		if ok {
			kept[id] = p.get(id)
			if n := p.drop(id); n != len(b) {
				t.Fatalf("step %d: %d bytes were dropped, want %d", step, n, len(b))
			}
			if k := kept[id]; !bytes.Equal(k, b) {
				t.Fatalf("step %d: bytes of object %s changed when it was dropped", step, id)
			}
			delete(model, id)
		} else {
			b = make([]byte, r.IntN(200))
			for i := range b {
				b[i] = byte(step)
			}
			p.put(id, b)
			model[id] = bytes.Clone(b)
		}
		live := 0
		for _, b := range model {
			live += len(b) + 2
		}
		if len(p.bytes) > 2*live+packsSlack+1000 {
			t.Fatalf("step %d: %d bytes for %d", step, len(p.bytes), live)
		}
	}
}
