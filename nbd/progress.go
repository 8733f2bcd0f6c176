package nbd

import (
	"sync/atomic"
	"time"
)

// progress tells a watcher whether a transfer moves. One goroutine at a time
// transfers; one other watches.
type progress struct {
	active atomic.Bool
	steps  atomic.Uint64
}

func (p *progress) begin() { p.active.Store(true) }
func (p *progress) step()  { p.steps.Add(1) }
func (p *progress) end()   { p.steps.Add(1); p.active.Store(false) }

// standstill is a watcher's view of a progress.
type standstill struct {
	steps uint64
	since time.Time
}

// lasted is for how long the transfer has not moved, as seen by a watcher that
// looks from time to time; 0 while there is none.
func (s *standstill) lasted(p *progress, now time.Time) time.Duration {
	if steps := p.steps.Load(); !p.active.Load() || steps != s.steps || s.since.IsZero() {
		s.steps, s.since = steps, now
		return 0
	}
	return now.Sub(s.since)
}
