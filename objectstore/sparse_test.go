package objectstore

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

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
	began := cpuTime(b)
	for seq := uint64(1 << 32); b.Loop(); seq++ {
		for i := range ops {
			ops[i] = sheepdog.Op{Object: sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(r.IntN(objects))}, Layer: 1,
				Count: 1, Data: buf, Stamp: sheepdog.Stamp{Token: 4, Seq: seq}}
		}
		d.Write(ops, errs)
	}
	b.ReportMetric(float64((cpuTime(b)-began).Nanoseconds())/1e3/float64(len(ops)*b.N), "cpu-us/write")
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

// BenchmarkLapSparse is WriteSparse in laps of equal length: writes up to where a destage
// would be asked for, and the destage.
func BenchmarkLapSparse(b *testing.B) {
	objects := sparseObjects(b)
	d := openDisk(b, Options{DestageEvery: time.Hour}).d
	sparse(b, d, objects)
	r := rand.New(rand.NewPCG(1, 1))
	buf, ops, errs := make([]byte, blockSize), make([]sheepdog.Op, 8), make([]error, 8)
	writes, seq := 0, uint64(1<<32)
	lap := func() (writing, destaging time.Duration) {
		began := cpuTime(b)
		for d.journal.segments() < d.journal.maxSegs/2-1 {
			for i := range ops {
				ops[i] = sheepdog.Op{Object: sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(r.IntN(objects))}, Layer: 1,
					Count: 1, Data: buf, Stamp: sheepdog.Stamp{Token: 4, Seq: seq}}
			}
			d.Write(ops, errs)
			writes += len(ops)
			seq++
		}
		written := cpuTime(b)
		if err := d.destage(false); err != nil {
			b.Fatal(err)
		}
		return written - began, cpuTime(b) - written
	}
	lap()
	writes = 0
	var writing, destaging time.Duration
	for b.Loop() {
		w, s := lap()
		writing, destaging = writing+w, destaging+s
	}
	b.ReportMetric(float64(writing.Nanoseconds())/1e3/float64(writes), "cpu-us/write")
	b.ReportMetric(float64(destaging.Nanoseconds())/1e3/float64(writes), "cpu-us/destaged")
}
