package vdi

import (
	"context"
	"sync"
)

// gate admits writes and can be shut for a moment: a snapshot or a hand-over
// shuts it, which waits until those inside have left.
type gate struct {
	mu     sync.Mutex
	inside int
	queued int           // wait to enter
	shut   chan struct{} // non-nil while shut; closed when it opens
	empty  chan struct{} // non-nil while somebody waits for inside == 0
}

// enter waits while the gate is shut.
func (g *gate) enter(ctx context.Context) error {
	for {
		g.mu.Lock()
		shut := g.shut
		if shut == nil {
			g.inside++
			g.mu.Unlock()
			return nil
		}
		g.queued++
		g.mu.Unlock()
		select {
		case <-shut:
		case <-ctx.Done():
		}
		g.mu.Lock()
		g.queued--
		g.mu.Unlock()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// awaited reports whether writes wait for the gate to open.
func (g *gate) awaited() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.queued > 0
}

// tryEnter is enter for those who cannot wait; false while the gate is shut.
func (g *gate) tryEnter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut != nil {
		return false
	}
	g.inside++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	g.inside--
	if g.inside == 0 && g.empty != nil {
		close(g.empty)
		g.empty = nil
	}
	g.mu.Unlock()
}

// close shuts the gate and waits until it is empty. After an error it is open
// again. Only one caller may have it shut at a time; others wait their turn.
func (g *gate) close(ctx context.Context) error {
	for {
		g.mu.Lock()
		if g.shut == nil {
			break
		}
		shut := g.shut
		g.mu.Unlock()
		select {
		case <-shut:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	g.shut = make(chan struct{})
	var empty chan struct{}
	if g.inside > 0 {
		empty = make(chan struct{})
		g.empty = empty
	}
	g.mu.Unlock()
	if empty == nil {
		return nil
	}
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		g.mu.Lock()
		g.empty = nil
		g.mu.Unlock()
		g.open()
		return context.Cause(ctx)
	}
}

func (g *gate) open() {
	g.mu.Lock()
	close(g.shut)
	g.shut = nil
	g.mu.Unlock()
}
