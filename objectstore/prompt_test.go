package objectstore

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"sheepdog"
	"sheepdog/internal/rawio"
)

// checkPrompt wants TryRead to read what Read did, or nothing.
func checkPrompt(t testing.TB, e sheepdog.Engine, obj sheepdog.ObjectID, chain []sheepdog.LayerID, start sheepdog.BlockNo, buf []byte, states []sheepdog.BlockState, err error) (took bool) {
	t.Helper()
	d, ok := e.(sheepdog.PromptEngine)
	if !ok {
		return false
	}
	n := uint32(len(states))
	got, gotStates := make([]byte, len(buf)), make([]sheepdog.BlockState, n)
	if !d.TryRead(obj, chain, start, n, got, gotStates) {
		return false
	}
	if err != nil {
		t.Errorf("object %s: TryRead reads where Read fails with %v", obj, err)
	}
	if !bytes.Equal(got, buf) || !slices.Equal(gotStates, states) {
		t.Errorf("object %s: TryRead reads something else than Read", obj)
	}
	return true
}

// needPrompt skips where the host cannot tell what is in memory.
func needPrompt(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "probe"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	if !rawio.TryReadAt(f.Fd(), make([]byte, 4096), 0) {
		t.Skip("this file system, kernel or build (race detector) has no reads that do not wait")
	}
	if rawio.TryReadAt(f.Fd(), make([]byte, 8192), 0) {
		t.Error("a short read counts as a read")
	}
}

// Blocks in the log and in extents, zeros, absent blocks, other layers: TryRead has
// all of it while it is in memory, and nothing that is rotten or not loaded.
func TestTryReadIsRead(t *testing.T) {
	u := openDisk(t, Options{})
	needPrompt(t, t.TempDir())
	obj := sheepdog.ObjectID{Family: 1, Index: 0}
	rnd := rand.New(rand.NewPCG(3, 4))
	seq := uint64(0)
	fill := func() {
		for range 300 {
			seq++
			op := sheepdog.Op{Object: obj, Layer: sheepdog.LayerID(1 + rnd.IntN(2)), Start: sheepdog.BlockNo(rnd.IntN(200)), Count: uint32(1 + rnd.IntN(20)), Stamp: sheepdog.Stamp{Token: 1, Seq: seq}}
			if rnd.IntN(5) > 0 {
				op.Data = bytes.Repeat([]byte{byte(seq)}, int(op.Count)*blockSize)
			}
			mustWrite(t, u.d, op)
		}
	}
	chain := []sheepdog.LayerID{2, 1}
	read := func() (took int) {
		for range 100 {
			start, n := sheepdog.BlockNo(rnd.IntN(230)), 1+rnd.IntN(maxPrompt)
			buf, states := make([]byte, n*blockSize), make([]sheepdog.BlockState, n)
			err := u.d.Read(obj, chain, start, uint32(n), buf, states)
			if checkPrompt(t, u.d, obj, chain, start, buf, states, err) {
				took++
			}
		}
		return took
	}
	fill()
	if n := read(); n != 100 {
		t.Errorf("%d of 100 reads of the log were prompt", n)
	}
	if err := u.d.destage(true); err != nil {
		t.Fatal(err)
	}
	if n := read(); n != 100 {
		t.Errorf("%d of 100 reads of extents were prompt", n)
	}
	fill()
	read()
	u.Reopen(t)
	one, state := make([]byte, blockSize), make([]sheepdog.BlockState, 1)
	if u.d.TryRead(sheepdog.ObjectID{Family: 1, Index: 7}, chain, 0, 1, one, state) && state[0] != sheepdog.Absent { // it may know by now that there is none
		t.Error("it reads what is not there")
	}
	if n := read(); n == 0 {
		t.Error("nothing was prompt after a restart")
	}
	if u.d.TryRead(obj, chain, 0, maxPrompt+1, make([]byte, (maxPrompt+1)*blockSize), make([]sheepdog.BlockState, maxPrompt+1)) {
		t.Error("a long read was taken")
	}
	if n := testing.AllocsPerRun(100, func() { u.d.TryRead(obj, chain, 0, 1, one, state) }); n > 1 {
		t.Errorf("%v allocations for a read", n)
	}
}

// Rot is left to Read, which names the block.
func TestTryReadLeavesRotToRead(t *testing.T) {
	files := newSimFiles()
	u := openDisk(t, Options{files: files, openMeta: openFakeMeta})
	obj := sheepdog.ObjectID{Family: 1, Index: 0}
	mustWrite(t, u.d, dataOp(0, 1, 0, bytes.Repeat([]byte{7}, blockSize), 1))
	buf, states := make([]byte, blockSize), make([]sheepdog.BlockState, 1)
	chain := []sheepdog.LayerID{1}
	if !u.d.TryRead(obj, chain, 0, 1, buf, states) || buf[0] != 7 {
		t.Fatalf("a good block was not read: %d", buf[0])
	}
	p, err := u.d.load(obj)
	if err != nil {
		t.Fatal(err)
	}
	f, off := u.d.fileOf(p.find(1).slot(0).at)
	u.d.cache.unpin(p)
	if _, err := f.WriteAt([]byte{8}, off+100); err != nil {
		t.Fatal(err)
	}
	if u.d.TryRead(obj, chain, 0, 1, buf, states) {
		t.Error("a rotten block was read")
	}
	checkPrompt(t, u.d, obj, chain, 0, buf, states, u.d.Read(obj, chain, 0, 1, buf, states))
}

func BenchmarkTryRead(b *testing.B) {
	d := benchStore(b)
	obj := sheepdog.ObjectID{Family: 1, Index: 0}
	mustWrite(b, d, dataOp(0, 1, 0, make([]byte, blockSize), 1))
	buf, states := make([]byte, blockSize), make([]sheepdog.BlockState, 1)
	b.ReportAllocs()
	b.SetBytes(blockSize)
	for range b.N {
		if !d.TryRead(obj, []sheepdog.LayerID{1}, 0, 1, buf, states) {
			b.Skip("not at hand on this file system")
		}
	}
}
