package cluster

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// compactLook is how many bytes are written to a raftLog between two looks at how
	// many tables it has: a fraction of one.
	compactLook = raftMemTable / 8
	// compactRetry is when a compaction that failed is tried again.
	compactRetry = time.Second
)

// compactor merges the tables of a raftLog when there are many. Badger's own compactors
// look for work twenty times a second each, which is a tenth of what an idle node does;
// this one looks only after something was written. Badger logs why a compaction fails.
type compactor struct {
	crowded func() bool  // there is something to merge
	compact func() error // merges it
	retry   time.Duration

	written atomic.Int64  // bytes, since the latest look
	looks   chan struct{} // has room for one
	quit    chan struct{}
	end     func() // closes quit, once
	done    chan struct{}
}

func newCompactor(crowded func() bool, compact func() error) *compactor {
	c := &compactor{crowded: crowded, compact: compact, retry: compactRetry,
		looks: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{})}
	c.end = sync.OnceFunc(func() { close(c.quit) })
	return c
}

// wrote counts bytes, and has run look when there are enough.
func (c *compactor) wrote(bytes int) {
	if c.written.Add(int64(bytes)) >= compactLook {
		c.look()
	}
}

func (c *compactor) look() {
	c.written.Store(0)
	select {
	case c.looks <- struct{}{}:
	default:
	}
}

// run works until end.
func (c *compactor) run() {
	defer close(c.done)
	for {
		select {
		case <-c.looks:
		case <-c.quit:
			return
		}
		for c.crowded() && c.compact() != nil {
			select {
			case <-time.After(c.retry):
			case <-c.quit:
				return
			}
		}
	}
}

// stop returns when nothing is being merged any more.
func (c *compactor) stop() {
	c.end()
	<-c.done
}
