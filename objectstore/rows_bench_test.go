package objectstore

import (
	"math/rand/v2"
	"testing"

	"sheepdog"
)

// BenchmarkReadLong reads MiBs of objects that were written in sequence, and of such that
// were written again at random, block by block, three times over, before and after they
// were moved to long rows.
func BenchmarkReadLong(b *testing.B) {
	const objects = 64 // of 4 MiB
	for _, name := range []string{"sequence", "random", "moved"} {
		b.Run(name, func(b *testing.B) {
			d := benchStore(b)
			r := rand.New(rand.NewPCG(1, 1))
			buf, errs, seq := make([]byte, 4<<20), make([]error, 1), uint64(0)
			write := func(index, start, n int) {
				seq++
				d.Write([]sheepdog.Op{{Object: sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(index)}, Layer: 1, Start: sheepdog.BlockNo(start), Count: uint32(n), Data: buf[:n*blockSize], Stamp: sheepdog.Stamp{Token: 1, Seq: seq}}}, errs)
				if errs[0] != nil {
					b.Fatal(errs[0])
				}
			}
			for i := range objects {
				write(i, 0, 1024)
			}
			if name != "sequence" {
				for range 3 * objects * 1024 {
					write(r.IntN(objects), r.IntN(1024), 1)
				}
			}
			if err := d.destage(true); err != nil {
				b.Fatal(err)
			}
			if name == "moved" {
				m := defragmentation{d: d}
				for i := range objects * 4 {
					w := window{obj: sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(i / 4)}, start: sheepdog.BlockNo(i % 4 * 256)}
					if n, err := m.move([]window{w}); n != windowBlocks*blockSize || err != nil {
						b.Fatal(n, err)
					}
				}
			}
			states := make([]sheepdog.BlockState, 256)
			buf = buf[:256*blockSize]
			b.SetBytes(int64(len(buf)))
			i, before := 0, cpuTime(b)
			for b.Loop() {
				if err := d.Read(sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(i / 4 % objects)}, []sheepdog.LayerID{1}, sheepdog.BlockNo(i%4*256), 256, buf, states); err != nil {
					b.Fatal(err)
				}
				i++
			}
			b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(i), "cpu-us/op")
		})
	}
}
