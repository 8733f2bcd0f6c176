package vdi

import (
	"context"
	"sync"
)

// turn is a lock for work that waits for other nodes: whoever wants it can give
// up. The zero value is free.
type turn struct {
	mu   sync.Mutex
	held chan struct{} // closed when it is given back; nil while free
}

// take waits for the turn, or until ctx ends.
func (t *turn) take(ctx context.Context) error {
	for {
		t.mu.Lock()
		held := t.held
		if held == nil {
			t.held = make(chan struct{})
			t.mu.Unlock()
			return nil
		}
		t.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (t *turn) give() {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.held)
	t.held = nil
}
