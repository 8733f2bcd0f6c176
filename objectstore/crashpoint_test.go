package objectstore

import (
	"fmt"
	"path/filepath"
	"testing"

	"sheepdog"
	"sheepdog/objectstore/storetest"
)

// crashScript is what a store does until it dies; it ends with an error then. Without a
// loss of power, what was acknowledged is all that may be there.
type crashScript struct {
	name  string
	disks []string // in Meta; empty: one
	run   func(g *crashRig, power bool) error
}

// TestCrashAtEveryOperation runs scripts - all steps of the log's life, guests that
// trim and write zeroes, disks that are unplugged and plugged - once for every file
// operation and commit of them, and dies there: by the death of the process, after
// which everything acknowledged is there, and by the loss of power, after which
// everything flushed is.
func TestCrashAtEveryOperation(t *testing.T) {
	for _, script := range []crashScript{
		{"log", nil, (*crashRig).lifeOfTheLog},
		{"zeroes", nil, (*crashRig).lifeOfZeroes},
		{"rows", nil, (*crashRig).lifeOfRows},
		{"disks", []string{"obj", "b"}, (*crashRig).lifeOfDisks},
	} {
		for _, power := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/power=%v", script.name, power), func(t *testing.T) {
				t.Parallel()
				for n := 1; ; n++ {
					if !crashAt(t, script, n, power) {
						t.Logf("%d operations", n-1)
						return
					}
				}
			})
		}
	}
}

// crashAt reports whether the script has an n-th operation, at which it died.
func crashAt(t *testing.T, script crashScript, n int, power bool) (hit bool) {
	g := newCrashRig(t, uint64(n))
	if script.disks != nil {
		g.abandon()
		for _, dir := range script.disks {
			g.opts.Disks = append(g.opts.Disks, filepath.Join(g.opts.Meta, dir))
		}
		g.open()
	}
	count := 0
	fail := func() error {
		if count++; count >= n {
			hit = true
			return errDead
		}
		return nil
	}
	g.beforeAll(fail)
	if err := script.run(g, power); (err != nil) != hit {
		t.Fatalf("operation %d was reached: %v; the script ended with %v", n, hit, err)
	}
	g.abandon()
	if power {
		g.files.losePower(g.r)
	}
	g.open()
	g.verify(fmt.Sprintf("died at operation %d, power loss %v", n, power))
	if err := g.d.Close(); err != nil {
		t.Fatal(err)
	}
	return hit
}

// writes makes steps that write, or zero, so many blocks with a stamp that rises.
func (g *crashRig) writes(power bool) (write, zero func(index sheepdog.Index, layer sheepdog.LayerID, start sheepdog.BlockNo, blocks int) func() error) {
	step := func(op sheepdog.Op) error {
		before := g.records([]sheepdog.Op{op})
		err := writeOne(g.d, op)
		g.note(&op, before, err)
		if err == nil && !power {
			g.settle()
		}
		return err
	}
	write = func(index sheepdog.Index, layer sheepdog.LayerID, start sheepdog.BlockNo, blocks int) func() error {
		return func() error {
			g.seq++
			return step(dataOp(index, layer, start, storetest.Fill(g.seq, blocks), g.seq))
		}
	}
	zero = func(index sheepdog.Index, layer sheepdog.LayerID, start sheepdog.BlockNo, blocks int) func() error {
		return func() error {
			g.seq++
			return step(zeroOp(index, layer, start, blocks, g.seq))
		}
	}
	return write, zero
}

func (g *crashRig) steps(all ...func() error) error {
	for _, step := range all {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (g *crashRig) seal() error    { g.d.journal.seal(); return nil }
func (g *crashRig) destage() error { return g.d.destage(true) }

// lifeOfZeroes trims parts and all of what is in extents and in the log, what is not
// there, and what was trimmed; the space is given back and used again.
func (g *crashRig) lifeOfZeroes(power bool) error {
	write, zero := g.writes(power)
	return g.steps(
		write(0, 1, 0, 40), write(0, 1, 100, 3), write(1, 1, 0, 20), g.flush,
		zero(0, 1, 5, 10), zero(0, 1, 101, 1), zero(2, 1, 0, 50), // of an extent, of the log, of nothing
		g.seal, g.destage, g.flush,
		zero(1, 1, 0, 200), write(0, 1, 7, 2), g.seal, g.destage, // a whole object, whose extent is free then
		write(3, 2, 0, 20), zero(0, 1, 0, 200), write(0, 1, 30, 1), g.flush, zero(0, 1, 0, 200), // again and again
		g.reopen,
		write(1, 2, 10, 17), zero(1, 2, 12, 17), func() error { return g.mergeLayers(1, 2) }, // zeroes hide what was merged
		g.seal, g.destage, write(2, 3, 0, 30), zero(2, 3, 29, 5), g.reopen)
}

// lifeOfRows writes what was written in sequence again in other orders, and moves it side
// by side, with writes, zeroes, merges and drops in between that use the space again.
func (g *crashRig) lifeOfRows(power bool) error {
	write, zero := g.writes(power)
	scatter := func(index sheepdog.Index, layer sheepdog.LayerID, by int) func() error {
		return func() error {
			for i := range 40 {
				if err := write(index, layer, sheepdog.BlockNo(i*by%40), 1)(); err != nil {
					return err
				}
				if i%14 == 13 { // what is destaged at once is in order
					if err := g.destage(); err != nil {
						return err
					}
				}
			}
			return nil
		}
	}
	moves := func() error {
		before := g.moved
		err := g.defragment()
		if err == nil && g.moved == before {
			g.t.Error("the script moves nothing")
		}
		return err
	}
	return g.steps(
		write(0, 1, 0, 40), g.flush, scatter(0, 1, 7), g.seal, moves,
		write(0, 1, 3, 17), zero(0, 1, 30, 2), write(2, 2, 0, 40), g.flush, // where the old places were
		scatter(0, 1, 13), moves, write(2, 2, 0, 40), g.reopen,
		func() error { return g.mergeLayers(1, 2) }, g.destage, write(3, 3, 0, 40), g.flush)
}

// lifeOfDisks empties disks and takes them back with something in the log, with
// zeroes, and with both in use.
func (g *crashRig) lifeOfDisks(power bool) error {
	a, b := g.opts.Disks[0], g.opts.Disks[1]
	write, zero := g.writes(power)
	unplug := func(dir string) func() error { return func() error { return g.d.Unplug(dir) } }
	plug := func(dir string) func() error { return func() error { return g.d.Plug(dir) } }
	return g.steps(
		write(0, 1, 0, 40), write(1, 1, 0, 20), write(2, 1, 3, 20), write(3, 1, 0, 2), g.flush, g.seal, g.destage,
		zero(0, 1, 5, 10), write(1, 1, 5, 2), unplug(b), write(2, 1, 0, 17), zero(3, 1, 0, 50),
		plug(b), write(3, 2, 0, 20), zero(2, 1, 10, 4), g.seal, g.destage,
		unplug(a), write(1, 2, 0, 30), g.flush, plug(a), g.reopen, write(0, 1, 0, 20), g.flush)
}

// lifeOfTheLog is segments that are sealed, destaged, retired by a checkpoint and used
// again, tombstones, a clean close, the map of free space, an opening.
func (g *crashRig) lifeOfTheLog(power bool) error {
	write, _ := g.writes(power)
	var steps []func() error
	for lap := range sheepdog.Index(3) { // the third uses segments of the first again
		steps = append(steps, write(lap, 1, 0, 3), write(lap, 2, 30, 20), write(0, 1, 1, 5))
		if lap > 0 {
			steps = append(steps, g.flush)
		}
		// The log goes on while its sealed part is destaged.
		steps = append(steps, g.seal, write(lap, 1, 100, 2), func() error { return g.d.destage(lap == 1) })
	}
	steps = append(steps, g.dropFirst, g.seal, g.destage, // the tombstone is written, and goes with the segment
		func() error { return g.mergeLayers(2, 3) }, write(1, 3, 31, 1), g.reopen, write(2, 2, 0, 17), g.flush, g.seal, g.destage, g.reopen)
	return g.steps(steps...)
}

func (g *crashRig) dropFirst() error {
	return g.changeAll(func() error { return g.d.DropLayer(1) }, func(b rigBlock) *rigBlock {
		if b.layer == 1 {
			return nil
		}
		return &b
	})
}

// reopen closes the store, which makes everything durable, and opens it again.
func (g *crashRig) reopen() error {
	if err := g.d.Close(); err != nil {
		return err
	}
	g.settle()
	d, err := Open(g.opts)
	if err == nil {
		g.d = d
	}
	return err
}
