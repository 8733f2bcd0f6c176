package nbd

import (
	"context"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
)

// budget is the bytes that all connections share, handed out in order.
type budget struct {
	sem     *semaphore.Weighted
	waiting atomic.Int32
}

func newBudget(bytes int64) *budget {
	return &budget{sem: semaphore.NewWeighted(bytes)}
}

// tryTake takes n bytes if they are free and nobody waits.
func (b *budget) tryTake(n int64) bool { return b.sem.TryAcquire(n) }

// take waits for n bytes.
func (b *budget) take(ctx context.Context, n int64) error {
	b.waiting.Add(1)
	defer b.waiting.Add(-1)
	if err := b.sem.Acquire(ctx, n); err != nil {
		return context.Cause(ctx)
	}
	return nil
}

func (b *budget) give(n int64) { b.sem.Release(n) }

// pressed tells whether somebody waits.
func (b *budget) pressed() bool { return b.waiting.Load() > 0 }
