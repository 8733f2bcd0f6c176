package recovery

import (
	"sync"
	"sync/atomic"
	"time"
)

// Progress is how far the recovery of one node is. It begins anew when there was
// nothing to do in between.
type Progress struct {
	// Partitions counts those still to be backfilled or reconciled here, of
	// TotalPartitions since it began.
	Partitions, TotalPartitions int
	// Waiting counts those that cannot be: no acting replica of them lives.
	Waiting int
	// Finished of Total objects met so far are in place; MovedBytes were fetched
	// for them.
	Finished, Total uint64
	MovedBytes      uint64
	// ReceivedBytes were fetched since this process was started.
	ReceivedBytes uint64
	// Elapsed is since it began; Left is what it will probably still take. Objects
	// are spread evenly over partitions, so that these tell. Negative: not known.
	Elapsed, Left time.Duration
}

// Active reports whether the node is recovering.
func (p Progress) Active() bool { return p.Partitions > 0 }

type progress struct {
	finished, total, moved atomic.Uint64

	mu         sync.Mutex
	partitions int
	waiting    int
	most       int       // partitions since it began
	earlier    uint64    // moved by recoveries before
	began      time.Time // also of what is over
	ended      time.Time
}

// plan takes what there is to do now.
func (p *progress) plan(plan *Plan) { p.set(plan.Pending, plan.Waiting, time.Now()) }

func (p *progress) set(pending, waiting int, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pending > 0 && p.partitions == 0 {
		p.finished.Store(0)
		p.total.Store(0)
		p.earlier += p.moved.Swap(0)
		p.began, p.most = now, 0
	}
	if pending == 0 && p.partitions > 0 {
		p.ended = now
	}
	p.most = max(p.most, pending)
	p.partitions, p.waiting = pending, waiting
}

func (p *progress) get(now time.Time) Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := Progress{Partitions: p.partitions, TotalPartitions: p.most, Waiting: p.waiting,
		Finished: p.finished.Load(), Total: p.total.Load(), MovedBytes: p.moved.Load(), Left: -1}
	out.ReceivedBytes = p.earlier + out.MovedBytes
	switch done := p.most - p.partitions; {
	case p.began.IsZero():
	case p.partitions == 0:
		out.Elapsed, out.Left = p.ended.Sub(p.began), 0
	default:
		out.Elapsed = now.Sub(p.began)
		if done > 0 {
			out.Left = time.Duration(float64(out.Elapsed) / float64(done) * float64(p.partitions))
		}
	}
	return out
}
