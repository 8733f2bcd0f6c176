package objectstore

import (
	"math/rand/v2"
	"slices"
	"testing"

	"sheepdog"
)

// A chain of any length shows of a pile with any number of objects, loaded or not,
// what a look at one layer after the other does.
func TestChainShowsTheNewestOfEachBlock(t *testing.T) {
	draw := rand.New(rand.NewPCG(3, 500))
	for range 2000 {
		chain := make([]sheepdog.LayerID, 1+draw.IntN(40))
		for i := range chain {
			chain[i] = sheepdog.LayerID(100 + i)
		}
		draw.Shuffle(len(chain), func(i, j int) { chain[i], chain[j] = chain[j], chain[i] })
		p := new(pile)
		for range draw.IntN(2 * fewObjects) {
			layer := sheepdog.LayerID(100 + draw.IntN(50)) // some are in no chain
			o := p.object(layer)
			o.complete = draw.IntN(10) > 0
			for no := range uint32(8) {
				if draw.IntN(3) == 0 {
					p.chunk(o, 0).set(int(no), slot{state: sheepdog.Data, crc: uint32(layer)})
				}
			}
			if !o.complete && draw.IntN(2) == 0 {
				o.chunks.forget(0) // not loaded
			}
		}
		want, loaded := plainLook(p, chain, 8)
		got := make([]slot, 8)
		if all := p.look(chain, 0, got); all != loaded || all && !slices.Equal(got, want) {
			t.Fatalf("chain %v of %d objects: %v, all loaded: %v, want %v, %v", chain, len(p.objects), got, all, want, loaded)
		}
	}
}

// plainLook is look, block by block. It is false if a map that is not loaded is met
// before all blocks are found.
func plainLook(p *pile, chain []sheepdog.LayerID, count int) ([]slot, bool) {
	out := make([]slot, count)
	for _, layer := range chain {
		o := p.find(layer)
		if o == nil || !slices.ContainsFunc(out, func(s slot) bool { return s.state == sheepdog.Absent }) {
			continue
		}
		if !o.has(0, uint32(count)) {
			return out, false
		}
		for i := range out {
			if s := o.slot(sheepdog.BlockNo(i)); out[i].state == sheepdog.Absent && s != nil {
				out[i] = *s
			}
		}
	}
	return out, true
}

func BenchmarkTryReadOfAChain(b *testing.B) {
	d := benchStore(b)
	obj := sheepdog.ObjectID{Family: 1, Index: 0}
	mustWrite(b, d, dataOp(0, 1, 0, make([]byte, blockSize), 1))
	buf, states := make([]byte, blockSize), make([]sheepdog.BlockState, 1)
	chain := []sheepdog.LayerID{}
	for layer := sheepdog.LayerID(500); layer > 0; layer-- {
		chain = append(chain, layer) // the block is at the bottom
	}
	b.ReportAllocs()
	for range b.N {
		if !d.TryRead(obj, chain, 0, 1, buf, states) {
			b.Skip("not at hand on this file system")
		}
	}
}

// slot is the record of a block; nil if the object lacks it.
func (o *object) slot(no sheepdog.BlockNo) *slot {
	c := o.chunks.at(uint32(no) / chunkBlocks)
	if c == nil {
		return nil
	}
	q := c.parts[no%chunkBlocks/partBlocks]
	if q == nil || q[no%partBlocks].state == sheepdog.Absent {
		return nil
	}
	return &q[no%partBlocks]
}
