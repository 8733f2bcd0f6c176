package vdi

import (
	"context"
	"sync/atomic"

	"sheepdog"
)

// flusher lets concurrent flushes share rounds: a caller is served by any round
// that began after it arrived.
type flusher struct {
	upTo    atomic.Uint64 // writes of this token up to here are durable everywhere
	started atomic.Uint64 // rounds begun

	running turn   // of the round that runs
	ok      uint64 // the latest round that succeeded; its turn guards it
}

// do runs round unless one that began after the call succeeded already.
func (f *flusher) do(ctx context.Context, round func() error) error {
	arrived := f.started.Load()
	if err := f.running.take(ctx); err != nil {
		return err
	}
	defer f.running.give()
	if f.ok > arrived {
		return nil
	}
	n := f.started.Add(1)
	if err := round(); err != nil {
		return err
	}
	f.ok = n
	return nil
}

// flush makes every write that was acknowledged before the call durable on all
// acting replicas and targets. (rule 11)
func (c *coordinator) flush() error {
	return c.flushes.do(c.ctx, func() error {
		c.mu.Lock()
		parts := make([]sheepdog.Partition, 0, len(c.dirty))
		for p := range c.dirty {
			parts = append(parts, p)
		}
		clear(c.dirty)
		covered := c.seq
		if oldest, ok := c.ranges.oldestSeq(); ok {
			covered = oldest - 1
		}
		c.mu.Unlock()
		if len(parts) == 0 {
			return nil
		}
		if err := c.m.opt.Objects.Flush(c.ctx, c.scope, parts, c.flushes.upTo.Load()); err != nil {
			c.redirty(parts)
			return err
		}
		c.flushes.upTo.Store(covered)
		return nil
	})
}

func (c *coordinator) redirty(parts []sheepdog.Partition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range parts {
		c.dirty[p] = struct{}{}
	}
}

// quiesce flushes while I/O goes on, then shuts the gate, waits for the writes
// inside, and flushes the rest. The caller opens the gate. (rule 13)
func (c *coordinator) quiesce(ctx context.Context) error {
	if err := c.flush(); err != nil {
		return err
	}
	if err := c.gate.close(ctx); err != nil {
		return err
	}
	if err := c.flush(); err != nil {
		c.gate.open()
		return err
	}
	return nil
}
