package vdi

import (
	"container/list"
	"context"
	"sync"
)

// chunkBlocks is the unit of the base cache and of its read-ahead: 128 KiB.
const chunkBlocks = 32

// chunk is the content of a chunk; data is nil when all of it reads as zeros.
type chunk struct {
	key  Chunk
	data []byte
	// data and err are set before ready is closed.
	ready chan struct{}
	err   error
	size  int
}

// baseCache keeps chunks of frozen layers in memory, the least recently used
// leave first. Concurrent readers of a missing chunk share one load.
type baseCache struct {
	limit int // bytes

	mu      sync.Mutex
	entries map[Chunk]*list.Element // of *chunk
	order   *list.List              // front: most recent
	bytes   int
}

func newBaseCache(limit int) *baseCache {
	return &baseCache{limit: limit, entries: make(map[Chunk]*list.Element), order: list.New()}
}

// get returns the chunk, loading it if need be. The data must not be changed.
func (c *baseCache) get(ctx context.Context, key Chunk, load func(context.Context) ([]byte, error)) ([]byte, error) {
	for {
		ch, mine := c.lookup(key)
		if mine {
			data, err := load(ctx)
			c.fill(ch, data, err)
			return data, err
		}
		select {
		case <-ch.ready:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if ch.err == nil {
			return ch.data, nil
		}
		// Whoever loaded it failed, perhaps because its own client left: try it
		// ourselves.
	}
}

func (c *baseCache) lookup(key Chunk) (ch *chunk, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.entries[key]; ok {
		c.order.MoveToFront(e)
		return e.Value.(*chunk), false
	}
	ch = &chunk{key: key, ready: make(chan struct{})}
	c.entries[key] = c.order.PushFront(ch)
	return ch, true
}

// entryOverhead is what an entry costs beside its data, in bytes.
const entryOverhead = 200

func (c *baseCache) fill(ch *chunk, data []byte, err error) {
	c.mu.Lock()
	ch.data, ch.err = data, err
	if err != nil {
		c.remove(c.entries[ch.key])
	} else {
		ch.size = len(data) + entryOverhead
		c.bytes += ch.size
		c.evict()
	}
	c.mu.Unlock()
	close(ch.ready)
}

// evict drops the least recently used loaded chunks until the limit holds.
func (c *baseCache) evict() {
	for e := c.order.Back(); e != nil && c.bytes > c.limit; {
		prev := e.Prev()
		if e.Value.(*chunk).size > 0 { // not one that is being loaded
			c.remove(e)
		}
		e = prev
	}
}

func (c *baseCache) remove(e *list.Element) {
	if e == nil {
		return
	}
	ch := c.order.Remove(e).(*chunk)
	delete(c.entries, ch.key)
	c.bytes -= ch.size
}
