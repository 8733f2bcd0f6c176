package objectstore

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"sheepdog"
)

// A write of one block does to a pile what it does among others.
func TestWriteOfOneBlockIsAWrite(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	piles := [2]*pile{}
	for i := range piles {
		piles[i] = new(pile)
	}
	refused := 0
	for n := range 5000 {
		e := entry{kind: entryKind(1 + rnd.IntN(3)), force: rnd.IntN(9) == 0, key: objectKey{Layer: sheepdog.LayerID(rnd.IntN(3))},
			start: sheepdog.BlockNo(rnd.IntN(300)), count: 1, stamp: sheepdog.Stamp{Token: 1, Seq: rnd.Uint64N(2000)}}
		switch e.kind {
		case entryInline:
			e.crcs, e.runs = []uint32{rnd.Uint32()}, []run{{logPlace(1, rnd.Uint32N(2000)), 1}}
		case entryExtent:
			e.crcs, e.runs = []uint32{rnd.Uint32()}, []run{{extentPlace(1, 1+rnd.Uint64N(2000)), 1}}
		}
		at := lsn(1 + rnd.IntN(n+1))
		if rnd.IntN(50) == 0 {
			for _, p := range piles {
				p.object(e.key.Layer).floor = at
			}
		}
		var one, many outcome
		piles[0].writeOne(&e, at, &one)
		piles[1].write(&e, at, &many)
		if !reflect.DeepEqual(one, many) {
			t.Fatalf("%+v: %+v, want %+v", e, one, many)
		}
		refused += len(one.refused)
	}
	if piles[0].bytes.Load() != piles[1].bytes.Load() {
		t.Errorf("%d bytes, want %d", piles[0].bytes.Load(), piles[1].bytes.Load())
	}
	for _, p := range piles {
		p.bytes.Store(0)
	}
	if !reflect.DeepEqual(piles[0], piles[1]) || refused < 100 {
		t.Errorf("the piles differ, after %d refused writes", refused)
	}
}
