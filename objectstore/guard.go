package objectstore

import (
	"sync"
	"sync/atomic"
)

// guard lets readers use places without locks: a place that was replaced is
// used again only after wait, which returns when every reader that may have
// seen it is done. Readers never wait for each other, nor for wait.
type guard struct {
	turn  atomic.Uint32
	sides [2]sync.RWMutex
}

// enter begins a read; leave its result after it.
func (g *guard) enter() *sync.RWMutex {
	side := &g.sides[g.turn.Load()&1]
	side.RLock()
	return side
}

// wait returns when all readers that entered before it have left. A reader may
// have loaded the turn long before it locks, so both sides are emptied.
func (g *guard) wait() {
	for range g.sides {
		side := &g.sides[(g.turn.Add(1)-1)&1]
		side.Lock()
		side.Unlock() //nolint:staticcheck // only the moment matters
	}
}
