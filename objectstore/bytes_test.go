package objectstore

import (
	"maps"
	"math/rand/v2"
	"testing"

	"sheepdog"
)

// LayerBytes of a Disk is that of Memory after the same random writes, zeros,
// merges and drops: before and after a destage, and after the store was opened
// again, where the counts come from the headers.
func TestLayerBytesAreThoseOfTheModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 14))
	u := openDisk(t, Options{MapCacheBytes: 1 << 20, openMeta: newFakeMeta().open})
	m := NewMemory()
	compare := func(when string) {
		t.Helper()
		got, err := u.d.LayerBytes()
		want, _ := m.LayerBytes()
		maps.DeleteFunc(got, func(_ sheepdog.LayerID, n uint64) bool { return n == 0 })
		maps.DeleteFunc(want, func(_ sheepdog.LayerID, n uint64) bool { return n == 0 })
		if err != nil || !maps.Equal(got, want) {
			t.Fatalf("%s: %v, %v; want %v", when, got, err, want)
		}
	}
	for step := range 400 {
		a, b := sheepdog.LayerID(1+rng.IntN(4)), sheepdog.LayerID(1+rng.IntN(4))
		switch rng.IntN(20) {
		case 0:
			if a != b {
				checkBoth(t, u.d.Merge(a, b), m.Merge(a, b))
			}
		case 1:
			checkBoth(t, u.d.DropLayer(a), m.DropLayer(a))
		default:
			op := sheepdog.Op{Object: sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(rng.IntN(3))}, Layer: a, Start: sheepdog.BlockNo(rng.IntN(200)), Count: uint32(1 + rng.IntN(80)),
				Stamp: sheepdog.Stamp{Token: 1, Seq: uint64(step + 1)}}
			if rng.IntN(3) > 0 {
				op.Data = make([]byte, op.Count*blockSize)
			}
			var mine, model [1]error
			u.d.Write([]sheepdog.Op{op}, mine[:])
			m.Write([]sheepdog.Op{op}, model[:])
			checkBoth(t, mine[0], model[0])
		}
		if step%40 == 0 {
			compare("with changes in memory")
			if err := u.d.destage(true); err != nil {
				t.Fatal(err)
			}
			compare("after a destage")
		}
	}
	if err := u.d.Close(); err != nil {
		t.Fatal(err)
	}
	u.open(t)
	compare("opened again")
}

func checkBoth(t *testing.T, a, b error) {
	t.Helper()
	if a != nil || b != nil {
		t.Fatal(a, b)
	}
}
