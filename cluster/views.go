package cluster

import (
	"context"
	"sync"
	"sync/atomic"

	"sheepdog"
	"sheepdog/cluster/state"
)

// published is what the state machine shows to the rest of the node.
type published struct {
	current atomic.Pointer[snapshotOfState]

	mu      sync.Mutex
	newView chan struct{} // closed and replaced at each new view
	newStep chan struct{} // closed and replaced at each index
}

type snapshotOfState struct {
	view       *sheepdog.View
	membership membership
	history    []state.EpochRecord
	index      uint64 // everything up to this log index is applied
}

func newPublished() *published {
	p := &published{newView: make(chan struct{}), newStep: make(chan struct{})}
	p.current.Store(&snapshotOfState{})
	return p
}

// publish is called by the state machine only.
func (p *published) publish(v *sheepdog.View, m membership, history func() []state.EpochRecord, index uint64) {
	old := p.current.Load()
	next := &snapshotOfState{view: v, membership: m, history: old.history, index: index}
	if m != old.membership {
		next.history = history()
	}
	p.replace(old, next)
}

// applied says that an entry without effect passed.
func (p *published) applied(index uint64) {
	old := p.current.Load()
	next := *old
	next.index = max(old.index, index)
	p.replace(old, &next)
}

func (p *published) replace(old, next *snapshotOfState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current.Store(next)
	close(p.newStep)
	p.newStep = make(chan struct{})
	if next.view != old.view {
		close(p.newView)
		p.newView = make(chan struct{})
	}
}

func (p *published) view() *sheepdog.View { return p.current.Load().view }
func (p *published) index() uint64        { return p.current.Load().index }

// changed is closed when another view than v is published.
func (p *published) changed(v *sheepdog.View) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.current.Load().view
	if now != nil && (v == nil || now.Revision > v.Revision) {
		done := make(chan struct{})
		close(done)
		return done
	}
	return p.newView
}

// wait returns once everything up to index is applied here.
func (p *published) wait(ctx context.Context, index uint64) error {
	return p.until(ctx, func(s *snapshotOfState) bool { return s.index >= index })
}

// until returns once cond holds of the published state.
func (p *published) until(ctx context.Context, cond func(*snapshotOfState) bool) error {
	for {
		p.mu.Lock()
		now, step := p.current.Load(), p.newStep
		p.mu.Unlock()
		if cond(now) {
			return nil
		}
		select {
		case <-step:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
