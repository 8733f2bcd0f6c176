package vdi

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// begin puts a write into a batch of its own, or does it the long way if the batch
// does not take it, and reports which.
func begin(t *testing.T, v *Volume, off uint64, p []byte, end func(error)) (short bool) {
	t.Helper()
	b := v.Batch(t.Context(), nil)
	if !b.Add(p, off, end) {
		end(v.WriteAt(t.Context(), p, off))
		return false
	}
	b.Send()
	return true
}

// Whatever a batch takes has the effect of WriteAt; the rest it refuses.
func TestBatchEqualsWriteAt(t *testing.T) {
	w := newWorld()
	m := w.manager(t, 1)
	const size = 4 << 20
	create(t, m, "v", size)
	v := open(t, m, "v", "")
	write(t, v, 0, fill(4096, 1)) // the first write into a layer is for WriteAt
	want := make([]byte, size)
	copy(want, fill(4096, 1))
	rnd := rand.New(rand.NewPCG(1, 2))
	taken := 0
	for range 200 {
		var wg sync.WaitGroup
		b := v.Batch(t.Context(), nil)
		for range 8 {
			off := rnd.Uint64N(size-128<<10) &^ 511
			if rnd.IntN(4) > 0 {
				off &^= 4095
			}
			n := 512 * (1 + rnd.IntN(256))
			if rnd.IntN(4) > 0 {
				n = 4096 * (1 + rnd.IntN(4))
			}
			p := bytes.Repeat([]byte{byte(rnd.Uint32())}, n)
			wg.Add(1)
			if b.Add(p, off, func(err error) {
				if err != nil {
					t.Error(err)
				}
				wg.Done()
			}) {
				taken++
				copy(want[off:], p)
				continue
			}
			b.Send() // so that what overlaps is not waited for in vain
			wg.Done()
			wg.Wait()
			write(t, v, off, p)
			copy(want[off:], p)
			b = v.Batch(t.Context(), nil)
		}
		b.Send()
		wg.Wait()
	}
	if taken < 200 {
		t.Errorf("only %d writes went the short way", taken)
	}
	expect(t, v, 0, want)
	if n := len(v.family.Load().requests.open); n != 0 {
		t.Errorf("%d requests are still open", n)
	}
}

func TestBatchTakesOnlyWhatWaitsForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, m, v := oneVDI(t, 4<<20)
		end := func(error) { t.Error("a refused write ended") }
		refused := func(what string, v *Volume, off uint64, n int) {
			t.Helper()
			if v.Batch(t.Context(), nil).Add(make([]byte, n), off, end) {
				t.Errorf("a batch took %s", what)
			}
		}
		refused("a write of a VDI that nobody coordinates", v, 0, 4096)
		write(t, v, 0, fill(4096, 1))
		refused("a part of a block", v, 512, 512)
		refused("two objects", v, 1<<testShift-4096, 8192)
		refused("a large write", v, 0, maxStarted+4096)
		refused("nothing", v, 0, 0)

		w.mu.Lock()
		w.hold = make(chan struct{})
		hold := w.hold
		w.mu.Unlock()
		var ended sync.WaitGroup
		ended.Add(1)
		b := v.Batch(t.Context(), nil)
		if !b.Add(fill(4096, 2), 8192, func(error) { ended.Done() }) {
			t.Fatal("a batch refused a plain write")
		}
		refused("what overlaps a write in flight", v, 4096, 8192)
		b.Send()
		close(hold)
		ended.Wait()

		if _, err := m.Snapshot(t.Context(), directory.Snapshot{Name: "v", Tag: "s"}); err != nil {
			t.Fatal(err)
		}
		refused("the first write into a layer", v, 0, 4096)
		snap := open(t, m, "v", "s")
		refused("a write into a snapshot", snap, 0, 4096)
		expect(t, v, 8192, fill(4096, 2))
	})
}

// snapshotBehindAWrite makes a VDI with a write under way, which the replicas answer
// when hold is closed, and a snapshot that waits for it.
func snapshotBehindAWrite(t *testing.T, w *world, m *Manager) (v *Volume, hold chan struct{}, ended, snapped chan error) {
	t.Helper()
	create(t, m, "v", 4<<20)
	v = open(t, m, "v", "")
	write(t, v, 0, fill(4096, 1))
	hold = make(chan struct{})
	w.mu.Lock()
	w.hold = hold
	w.mu.Unlock()
	ended, snapped = make(chan error, 2), make(chan error, 1)
	if !begin(t, v, 4096, fill(4096, 2), func(err error) { ended <- err }) {
		t.Fatal("it was refused")
	}
	go func() {
		_, err := m.Snapshot(context.Background(), directory.Snapshot{Name: "v", Tag: "s"})
		snapped <- err
	}()
	return v, hold, ended, snapped
}

// A snapshot waits for writes on the short way, and holds further ones.
func TestSnapshotWaitsForABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		m := w.manager(t, 1)
		v, hold, ended, snapped := snapshotBehindAWrite(t, w, m)
		synctest.Wait()
		select {
		case <-snapped:
			t.Fatal("the snapshot did not wait")
		default:
		}
		if v.Batch(t.Context(), nil).Add(fill(4096, 3), 8192, func(error) {}) {
			t.Error("a batch took a write while the gate was shut")
		}
		w.mu.Lock()
		w.hold = nil
		w.mu.Unlock()
		close(hold)
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := <-snapped; err != nil {
			t.Error(err)
		}
		expect(t, open(t, m, "v", "s"), 0, append(fill(4096, 1), fill(4096, 2)...))
	})
}

// A coordinator that is deposed, or without a lease, sends nothing on the short
// way; its writes reach the next one, once.
func TestBatchOfADeposedCoordinatorIsRoutedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, m, v := oneVDI(t, 4<<20)
		write(t, v, 0, fill(4096, 1))
		for name, depose := range map[string]func(){
			"lease": func() {
				n := m.opt.Objects.(*node)
				n.mu.Lock()
				n.lease = false
				n.mu.Unlock()
			},
			"token": func() { m.local(v.family.Load().id).lose(errMoved) },
			"fence": func() {
				w.mu.Lock()
				w.sealed[v.family.Load().id] = 1 << 20
				w.mu.Unlock()
			},
		} {
			b := v.Batch(t.Context(), nil)
			ended := make(chan error, 1)
			if !b.Add(fill(4096, byte(len(name))), 4096, func(err error) { ended <- err }) {
				t.Fatal("refused")
			}
			depose()
			b.Send()
			synctest.Wait()
			if name != "token" { // there it is over already
				select {
				case err := <-ended:
					t.Fatalf("%s: ended with %v", name, err)
				default:
				}
			}
			n := m.opt.Objects.(*node)
			n.mu.Lock()
			n.lease = true
			n.mu.Unlock()
			w.mu.Lock()
			w.sealed[v.family.Load().id] = 0
			w.mu.Unlock()
			if err := <-ended; err != nil {
				t.Errorf("%s: %v", name, err)
			}
			expect(t, v, 4096, fill(4096, byte(len(name))))
		}
		if n := len(v.family.Load().requests.open); n != 0 {
			t.Errorf("%d requests are still open", n)
		}
	})
}

// nothing is a cluster and its objects that answer at once.
type nothing struct{ *node }

func (nothing) Start(_ context.Context, reqs []*sheepdog.WriteRequest, done func(int, error)) {
	for i := range reqs {
		done(i, nil)
	}
}

// The short way costs a fixed number of allocations.
func TestBatchAllocations(t *testing.T) {
	_, m, v := oneVDI(t, 4<<20)
	write(t, v, 0, fill(4096, 1))
	m.opt.Objects = nothing{m.opt.Objects.(*node)}
	p, end := fill(4096, 2), func(error) {}
	cost := func(n uint64) float64 {
		return testing.AllocsPerRun(100, func() {
			b := v.Batch(context.Background(), nil)
			for i := range n {
				if !b.Add(p, i*4096, end) {
					t.Fatal("refused")
				}
			}
			b.Send()
		})
	}
	if one, many := cost(1), cost(64); one > 8 || many > 2*64+20 {
		t.Errorf("%.0f allocations for one write, %.0f for 64", one, many)
	}
}

// Bug: after a snapshot all writes waited for a second commit, which marked the new
// layer as written.
func TestWritesGoOnWithTheCommitOfASnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		m := w.manager(t, 1)
		v, hold, ended, snapped := snapshotBehindAWrite(t, w, m)
		synctest.Wait()
		go func() { ended <- v.WriteAt(context.Background(), fill(4096, 3), 8192) }()
		synctest.Wait() // at the gate
		var kinds []string
		w.mu.Lock()
		w.committed = func(kind string) error { kinds = append(kinds, kind); return nil }
		w.hold = nil
		w.mu.Unlock()
		close(hold)
		for _, err := range []error{<-ended, <-ended, <-snapped} {
			if err != nil {
				t.Error(err)
			}
		}
		if len(kinds) != 1 {
			t.Errorf("commits %v, want that of the snapshot alone", kinds)
		}
		expect(t, open(t, m, "v", "s"), 0, slices.Concat(fill(4096, 1), fill(4096, 2), fill(4096, 0)))
		expect(t, v, 0, slices.Concat(fill(4096, 1), fill(4096, 2), fill(4096, 3)))
	})
}

// Bug: writes waited while a snapshot flushed all that had been written during its
// first flush. Flushes are repeated until one is short, but not for ever.
func TestSnapshotHoldsWritesForAShortFlushOnly(t *testing.T) {
	for _, tc := range []struct {
		took []time.Duration // by the flushes before the gate is shut
		want int             // of them
	}{
		{[]time.Duration{time.Millisecond}, 1},
		{[]time.Duration{7 * time.Millisecond}, 1},
		{[]time.Duration{80 * time.Millisecond, 20 * time.Millisecond, 4 * time.Millisecond}, 3},
		{slices.Repeat([]time.Duration{time.Second}, 20), flushesAhead},
	} {
		synctest.Test(t, func(t *testing.T) {
			w, m, v := oneVDI(t, 4<<20)
			write(t, v, 0, fill(4096, 1))
			ahead, inside := 0, 0
			w.flushing = func() {
				if gateShut(v.m.local(v.family.Load().id)) {
					inside++
					return
				}
				time.Sleep(tc.took[ahead]) // of the simulated clock
				ahead++
				write(t, v, uint64(ahead)*4096, fill(4096, 2))
			}
			if _, err := m.Snapshot(t.Context(), directory.Snapshot{Name: "v", Tag: "s"}); err != nil {
				t.Fatal(err)
			}
			if ahead != tc.want || inside != 1 {
				t.Errorf("flushes that take %v: %d before the gate is shut, %d inside; want %d and 1", tc.took[:1], ahead, inside, tc.want)
			}
		})
	}
}

func gateShut(c *coordinator) bool {
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	return c.gate.shut != nil
}
