package objectstore

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"testing"

	"sheepdog"
)

// Packed piles are what was put, whatever is dropped and added; what was got before
// stays as it is; and what was dropped takes no more than what is there.
func TestPacksAreAMap(t *testing.T) {
	for _, objects := range []int{3, 40, 1000} { // also where most slots are used
		packsAreAMap(t, objects)
	}
}

func packsAreAMap(t *testing.T, objects int) {
	var p packs
	model := make(map[sheepdog.ObjectID][]byte)
	r := rand.New(rand.NewPCG(1, 1))
	for step := range 20_000 {
		id := sheepdog.ObjectID{Family: sheepdog.FamilyID(r.IntN(2)), Index: sheepdog.Index(r.IntN(objects))}
		b, ok := model[id]
		got := p.get(id)
		if !bytes.Equal(got, b) || (got != nil) != ok {
			t.Fatalf("step %d: object %s has %x, want %x", step, id, got, b)
		}
		switch {
		case r.IntN(50) == 0:
			dropAnyPack(t, &p, model)
		case ok:
			if n := p.dropAt(p.find(id)); n != len(b) {
				t.Fatalf("step %d: %d bytes were dropped, want %d", step, n, len(b))
			}
			delete(model, id)
		default:
			b = make([]byte, r.IntN(200))
			for i := range b {
				b[i] = byte(step)
			}
			if !p.put(id, b) {
				t.Fatalf("step %d: object %s has no room", step, id)
			}
			model[id] = bytes.Clone(b)
		}
		if ok && !bytes.Equal(got, b) {
			t.Fatalf("step %d: bytes of object %s changed after they were got", step, id)
		}
		live := 0
		for _, b := range model {
			live += packKeyLen + len(b) + 2
		}
		if len(p.bytes) > 2*live+packsSlack+1000 || p.n != len(model) {
			t.Fatalf("step %d: %d bytes for %d, of %d piles; want %d", step, len(p.bytes), live, p.n, len(model))
		}
	}
	for p.n > 0 {
		dropAnyPack(t, &p, model)
	}
	if _, ok := p.dropAny(); ok || len(model) > 0 {
		t.Fatalf("%d piles are left", len(model))
	}
}

// dropAnyPack drops a pile of which the packs say the length, and finds out which it was.
func dropAnyPack(t *testing.T, p *packs, model map[sheepdog.ObjectID][]byte) {
	t.Helper()
	before := len(model)
	n, ok := p.dropAny()
	maps.DeleteFunc(model, func(id sheepdog.ObjectID, b []byte) bool { return p.get(id) == nil && len(b) == n })
	if ok != (before > 0) || len(model) != p.n || ok && p.n != before-1 {
		t.Fatalf("%d piles are left of %d, one of %d bytes was dropped: %v", len(model), before, n, ok)
	}
}
