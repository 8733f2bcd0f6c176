package nbd

import (
	"context"
	"sync"
	"sync/atomic"
)

// charge is what a request in flight takes of the limits.
type charge struct {
	bytes  int64
	shared bool // from the shared budget, not from the connection's reserve
}

// window bounds what a connection has in flight. One goroutine admits; any may
// leave.
type window struct {
	maxRequests int
	maxBytes    int64
	shared      *budget
	share       *share        // of what all exports have; nil: no bound
	freed       chan struct{} // holds a token when something left

	holding atomic.Int64 // bytes of the shared budget

	mu       sync.Mutex
	requests int
	bytes    int64
	reserve  int64 // what is left of the connection's own bytes
	waits    bool  // admit is to be told when something leaves
}

func newWindow(c *Config, shared *budget, share *share) *window {
	return &window{
		maxRequests: c.MaxRequests, maxBytes: c.MaxConnectionBytes, reserve: c.ReservedBytes,
		shared: shared, share: share, freed: make(chan struct{}, 1),
	}
}

// tryAdmit takes a request with so many bytes in, if that needs no waiting.
func (w *window) tryAdmit(bytes int64) (charge, bool) {
	ch, ok := w.book(bytes, false)
	if !ok || !ch.shared {
		return ch, ok
	}
	if !w.shared.tryTake(bytes) {
		w.unbook(ch)
		return charge{}, false
	}
	w.holding.Add(bytes)
	return ch, true
}

// admit waits until a request with so many bytes may be in flight.
func (w *window) admit(ctx context.Context, bytes int64) (charge, error) {
	for {
		ch, ok := w.book(bytes, true)
		if !ok {
			select {
			case <-w.freed:
				continue
			case <-ctx.Done():
				return charge{}, context.Cause(ctx)
			}
		}
		if !ch.shared {
			return ch, nil
		}
		if err := w.shared.take(ctx, bytes); err != nil {
			w.unbook(ch)
			return charge{}, err
		}
		w.holding.Add(bytes)
		return ch, nil
	}
}

// leave gives back what admit took.
func (w *window) leave(ch charge) {
	if ch.shared {
		w.holding.Add(-ch.bytes)
		w.shared.give(ch.bytes)
	}
	w.unbook(ch)
}

// book counts a request in the connection's own limits. A request larger than
// the limit of bytes may go alone. Where it fails, one that waits is told by freed when
// to try again.
func (w *window) book(bytes int64, wait bool) (charge, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.requests >= w.maxRequests || (w.bytes > 0 && w.bytes+bytes > w.maxBytes) ||
		w.share != nil && w.share.full(w.requests, w.bytes) {
		w.waits = wait
		return charge{}, false
	}
	w.requests++
	w.bytes += bytes
	if w.reserve >= bytes {
		w.reserve -= bytes
		return charge{bytes: bytes}, true
	}
	return charge{bytes: bytes, shared: true}, true
}

func (w *window) unbook(ch charge) {
	w.mu.Lock()
	w.requests--
	w.bytes -= ch.bytes
	if !ch.shared {
		w.reserve += ch.bytes
	}
	wake := w.waits
	w.waits = false
	w.mu.Unlock()
	if !wake {
		return
	}
	select {
	case w.freed <- struct{}{}:
	default:
	}
}

// inFlight is the number of requests admitted that have not left.
func (w *window) inFlight() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.requests
}

// holdsShared tells whether any bytes in flight are of the shared budget.
func (w *window) holdsShared() bool { return w.holding.Load() > 0 }
