package cluster

import (
	"testing"
	"time"
)

// A cluster that has no leader must not be busy with asking for one: 46 nodes on
// one machine had no time left for an election, for minutes.
func TestClusterWithoutLeaderIsQuiet(t *testing.T) {
	simulate(t, func(w *world) {
		const n, span = 12, 10
		w.formatted(n)
		calls := func() uint64 {
			w.net.mu.Lock()
			defer w.net.mu.Unlock()
			return w.net.calls
		}
		w.settle()
		w.lose(w.voters()[1:]...) // no quorum is left
		time.Sleep(5 * time.Second)
		before, up := calls(), len(w.up())
		time.Sleep(span * time.Second)
		got := float64(calls()-before) / span / float64(up)
		t.Logf("%.1f control requests a second and node", got)
		if got > 60 {
			t.Errorf("%d nodes without a leader make %.0f control requests a second each, want at most 60", up, got)
		}
	})
}

// Nodes of a small cluster keep the times that guests' stalls depend on; a wide one
// waits longer before it changes its leader or doubts a member.
func TestTimingOfSize(t *testing.T) {
	var small Timing
	small.fill()
	if small.ofSize(wideCluster) != small {
		t.Error("16 nodes have another timing than one")
	}
	wide := small.ofSize(46)
	if err := wide.check(); err != nil {
		t.Error(err)
	}
	if wide.Heartbeat < 2*time.Second || wide.Patience < 3*time.Second || wide.Lease != small.Lease || wide.Probe != small.Probe {
		t.Errorf("timing of 46 nodes: %+v", wide)
	}
}
