package objectstore

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"sheepdog"
	"sheepdog/objectstore/storetest"
)

// crashes multiplies the rounds of the crash tests.
var crashes = flag.Int("crashes", 1, "how much to crash: 10 takes a minute")

// crashRig runs a store on simulated files, and knows what it may hold.
type crashRig struct {
	t     *testing.T
	r     *rand.Rand
	files *simFiles
	meta  *fakeMeta
	opts  Options
	d     *Disk
	seq   uint64
	moved uint64 // bytes that were defragmented
	// may is what each block may hold: the last durable value first, then the
	// values since. A nil value means absent.
	may map[rigBlock][][]byte
	// unsure are blocks of writes that failed: they may or may not have been done.
	unsure map[rigBlock]bool
	second string // a disk that is plugged and unplugged; empty: none
	// trace is what was done, for when it goes wrong.
	trace []rigStep
}

type rigStep struct {
	what string
	on   func(rigBlock) bool
}

func (g *crashRig) tell(what string, on func(rigBlock) bool) {
	g.trace = append(g.trace, rigStep{fmt.Sprintf("%s (applied %d, durable %d)", what, g.d.journal.applied.Load(), g.d.journal.durable.Load()), on})
}

func (g *crashRig) story(b rigBlock) string {
	var out bytes.Buffer
	for _, s := range g.trace {
		on := s.on == nil
		for l := sheepdog.LayerID(1); l <= rigLayers && !on; l++ { // merges move blocks
			on = s.on(rigBlock{l, b.obj, b.no})
		}
		if on {
			fmt.Fprintln(&out, " ", s.what)
		}
	}
	return out.String()
}

type rigBlock struct {
	layer sheepdog.LayerID
	obj   sheepdog.ObjectID
	no    sheepdog.BlockNo
}

const (
	rigObjects = 4
	rigBlocks  = 200
	rigLayers  = 3
)

func newCrashRig(t *testing.T, seed uint64) *crashRig {
	g := &crashRig{t: t, r: rand.New(rand.NewPCG(seed, 1)), files: newSimFiles(), meta: newFakeMeta(), may: make(map[rigBlock][][]byte), unsure: make(map[rigBlock]bool)}
	g.opts = Options{Meta: t.TempDir(), LogBytes: 1 << 20, MapCacheBytes: 1 << 20, ExtentFileBytes: 4 << 20, ReserveBytes: 1 << 20,
		Logger: quiet(), files: g.files, openMeta: g.meta.open, headerSlack: 1, DestageEvery: time.Hour}
	g.open()
	return g
}

func (g *crashRig) open() {
	g.t.Helper()
	var err error
	if g.d, err = Open(g.opts); err != nil {
		g.t.Fatal(err)
	}
}

// abandon stops the engine as a dying process does: nothing is settled.
func (g *crashRig) abandon() {
	g.files.mu.Lock()
	g.files.fault = func(string, string) error { return errDead }
	g.files.mu.Unlock()
	g.meta.mu.Lock()
	g.meta.fault = func() error { return errDead }
	g.meta.mu.Unlock()
	g.d.cancel()
	g.d.done.Wait()
	g.d.lock.Close()
	g.d.closing.Store(true)
	g.files.fault, g.meta.fault = nil, nil
}

func (g *crashRig) randomOp() sheepdog.Op {
	n := []int{1, 1, 2, 5, 15, 16, 40, 130}[g.r.IntN(8)]
	g.seq++
	op := sheepdog.Op{
		Object: sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(g.r.IntN(rigObjects))},
		Layer:  sheepdog.LayerID(1 + g.r.IntN(rigLayers)),
		Start:  sheepdog.BlockNo(g.r.IntN(rigBlocks - n + 1)),
		Count:  uint32(n),
		Stamp:  sheepdog.Stamp{Token: 1, Seq: g.seq},
	}
	if g.r.IntN(6) > 0 {
		op.Data = storetest.Fill(g.seq, n)
	}
	if g.r.IntN(8) == 0 { // an old stamp with force, or a refused one
		op.Stamp.Seq = uint64(g.r.IntN(int(g.seq))) + 1
		op.Force = g.r.IntN(2) == 0
	}
	return op
}

// step does one random thing and notes what it makes possible.
func (g *crashRig) step() error {
	switch k := g.r.IntN(40); {
	case k < 4:
		return g.flush()
	case k == 4:
		layer := sheepdog.LayerID(1 + g.r.IntN(rigLayers))
		return g.changeAll(func() error { return g.d.DropLayer(layer) }, func(b rigBlock) *rigBlock {
			if b.layer == layer {
				return nil
			}
			return &b
		})
	case k == 5:
		return g.merge()
	case k == 6:
		err := g.d.destage(true)
		g.tell(fmt.Sprint("destage: ", err), nil)
		return err
	case k == 7:
		g.d.kick()
		return nil
	case k == 8 && g.second != "":
		return g.swapDisk()
	case k == 9:
		return g.defragment()
	}
	ops := make([]sheepdog.Op, 1+g.r.IntN(3))
	for i := range ops {
		ops[i] = g.randomOp()
	}
	before := g.records(ops)
	errs := make([]error, len(ops))
	g.d.Write(ops, errs)
	for i := range ops {
		g.note(&ops[i], before, errs[i])
		g.tell(fmt.Sprintf("write object %s layer %d blocks %d+%d data %v stamp %d force %v: %v", ops[i].Object, ops[i].Layer, ops[i].Start, ops[i].Count,
			ops[i].Data != nil, ops[i].Stamp.Seq, ops[i].Force, errs[i]), func(b rigBlock) bool {
			return b.layer == ops[i].Layer && b.obj == ops[i].Object && b.no >= ops[i].Start && b.no < ops[i].Start+sheepdog.BlockNo(ops[i].Count)
		})
	}
	return errors.Join(errs...)
}

// defragment destages everything, and moves what lies in short rows.
func (g *crashRig) defragment() error {
	if err := g.d.destage(true); err != nil {
		return err
	}
	m := defragmentation{d: g.d}
	var all []window
	for i := range rigObjects {
		all = append(all, window{obj: sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(i)}})
	}
	n, err := m.move(all)
	g.tell(fmt.Sprintf("defragment: %d bytes, %v", n, err), nil)
	g.moved += n
	return err
}

// swapDisk plugs the second disk in or unplugs one of the two.
func (g *crashRig) swapDisk() error {
	disks, err := g.d.Disks()
	if err != nil {
		return err
	}
	dir := g.second
	if len(disks) == 1 {
		if disks[0].Dir == dir {
			dir = g.opts.Disks[0]
		}
		err = g.d.Plug(dir)
	} else {
		dir = disks[g.r.IntN(2)].Dir
		err = g.d.Unplug(dir)
	}
	g.tell(fmt.Sprintf("swap disk %s of %d: %v", dir, len(disks), err), nil)
	if errors.Is(err, sheepdog.ErrNoSpace) {
		return nil
	}
	return err
}

// stamps of the last values, kept apart from the store's.
type rigStamp struct {
	stamp sheepdog.Stamp
}

func (g *crashRig) records(ops []sheepdog.Op) map[rigBlock]rigStamp {
	out := make(map[rigBlock]rigStamp)
	for _, op := range ops {
		recs := make([]sheepdog.Record, op.Count)
		if err := g.d.Records(op.Object, []sheepdog.LayerID{op.Layer}, op.Start, op.Count, recs); err != nil {
			continue
		}
		for i, r := range recs {
			out[rigBlock{op.Layer, op.Object, op.Start + sheepdog.BlockNo(i)}] = rigStamp{r.Stamp}
		}
	}
	return out
}

func (g *crashRig) note(op *sheepdog.Op, stamps map[rigBlock]rigStamp, err error) {
	for i := range op.Count {
		b := rigBlock{op.Layer, op.Object, op.Start + sheepdog.BlockNo(i)}
		if !op.Force && !stamps[b].stamp.Less(op.Stamp) {
			continue
		}
		v := []byte{}
		if op.Data != nil {
			v = op.Data[int(i)*blockSize:][:blockSize]
		}
		if err == nil {
			stamps[b] = rigStamp{op.Stamp}
		} else {
			g.unsure[b] = true
		}
		g.add(b, v)
	}
}

func (g *crashRig) add(b rigBlock, v []byte) {
	if len(g.may[b]) == 0 {
		g.may[b] = [][]byte{nil}
	}
	g.may[b] = append(g.may[b], v)
}

// flush makes the present value the only one.
func (g *crashRig) flush() error {
	if err := g.d.Flush(); err != nil {
		return err
	}
	g.settle()
	g.tell("flush", nil)
	return nil
}

func (g *crashRig) settle() {
	for b, vs := range g.may {
		if !g.unsure[b] {
			g.may[b] = vs[len(vs)-1:]
		}
	}
}

// changeAll runs a drop, which is durable when it returns.
func (g *crashRig) changeAll(do func() error, to func(rigBlock) *rigBlock) error {
	err := do()
	g.tell(fmt.Sprint("drop: ", err), func(b rigBlock) bool { return to(b) == nil })
	if err == nil {
		g.settle()
	}
	for b := range g.may {
		if to(b) == nil {
			g.add(b, nil)
		}
	}
	if err == nil {
		g.settle()
	}
	return err
}

func (g *crashRig) merge() error {
	from := sheepdog.LayerID(1 + g.r.IntN(rigLayers))
	return g.mergeLayers(from, from%rigLayers+1)
}

func (g *crashRig) mergeLayers(from, into sheepdog.LayerID) error {
	err := g.d.Merge(from, into)
	g.tell(fmt.Sprintf("merge %d into %d: %v", from, into, err), func(b rigBlock) bool { return b.layer == from || b.layer == into })
	if err == nil {
		g.settle()
	}
	var moved []rigBlock
	for b := range g.may {
		if b.layer == from {
			moved = append(moved, b)
		}
	}
	for _, b := range moved {
		to := rigBlock{into, b.obj, b.no}
		if err != nil { // any mixture, per object: keep it simple, allow all of both
			for _, v := range g.may[b] {
				g.add(to, v)
			}
		} else if have := g.may[to]; len(have) == 0 || have[len(have)-1] == nil {
			g.may[to] = slices.Clone(g.may[b])
		}
		g.add(b, nil)
	}
	if err == nil {
		g.settle()
	}
	return err
}

// verify reads everything; only values that are possible may show, and no block
// may be bad. What is there now becomes the only possibility.
func (g *crashRig) verify(when string) {
	g.t.Helper()
	g.tell(when, nil)
	buf, states := make([]byte, rigBlocks*blockSize), make([]sheepdog.BlockState, rigBlocks)
	for layer := sheepdog.LayerID(1); layer <= rigLayers; layer++ {
		for i := range rigObjects {
			obj := sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(i)}
			if err := g.d.Read(obj, []sheepdog.LayerID{layer}, 0, rigBlocks, buf, states); err != nil {
				var bad *sheepdog.BadBlocksError
				story := ""
				if errors.As(err, &bad) {
					slots, _ := g.d.resolve(obj, []sheepdog.LayerID{layer}, bad.Blocks[0], 1, nil)
					story = fmt.Sprintf("layer %d blocks %v, the first at %s:\n%s", layer, bad.Blocks, slots[0].at, g.story(rigBlock{layer, obj, bad.Blocks[0]}))
				}
				g.t.Fatalf("%s: %v %s", when, err, story)
			}
			for at := 0; at+maxPrompt <= rigBlocks; at += maxPrompt {
				checkPrompt(g.t, g.d, obj, []sheepdog.LayerID{layer}, sheepdog.BlockNo(at), buf[at*blockSize:][:maxPrompt*blockSize], states[at:][:maxPrompt], nil)
			}
			for no, st := range states {
				g.verifyBlock(when, rigBlock{layer, obj, sheepdog.BlockNo(no)}, st, buf[no*blockSize:][:blockSize])
			}
		}
	}
	g.checkDigests(when)
	g.checkSpace(when)
}

func (g *crashRig) verifyBlock(when string, b rigBlock, st sheepdog.BlockState, got []byte) {
	g.t.Helper()
	var v []byte
	switch st {
	case sheepdog.Zero:
		v = []byte{}
	case sheepdog.Data:
		v = bytes.Clone(got)
	}
	if len(g.may[b]) == 0 && v == nil {
		return
	}
	for _, m := range g.may[b] {
		if (m == nil) == (v == nil) && bytes.Equal(m, v) {
			g.may[b] = [][]byte{v}
			delete(g.unsure, b)
			return
		}
	}
	g.t.Fatalf("%s: object %s layer %d block %d holds state %d, which is none of %d possible values; the block's story:\n%s",
		when, b.obj, b.layer, b.no, st, len(g.may[b]), g.story(b))
}

// checkDigests compares the digests of List with the records.
func (g *crashRig) checkDigests(when string) {
	g.t.Helper()
	listed := make(map[objectKey]uint64)
	if err := g.d.List(sheepdog.ListEntry{}, nil, func(e sheepdog.ListEntry) bool {
		listed[objectKey{e.Object, e.Layer}] = e.Digest
		return true
	}); err != nil {
		g.t.Fatal(err)
	}
	for layer := sheepdog.LayerID(1); layer <= rigLayers; layer++ {
		for i := range rigObjects {
			obj := sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(i)}
			recs := make([]sheepdog.Record, rigBlocks)
			if err := g.d.Records(obj, []sheepdog.LayerID{layer}, 0, rigBlocks, recs); err != nil {
				g.t.Fatal(err)
			}
			want, present := uint64(0), false
			for no, r := range recs {
				if r.State != sheepdog.Absent {
					want ^= mixRecord(sheepdog.BlockNo(no), r)
					present = true
				}
			}
			if got, ok := listed[objectKey{obj, layer}]; ok != present || got != want {
				g.t.Fatalf("%s: object %s layer %d: listed %v with %x, its records say %v with %x", when, obj, layer, ok, got, present, want)
			}
		}
	}
}

// checkSpace destages everything and compares the space in use with the maps:
// nothing leaks, nothing is free that a map points to.
func (g *crashRig) checkSpace(when string) {
	g.t.Helper()
	for range 2 {
		if err := g.d.destage(true); err != nil {
			g.t.Fatalf("%s: destage: %v", when, err)
		}
	}
	live := uint64(0)
	err := eachChunk(g.d.meta, func(_ objectKey, _ uint32, value []byte) (bool, error) {
		var c chunk
		if err := c.decode(value); err != nil {
			return false, err
		}
		for i := range chunkBlocks {
			if c.at(i).state == sheepdog.Data {
				live++
			}
		}
		return true, nil
	})
	if err != nil {
		g.t.Fatal(err)
	}
	if used := g.d.volumes.usedBlocks(); used != live {
		g.t.Fatalf("%s: %d blocks are in use, the maps have %d", when, used, live)
	}
}

// TestPowerLoss cuts the power at a random operation, loses a random part of
// what was not synced, and looks for flushed data.
func TestPowerLoss(t *testing.T) {
	for seed := range uint64(6 * *crashes) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			g := newCrashRig(t, seed)
			for round := range 6 {
				g.runUntilDead(1 + g.r.IntN(150))
				g.abandon()
				g.files.losePower(g.r)
				g.open()
				g.verify(fmt.Sprintf("seed %d round %d", seed, round))
			}
			if err := g.d.Close(); err != nil {
				t.Fatal(err)
			}
			g.open()
			g.verify("after a clean close")
			g.abandon()
		})
	}
}

// TestPowerLossWhileDisksChange is TestPowerLoss with disks that are plugged and
// unplugged.
func TestPowerLossWhileDisksChange(t *testing.T) {
	for seed := range uint64(8 * *crashes) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			g := newCrashRig(t, 5000+seed)
			g.second = filepath.Join(g.opts.Meta, "b")
			g.opts.Disks = []string{filepath.Join(g.opts.Meta, "obj")}
			for round := range 6 {
				g.runUntilDead(1 + g.r.IntN(300))
				g.abandon()
				g.files.losePower(g.r)
				g.open()
				g.verify(fmt.Sprintf("seed %d round %d", 5000+seed, round))
			}
			g.abandon()
		})
	}
}

// beforeAll has fail asked before every file operation and commit, by one at a time. It
// returns how many file operations there were before.
func (g *crashRig) beforeAll(fail func() error) (ops int) {
	g.files.mu.Lock()
	g.files.fault = func(string, string) error { return fail() }
	ops = g.files.ops
	g.files.mu.Unlock()
	g.meta.mu.Lock()
	g.meta.fault = func() error {
		g.files.mu.Lock()
		defer g.files.mu.Unlock()
		return fail()
	}
	g.meta.mu.Unlock()
	return ops
}

// runUntilDead works until the n-th file operation, which tears.
func (g *crashRig) runUntilDead(n int) {
	g.files.mu.Lock()
	end := g.files.ops + n
	var dead atomic.Bool
	g.files.fault = func(string, string) error {
		if g.files.ops >= end {
			dead.Store(true)
			return errDead
		}
		return nil
	}
	g.files.mu.Unlock()
	if g.second != "" {
		// With one disk a dead sync keeps every commit back. With two, one without
		// anything to sync would not notice, and maps of lost data be committed.
		g.meta.mu.Lock()
		g.meta.fault = func() error {
			if dead.Load() {
				return errDead
			}
			return nil
		}
		g.meta.mu.Unlock()
	}
	for range 400 {
		if err := g.step(); err != nil {
			return
		}
	}
}

// TestProcessDeath kills the process at a random operation or commit: whatever
// was acknowledged is there.
func TestProcessDeath(t *testing.T) {
	for seed := range uint64(4 * *crashes) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			g := newCrashRig(t, 1000+seed)
			for round := range 6 {
				commits := g.r.IntN(12)
				g.meta.mu.Lock()
				g.meta.fault = func() error {
					if commits--; commits < 0 {
						return errDead
					}
					return nil
				}
				g.meta.mu.Unlock()
				for range 100 {
					if err := g.step(); err != nil {
						break
					}
					g.settle() // acknowledged is enough
				}
				g.abandon()
				g.open()
				g.verify(fmt.Sprintf("seed %d round %d", 1000+seed, round))
			}
			g.abandon()
		})
	}
}
