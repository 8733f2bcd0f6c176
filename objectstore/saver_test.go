package objectstore

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"sheepdog"
)

// What the metadata store gets of a chunk is the same whether its blocks were carried
// before the snapshot or are moved after it, or some of them.
func TestSavedChunkIsTheSameCarriedOrMoved(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	var by saver
	for n := range 300 {
		c := &chunk{applied: lsn(n + 1), dirty: true}
		to := make(map[place]place)
		some := new(carried)
		for i := range chunkBlocks {
			s := slot{stamp: sheepdog.Stamp{Token: 1, Seq: rnd.Uint64N(3)}, crc: rnd.Uint32(), state: sheepdog.Data}
			switch rnd.IntN(4) {
			case 0:
				continue
			case 1:
				s.state, s.crc = sheepdog.Zero, 0
			case 2:
				s.at = extentPlace(1, uint64(100+i))
			default:
				s.at = logPlace(7, uint32(i+1))
				to[s.at] = extentPlace(1, rnd.Uint64N(1000)+1)
				if rnd.IntN(4) > n%4 {
					some.from, some.to = append(some.from, s.at), append(some.to, to[s.at])
				}
			}
			if n%5 == 0 && i > 10 {
				continue
			}
			c.set(i, s)
			c.present++
		}
		before := c.clone()
		moved := before.clone()
		for i := range chunkBlocks {
			if at := moved.at(i).at; at.inLog() {
				moved.place(i, to[at])
			}
		}
		var want []byte
		if moved.present > 0 {
			want = moved.encode()
		}
		for _, carried := range []*carried{nil, some, {from: some.from, to: slices.Clone(some.to)}} {
			by.carried = carried
			s := by.saveChunk(3, c)
			for i := range s.moves {
				if m := &s.moves[i]; m.to == 0 {
					m.to = to[m.from]
				} else if m.to != to[m.from] || carried == nil {
					t.Fatalf("%s was carried to %s, want %s", m.from, m.to, to[m.from])
				}
			}
			if got := s.encode(); !bytes.Equal(got, want) {
				t.Fatalf("chunk %d is saved as %x, want %x", n, got, want)
			}
			if len(s.moves) > len(to) || s.present != c.present {
				t.Fatalf("%d moves of %d blocks in the log, %d blocks of %d", len(s.moves), len(to), s.present, c.present)
			}
		}
		for i := range chunkBlocks {
			if c.at(i) != before.at(i) {
				t.Fatalf("slot %d of the chunk was changed", i)
			}
		}
	}
}

// Piles are destaged in the order of their keys.
func TestPilesAreSortedByTheirKeys(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	var piles []*pile
	for range 2000 {
		piles = append(piles, &pile{id: sheepdog.ObjectID{Family: sheepdog.FamilyID(rnd.IntN(20)), Index: sheepdog.Index(rnd.IntN(50))}})
	}
	sortPiles(piles)
	for i := 1; i < len(piles); i++ {
		if a, b := (objectKey{Object: piles[i-1].id}), (objectKey{Object: piles[i].id}); a.compare(b) > 0 {
			t.Fatalf("%s is before %s", a.Object, b.Object)
		}
	}
}
