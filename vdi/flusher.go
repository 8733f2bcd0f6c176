package vdi

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"sheepdog"
)

// flusher lets concurrent flushes share rounds: a caller is served by any round
// that began after it arrived.
type flusher struct {
	upTo    atomic.Uint64 // writes of this token up to here are durable everywhere
	settled atomic.Uint64 // and up to here no replica takes them for dirty any more
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
// acting replicas and targets, unless ctx ends before: replicas may be away for
// ever. (rule 11)
func (c *coordinator) flush(ctx context.Context) error {
	both, cancel := context.WithCancelCause(c.ctx)
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })()
	return c.flushes.do(both, func() error { return c.flushRound(both) })
}

func (c *coordinator) flushRound(ctx context.Context) error {
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
	if err := c.m.opt.Objects.Flush(ctx, c.scope, parts, c.flushes.upTo.Load()); err != nil {
		c.redirty(parts)
		return err
	}
	c.flushes.upTo.Store(covered)
	return nil
}

// settleLimit bounds how long a hand-over waits for replicas to note that nothing
// is dirty.
const settleLimit = time.Second

// tellClean tells the replicas of the latest complete flush, if no later message
// did, so that whoever coordinates next finds nothing dirty to compare. A replica
// that is not told remembers too much, which costs that one time and nothing else.
func (c *coordinator) tellClean(ctx context.Context) {
	upTo := c.flushes.upTo.Load()
	if upTo == c.flushes.settled.Load() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	if err := c.m.opt.Objects.Settled(ctx, c.scope, upTo); err != nil {
		c.m.opt.Logger.Debug("replicas still take for dirty what was flushed last", "family", c.scope.Family, "err", err)
		return
	}
	c.flushes.settled.Store(upTo)
}

// idle reports whether nothing was written since the latest flush.
func (c *coordinator) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.dirty) == 0
}

func (c *coordinator) redirty(parts []sheepdog.Partition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range parts {
		c.dirty[p] = struct{}{}
	}
}

// stallPoll is how often somebody who waits for writes looks whether one of them
// waits for space.
const stallPoll = 20 * time.Millisecond

// whileRoom is ctx until a write of the family waits for space. The caller must
// stop it.
func (c *coordinator) whileRoom(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	if err := c.m.opt.Objects.WaitsForSpace(c.scope.Family); err != nil {
		cancel(fmt.Errorf("a write of this VDI waits for space: %w", err))
		return ctx, func() {}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(stallPoll)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := c.m.opt.Objects.WaitsForSpace(c.scope.Family); err != nil {
				cancel(fmt.Errorf("a write of this VDI waits for space: %w", err))
			}
		}
	})
	return ctx, func() {
		cancel(context.Canceled)
		wg.Wait()
	}
}

// Flushes before the gate is shut: each leaves only what was written while it ran,
// so that the one inside the gate, for which writes wait, is short. It is much
// shorter than the one before, for most of what is written is on its way to the
// disks already.
const (
	shortFlush   = 8 * time.Millisecond
	flushesAhead = 4
)

func (c *coordinator) flushAhead(ctx context.Context) error {
	for range flushesAhead {
		began := time.Now()
		if err := c.flush(ctx); err != nil {
			return err
		}
		if time.Since(began) < shortFlush {
			return nil
		}
	}
	return nil
}

// quiesce flushes while I/O goes on, then shuts the gate, waits for the writes
// inside, and flushes the rest. The caller opens the gate. (rule 13)
//
// While a write waits for space it would wait as well, perhaps for ever: then it
// fails with that write's error, which wraps sheepdog.ErrNoSpace.
func (c *coordinator) quiesce(ctx context.Context) error {
	ctx, stop := c.whileRoom(ctx)
	defer stop()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := c.flushAhead(ctx); err != nil {
		return err
	}
	if err := c.gate.close(ctx); err != nil {
		return err
	}
	if err := c.flush(ctx); err != nil {
		c.gate.open()
		return err
	}
	return nil
}
