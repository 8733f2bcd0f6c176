package peer

import "sync/atomic"

// liveness notices a peer that went silent, or that leaves our bytes unread, by
// counting heartbeat periods. While the reader is busy with what it has read
// nothing can be heard, and silence does not count.
type liveness struct {
	heard atomic.Uint64 // reads that returned
	busy  atomic.Bool

	// Only the ticking goroutine uses what follows.
	lastHeard  uint64
	silent     int
	lastMoved  uint64
	stalled    int
	silentMost int
	stallMost  int
}

func newLiveness(o *Options) *liveness {
	l := &liveness{silentMost: o.ticks(o.DeadAfter), stallMost: o.ticks(o.StallAfter)}
	return l
}

// resting and working bracket a wait for the peer.
func (l *liveness) resting() { l.busy.Store(false) }

func (l *liveness) working() {
	l.busy.Store(true)
	l.heard.Add(1)
}

// tick is called once per heartbeat with the state of the out queue. It returns
// why the peer has to be given up, and whether a heartbeat is due: queued bytes
// will do as one.
func (l *liveness) tick(queued int, moved uint64) (due bool, err error) {
	if h := l.heard.Load(); h != l.lastHeard || l.busy.Load() {
		l.lastHeard, l.silent = h, 0
	} else if l.silent++; l.silent >= l.silentMost {
		return false, errSilent
	}
	if moved != l.lastMoved || queued == 0 {
		l.lastMoved, l.stalled = moved, 0
	} else if l.stalled++; l.stalled >= l.stallMost {
		return false, errStalled
	}
	return queued == 0, nil
}
