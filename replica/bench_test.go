package replica

import (
	"math/rand/v2"
	"testing"

	"sheepdog"
)

// BenchmarkMark notes writes of one block at random places of an object of 4 MiB.
func BenchmarkMark(b *testing.B) {
	rnd := rand.New(rand.NewPCG(1, 2))
	d := new(dirtyObject)
	b.ReportAllocs()
	seq := uint64(0)
	for b.Loop() {
		seq++
		at := rnd.Uint64N(1024)
		d.mark(span{at, at + 1}, sheepdog.Stamp{Token: 1, Seq: seq})
	}
}
