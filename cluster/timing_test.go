package cluster

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sheepdog"
)

// The clock of leases is that of the host, whichever way it is read.
func TestBoottimeIsTheHosts(t *testing.T) {
	read := func() time.Duration {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
			t.Fatal(err)
		}
		return time.Duration(ts.Nano())
	}
	for range 100 {
		before := read()
		got := boottime()
		if after := read(); got < before || got > after {
			t.Fatalf("%v is not between %v and %v", got, before, after)
		}
	}
}

// Steps of recovery wait for each other where many nodes take them, and not where
// guests of a few nodes may be waiting for one.
func TestStepsAreGatheredInWideClusters(t *testing.T) {
	of := func(n int) time.Duration { return gatherEvery(&sheepdog.View{Members: make([]sheepdog.Member, n)}) }
	if of(wideCluster) != 0 || gatherEvery(nil) != 0 {
		t.Error("steps wait in a small cluster")
	}
	if d := of(46); d < 100*time.Millisecond || d > 200*time.Millisecond {
		t.Errorf("46 nodes gather steps for %v", d)
	}
}

// Bug: after a restart of a wide cluster its nodes did not know its size before there
// was a leader, had the timing of a small one, and changed leaders again and again.
func TestRestartedNodesKnowHowWideTheClusterWas(t *testing.T) {
	simulate(t, func(w *world) {
		const n = wideCluster + 1
		w.formatted(n)
		w.eventually(10*time.Second, "all follow the log", func() bool {
			for _, s := range w.up() {
				if s.View() == nil || len(s.View().Members) != n {
					return false
				}
			}
			return true
		})
		want := w.nodes[1].timing(0).Heartbeat
		w.settle()
		for _, s := range w.up() {
			s.kill()
		}
		for _, s := range w.nodes {
			s.boot()
			if got := s.consensus.Load().timing.Heartbeat; got != want {
				t.Errorf("node %d misses heartbeats after %v, want %v", s.n, got, want)
			}
		}
	})
}
