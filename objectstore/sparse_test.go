package objectstore

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"sheepdog"
)

// sparseObjects is how many objects benchmarks of sparse disks have; OBJECTS overrides it.
func sparseObjects(b testing.TB) int {
	b.Helper()
	n, err := strconv.Atoi(os.Getenv("OBJECTS"))
	if err != nil {
		n = 1 << 16
	}
	return n
}

// BenchmarkWriteSparse overwrites the block of random objects that have only one, 8
// writes a call, with what destages cost.
func BenchmarkWriteSparse(b *testing.B) {
	objects := sparseObjects(b)
	d := openDisk(b, Options{}).d
	sparse(b, d, objects)
	r := rand.New(rand.NewPCG(1, 1))
	buf, ops, errs := make([]byte, blockSize), make([]sheepdog.Op, 8), make([]error, 8)
	b.ReportAllocs()
	for seq := uint64(1 << 32); b.Loop(); seq++ {
		for i := range ops {
			ops[i] = sheepdog.Op{Object: sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(r.IntN(objects))}, Layer: 1,
				Count: 1, Data: buf, Stamp: sheepdog.Stamp{Token: 4, Seq: seq}}
		}
		d.Write(ops, errs)
	}
}

// BenchmarkDropSparse drops a layer of objects with one block each.
func BenchmarkDropSparse(b *testing.B) {
	objects := sparseObjects(b)
	for range b.N {
		b.StopTimer()
		d := openDisk(b, Options{}).d
		sparse(b, d, objects)
		b.StartTimer()
		if err := d.DropLayer(1); err != nil {
			b.Fatal(err)
		}
		if err := d.destage(true); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(objects*b.N), "us/object")
	}
}
