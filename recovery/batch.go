package recovery

import (
	"context"
	"sync"
	"time"

	"sheepdog"
	"sheepdog/internal/pause"
)

// promotions commits what several runs have ready at about the same time in one
// go. Every commit costs every node a new view of all partitions, and in a large
// cluster each node fills a few partitions from each of many sources.
type promotions struct {
	ctx    context.Context // of the agent's run
	spawn  func(func())
	commit func(ctx context.Context, m *Move) ([]sheepdog.Partition, error)

	mu      sync.Mutex
	waiting []*promotion
	busy    bool // somebody commits, or is about to
}

type promotion struct {
	move    *Move
	done    chan struct{}
	refused []sheepdog.Partition // of all moves of the commit
	err     error
}

const (
	gatherPromotions = 30 * time.Millisecond
	promotionLimit   = 30 * time.Second // for one commit
)

// promote is Committer.Promote. What was begun is committed even if ctx ends.
func (q *promotions) promote(ctx context.Context, m *Move) ([]sheepdog.Partition, error) {
	p := &promotion{move: m, done: make(chan struct{})}
	q.mu.Lock()
	q.waiting = append(q.waiting, p)
	if !q.busy {
		q.busy = true
		q.spawn(q.work)
	}
	q.mu.Unlock()
	select {
	case <-p.done:
		return p.refused, p.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// work commits until nothing waits.
func (q *promotions) work() {
	_ = pause.For(q.ctx, gatherPromotions) // if it ends, the commit tells
	for {
		batch := q.next()
		if len(batch) == 0 {
			return
		}
		all := *batch[0].move
		all.Items = nil
		for _, p := range batch {
			all.Items = append(all.Items, p.move.Items...)
		}
		ctx, cancel := context.WithTimeout(q.ctx, promotionLimit)
		refused, err := q.commit(ctx, &all)
		cancel()
		for _, p := range batch {
			p.refused, p.err = refused, err
			close(p.done)
		}
	}
}

// next takes what fits into one commit: moves of one policy.
func (q *promotions) next() (batch []*promotion) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, rest := 0, q.waiting[:0:0]
	for _, p := range q.waiting {
		if len(batch) > 0 && (p.move.Policy != batch[0].move.Policy || n+len(p.move.Items) > commitItems) {
			rest = append(rest, p)
			continue
		}
		n += len(p.move.Items)
		batch = append(batch, p)
	}
	q.waiting, q.busy = rest, len(batch) > 0
	return batch
}
