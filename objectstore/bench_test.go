package objectstore

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync/atomic"
	"testing"

	"sheepdog"
)

const benchObjects = 128 // of 4 MiB

func benchStore(b *testing.B) *Disk {
	b.Helper()
	return openDisk(b, Options{}).d
}

func benchWrite(b *testing.B, workers int, flush bool) {
	d := benchStore(b)
	var seq atomic.Uint64
	b.SetBytes(blockSize)
	b.SetParallelism(max(workers/2, 1))
	b.ReportAllocs()
	one := func(r *rand.Rand, buf []byte, errs []error, op []sheepdog.Op) {
		op[0] = sheepdog.Op{
			Object: sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(r.IntN(benchObjects))}, Layer: 1,
			Start: sheepdog.BlockNo(r.IntN(1024)), Count: 1, Data: buf, Stamp: sheepdog.Stamp{Token: 1, Seq: seq.Add(1)},
		}
		d.Write(op, errs)
		if errs[0] != nil {
			b.Error(errs[0])
		}
		if flush {
			if err := d.Flush(); err != nil {
				b.Error(err)
			}
		}
	}
	b.ResetTimer()
	if workers == 1 {
		r := rand.New(rand.NewPCG(1, 1))
		buf, errs, op := make([]byte, blockSize), make([]error, 1), make([]sheepdog.Op, 1)
		for b.Loop() {
			one(r, buf, errs, op)
		}
		return
	}
	b.RunParallel(func(pb *testing.PB) {
		r := rand.New(rand.NewPCG(1, seq.Add(1)))
		buf, errs, op := make([]byte, blockSize), make([]error, 1), make([]sheepdog.Op, 1)
		for pb.Next() {
			one(r, buf, errs, op)
		}
	})
}

func BenchmarkWrite4K(b *testing.B) {
	b.Run("1", func(b *testing.B) { benchWrite(b, 1, false) })
	b.Run("16", func(b *testing.B) { benchWrite(b, 16, false) })
}

func BenchmarkWriteFlush4K(b *testing.B) {
	b.Run("1", func(b *testing.B) { benchWrite(b, 1, true) })
	b.Run("16", func(b *testing.B) { benchWrite(b, 16, true) })
}

// BenchmarkWriteBatch4K is what a gateway under load sends: 16 writes a call.
func BenchmarkWriteBatch4K(b *testing.B) {
	d := benchStore(b)
	r := rand.New(rand.NewPCG(1, 1))
	buf, ops, errs := make([]byte, blockSize), make([]sheepdog.Op, 16), make([]error, 16)
	b.SetBytes(16 * blockSize)
	b.ReportAllocs()
	for seq := uint64(1); b.Loop(); seq++ {
		for i := range ops {
			ops[i] = sheepdog.Op{
				Object: sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(r.IntN(benchObjects))}, Layer: 1,
				Start: sheepdog.BlockNo(r.IntN(1024)), Count: 1, Data: buf, Stamp: sheepdog.Stamp{Token: 1, Seq: seq},
			}
		}
		d.Write(ops, errs)
	}
}

func BenchmarkWrite1M(b *testing.B) {
	d := benchStore(b)
	buf, errs := make([]byte, 1<<20), make([]error, 1)
	b.SetBytes(1 << 20)
	for seq := uint64(1); b.Loop(); seq++ {
		d.Write([]sheepdog.Op{{
			Object: sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(seq / 4 % benchObjects)}, Layer: 1,
			Start: sheepdog.BlockNo(seq % 4 * 256), Count: 256, Data: buf, Stamp: sheepdog.Stamp{Token: 1, Seq: seq},
		}}, errs)
		if errs[0] != nil {
			b.Fatal(errs[0])
		}
	}
}

func BenchmarkRead(b *testing.B) {
	d := benchStore(b)
	buf, errs := make([]byte, 4<<20), make([]error, 1)
	for i := range benchObjects {
		d.Write([]sheepdog.Op{{Object: sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(i)}, Layer: 1, Count: 1024, Data: buf, Stamp: sheepdog.Stamp{Token: 1, Seq: 1}}}, errs)
		if errs[0] != nil {
			b.Fatal(errs[0])
		}
	}
	for name, blocks := range map[string]int{"4K": 1, "1M": 256} {
		b.Run(name, func(b *testing.B) {
			r := rand.New(rand.NewPCG(1, 1))
			buf, states := make([]byte, blocks*blockSize), make([]sheepdog.BlockState, blocks)
			chain := []sheepdog.LayerID{2, 1}
			b.SetBytes(int64(len(buf)))
			b.ReportAllocs()
			for b.Loop() {
				obj := sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(r.IntN(benchObjects))}
				if err := d.Read(obj, chain, sheepdog.BlockNo(r.IntN(1024/blocks)*blocks), uint32(blocks), buf, states); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkAppendOver writes records over a segment that the host has in memory in pieces
// of different sizes, and begins their write-back as the log does: why zeroPiece is what it is.
func BenchmarkAppendOver(b *testing.B) {
	const size = 32 << 20
	for _, piece := range []int{4 << 10, 16 << 10, zeroPiece, 256 << 10, 1 << 20} {
		for _, blocks := range []int{2, 9} {
			b.Run(fmt.Sprintf("%dK/%d", piece>>10, blocks), func(b *testing.B) { benchAppendOver(b, size, piece, blocks*blockSize) })
		}
	}
}

func benchAppendOver(b *testing.B, size int64, piece, record int) {
	opened, err := hostFiles{}.Open(filepath.Join(b.TempDir(), "f"))
	if err != nil {
		b.Fatal(err)
	}
	defer opened.Close()
	f := opened.(hostFile)
	if _, err := f.Reserve(size); err != nil {
		b.Fatal(err)
	}
	for off, p := int64(0), make([]byte, piece); off < size; off += int64(piece) {
		if _, err := f.WriteAt(p, off); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	p := make([]byte, record)
	begun, off := int64(blockSize), int64(blockSize)
	b.SetBytes(int64(record))
	for b.Loop() {
		if off+int64(record) > size {
			begun, off = blockSize, blockSize
		}
		if _, err := f.WriteAt(p, off); err != nil {
			b.Fatal(err)
		}
		if off += int64(record); off-begun >= behindBlocks*blockSize {
			f.beginWrite(begun, off-begun)
			begun = off
		}
	}
}
