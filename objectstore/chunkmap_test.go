package objectstore

import (
	"maps"
	"math/rand/v2"
	"testing"

	"sheepdog"
)

// A chunkMap is a map in which nil stands for what is known not to be stored.
func TestChunkMapIsAMap(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var m chunkMap
	want := make(map[uint32]*chunk)
	for range 5000 {
		no := rnd.Uint32N(40)
		switch rnd.IntN(4) {
		case 0:
			m.forget(no)
			delete(want, no)
		case 1:
			m.put(no, nil)
			want[no] = nil
		default:
			want[no] = new(chunk)
			m.put(no, want[no])
		}
		no = rnd.Uint32N(50)
		c, known := want[no]
		if m.at(no) != c || m.known(no) != known || m.n != len(want) {
			t.Fatalf("chunk %d: %p, known %v, of %d; want %p, %v, of %d", no, m.at(no), m.known(no), m.n, c, known, len(want))
		}
		each := make(map[uint32]*chunk)
		for no, c := range m.each {
			each[no] = c
		}
		some := maps.Clone(want)
		maps.DeleteFunc(some, func(_ uint32, c *chunk) bool { return c == nil })
		if !maps.Equal(each, some) {
			t.Fatalf("visited were %v, want %v", each, some)
		}
	}
	if *notStored != (chunk{}) {
		t.Error("what stands for a chunk that is not stored was changed")
	}
}

// Shares are the same whether those in a row are of one family or not.
func TestChargesAddUp(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var s shares
	a, b := new(segment), new(segment)
	used := map[*segment][]uint64{a: make([]uint64, 4), b: make([]uint64, 4)}
	for range 1000 {
		seg := a
		if rnd.IntN(9) == 0 {
			seg = b
		}
		f, n := rnd.IntN(4), rnd.Uint64N(20)
		s.charge(seg, sheepdog.FamilyID(f), n)
		used[seg][f] += n
		if rnd.IntN(50) == 0 {
			s.release(b)
			clear(used[b])
		}
		if rnd.IntN(3) > 0 {
			continue
		}
		var total, families uint64
		for f := range 4 {
			n := used[a][f] + used[b][f]
			if total += n; n > 0 {
				families++
			}
		}
		n = used[a][f] + used[b][f]
		if got, want := s.even(sheepdog.FamilyID(f)), n > 0 && n*families >= total; got != want {
			t.Fatalf("family %d has %d of %d in %d families: even is %v", f, n, total, families, got)
		}
	}
}
