package recovery

import (
	"context"
	"fmt"
	"sync"
	"time"

	"sheepdog"
)

// Throttle lets at most max events pass per interval. The zero value lets
// everything pass.
type Throttle struct {
	mu       sync.Mutex
	max      uint32
	interval time.Duration
	start    time.Time // of the present window
	passed   uint32
	changed  chan struct{}
}

// Set changes the bound at once, also for who waits.
func (t *Throttle) Set(max uint32, interval time.Duration) error {
	if (max == 0) != (interval == 0) || interval < 0 {
		return fmt.Errorf("%w: throttle of %d objects per %v: both must be zero or both positive", sheepdog.ErrInvalid, max, interval)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.max, t.interval, t.start, t.passed = max, interval, time.Time{}, 0
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
	return nil
}

// Get tells the bound.
func (t *Throttle) Get() (max uint32, interval time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.max, t.interval
}

// Wait returns when one more event may pass.
func (t *Throttle) Wait(ctx context.Context) error {
	for {
		wait, changed := t.take(time.Now())
		if wait <= 0 {
			return ctx.Err()
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-changed:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}

// take passes one event, or tells how long to wait.
func (t *Throttle) take(now time.Time) (time.Duration, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.max == 0 {
		return 0, nil
	}
	if now.Sub(t.start) >= t.interval {
		t.start, t.passed = now, 0
	}
	if t.passed < t.max {
		t.passed++
		return 0, nil
	}
	if t.changed == nil {
		t.changed = make(chan struct{})
	}
	return t.start.Add(t.interval).Sub(now), t.changed
}
