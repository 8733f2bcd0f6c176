package objectstore

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"sheepdog"
)

// scatter writes an object of 512 blocks, half of it in a row, half at random, and has
// some of that in extents, some in the log. It returns the bytes.
func scatter(t testing.TB, d *Disk, rnd *rand.Rand) []byte {
	t.Helper()
	const blocks = 512
	want, seq := make([]byte, blocks*blockSize), uint64(0)
	write := func(start, n int, zero bool) {
		seq++
		part := want[start*blockSize:][:n*blockSize]
		op := sheepdog.Op{Object: sheepdog.ObjectID{Family: 1}, Layer: 1, Start: sheepdog.BlockNo(start), Count: uint32(n), Stamp: sheepdog.Stamp{Token: 1, Seq: seq}}
		if clear(part); !zero {
			for i := range part {
				part[i] = byte(rnd.Uint32())
			}
			op.Data = part
		}
		mustWrite(t, d, op)
	}
	write(0, blocks, false)
	for round := range 3 {
		for range 150 {
			write(blocks/2+rnd.IntN(blocks/2-4), 1+rnd.IntN(4), rnd.IntN(10) == 0)
		}
		if round < 2 {
			if err := d.destage(true); err != nil {
				t.Fatal(err)
			}
		}
	}
	return want
}

// What a read gets does not depend on which of the blocks the host has in memory.
func TestReadIsTheSameFromMemoryAndDisk(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	files := newSimFiles()
	u := openDisk(t, Options{files: files, openMeta: openFakeMeta})
	want := scatter(t, u.d, rnd)
	chain := []sheepdog.LayerID{1}
	for name, cold := range map[string]func() bool{
		"memory": func() bool { return false },
		"disk":   func() bool { return true },
		"both":   func() bool { return rnd.IntN(2) == 0 },
	} {
		files.cold = cold
		for range 200 {
			start := rnd.IntN(500)
			n := 1 + rnd.IntN(512-start)
			buf, states := bytes.Repeat([]byte{0xa5}, n*blockSize), make([]sheepdog.BlockState, n)
			if err := u.d.Read(sheepdog.ObjectID{Family: 1}, chain, sheepdog.BlockNo(start), uint32(n), buf, states); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(buf, want[start*blockSize:][:n*blockSize]) {
				t.Errorf("%s: %d blocks from %d are not what was written", name, n, start)
			}
		}
	}
}

// Rot and blocks that a disk does not give are told, and nothing else is, wherever they
// are in a long read.
func TestLongReadNamesBadBlocks(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	files := newSimFiles()
	u := openDisk(t, Options{files: files, openMeta: openFakeMeta})
	want := scatter(t, u.d, rnd)
	obj, chain := sheepdog.ObjectID{Family: 1}, []sheepdog.LayerID{1}
	slots, err := u.d.resolve(obj, chain, 0, 512, nil)
	if err != nil {
		t.Fatal(err)
	}
	var bad []sheepdog.BlockNo
	files.unreadable = make(map[int64]bool)
	for _, i := range []int{0, 15, 16, 17, 100, 255, 300, 350, 400, 450, 511} {
		if slots[i].state != sheepdog.Data {
			continue
		}
		bad = append(bad, sheepdog.BlockNo(i))
		clear(want[i*blockSize:][:blockSize])
		if slots[i].at.isExtent() && i%2 == 0 {
			files.unreadable[int64(slots[i].at.block())] = true
			continue
		}
		f, off := u.d.fileOf(slots[i].at)
		if _, err := f.WriteAt([]byte("rot"), off+int64(i)); err != nil {
			t.Fatal(err)
		}
	}
	for _, cold := range []func() bool{nil, func() bool { return true }, func() bool { return rnd.IntN(2) == 0 }} {
		files.cold = cold
		buf, states := make([]byte, 512*blockSize), make([]sheepdog.BlockState, 512)
		var told *sheepdog.BadBlocksError
		if err := u.d.Read(obj, chain, 0, 512, buf, states); !errors.As(err, &told) || !slices.Equal(told.Blocks, bad) {
			t.Errorf("%v; want the blocks %v", err, bad)
		}
		if !bytes.Equal(buf, want) {
			t.Error("other blocks are not what was written, or bad ones are not zeros")
		}
	}
}
