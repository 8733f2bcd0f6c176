package objectstore

import (
	"fmt"
	"testing"

	"sheepdog"
	"sheepdog/objectstore/storetest"
)

// TestCrashAtEveryOperation runs a script through all steps of the log's life -
// segments that are sealed, destaged, retired by a checkpoint and used again,
// tombstones, a clean close, the map of free space, an opening - once for every
// file operation and commit of it, and dies there: by the death of the process,
// after which everything acknowledged is there, and by the loss of power, after
// which everything flushed is.
func TestCrashAtEveryOperation(t *testing.T) {
	for _, power := range []bool{false, true} {
		t.Run(fmt.Sprintf("power=%v", power), func(t *testing.T) {
			t.Parallel()
			for n := 1; ; n++ {
				if !crashAt(t, n, power) {
					t.Logf("%d operations", n)
					return
				}
			}
		})
	}
}

// crashAt reports whether the script has an n-th operation, at which it died.
func crashAt(t *testing.T, n int, power bool) (hit bool) {
	g := newCrashRig(t, uint64(n))
	count := 0
	fail := func() error {
		if count++; count >= n {
			hit = true
			return errDead
		}
		return nil
	}
	g.files.mu.Lock()
	g.files.fault = func(string, string) error { return fail() }
	g.files.mu.Unlock()
	g.meta.mu.Lock()
	g.meta.fault = func() error {
		g.files.mu.Lock() // count belongs to both
		defer g.files.mu.Unlock()
		return fail()
	}
	g.meta.mu.Unlock()
	if err := g.lifeOfTheLog(power); (err != nil) != hit {
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

// lifeOfTheLog is the script; it ends with the process. Without a loss of power,
// what was acknowledged is all that may be there.
func (g *crashRig) lifeOfTheLog(power bool) error {
	seq := uint64(0)
	write := func(index sheepdog.Index, layer sheepdog.LayerID, start sheepdog.BlockNo, blocks int) func() error {
		return func() error {
			seq++
			op := dataOp(index, layer, start, storetest.Fill(seq, blocks), seq)
			before := g.records([]sheepdog.Op{op})
			err := writeOne(g.d, op)
			g.note(&op, before, err)
			if err == nil && !power {
				g.settle()
			}
			return err
		}
	}
	seal := func() error { g.d.journal.seal(); return nil }
	destage := func() error { return g.d.destage(true) }
	var steps []func() error
	for lap := range sheepdog.Index(3) { // the third uses segments of the first again
		steps = append(steps, write(lap, 1, 0, 3), write(lap, 2, 30, 20), write(0, 1, 1, 5))
		if lap > 0 {
			steps = append(steps, g.flush)
		}
		// The log goes on while its sealed part is destaged.
		steps = append(steps, seal, write(lap, 1, 100, 2), func() error { return g.d.destage(lap == 1) })
	}
	steps = append(steps, g.dropFirst, seal, destage, // the tombstone is written, and goes with the segment
		func() error { return g.mergeLayers(2, 3) }, write(1, 3, 31, 1), g.reopen, write(2, 2, 0, 17), g.flush, seal, destage, g.reopen)
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
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
