package cluster

import (
	"testing"
	"time"
)

// An idle cluster renews all leases with one proof of leadership per slot, and
// sends little else: what is counted are control requests of all nodes.
func TestIdleClusterIsQuiet(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(5)
		time.Sleep(5 * time.Second)
		calls := func() uint64 {
			w.net.mu.Lock()
			defer w.net.mu.Unlock()
			return w.net.calls
		}
		before := calls()
		const span = 10
		for range span * 20 {
			time.Sleep(50 * time.Millisecond)
			for _, n := range w.up() {
				if left := n.LeaseLeft(); left < 180*time.Millisecond {
					t.Fatalf("node %d has %v left of its lease", n.n, left)
				}
			}
		}
		// A slot per third of a lease: four renewals from afar, and four voters asked.
		got := float64(calls()-before) / span
		t.Logf("%.1f control requests a second", got)
		if most := float64(3*time.Second/w.up()[0].opts.Timing.Lease) * (4 + 4) * 1.2; got > most {
			t.Errorf("%.1f control requests a second, want at most %.0f", got, most)
		}
	})
}

// A proposer on a follower learns of its commit at once, not after Raft's commit
// time-out.
func TestFollowerLearnsOfItsCommitAtOnce(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(3)
		f := w.follower()
		for range 20 {
			time.Sleep(time.Second)
			began := time.Now()
			w.propose(f.n, "x")
			if took := time.Since(began); took > 20*time.Millisecond {
				t.Errorf("a commit took %v", took)
			}
		}
	})
}
