package gateway

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"sheepdog"
)

// Start begins writes, as Write does one by one, and does not wait for answers:
// each replica gets its part of the batch at once. done is called exactly once for
// each, from any goroutine, which it must not hold up; the requests and their data
// are in use until then, and the slice until Start has returned besides. Nearly always
// the first attempt succeeds; a write of which it does not is finished by Write, in a
// goroutine that ends with its done.
func (g *Gateway) Start(ctx context.Context, reqs []*sheepdog.WriteRequest, done func(i int, err error)) {
	b := g.newBatch(ctx, reqs, done)
	defer b.release()
	var latest *route // most writes go where the one before went
	sumAll(reqs)
	for i, r := range reqs {
		var to *route
		if b.view != nil && !r.Repair {
			to = g.route(b.view, r.Policy, r.Object.Partition())
		}
		if to == nil {
			go b.again(i)
			continue
		}
		r.Revision = b.view.Revision
		a := &b.attempts[i]
		a.since = to.since
		a.pending.Store(int32(len(to.writers)))
		for k := range to.writers {
			if to == latest {
				b.parts[k].add(r, i)
			} else {
				b.enlist(&to.writers[k], i)
			}
		}
		if len(b.parts) == len(to.writers) {
			latest = to // the parts so far are its writers, in whatever order
		}
	}
	b.send()
}

// batch is writes that were started together. It is pooled.
type batch struct {
	g        *Gateway
	ctx      context.Context // of the writes; they outlive the call that has it
	view     *sheepdog.View  // of the first attempts
	reqs     []*sheepdog.WriteRequest
	done     func(i int, err error)
	parts    []*part
	attempts []attempt
	left     atomic.Int32 // the writes that have not ended, and Start

	mu sync.Mutex // guards the attempts' errors
}

// attempt is the first try of one write.
type attempt struct {
	since   sheepdog.Revision
	pending atomic.Int32 // replicas that have not answered
	err     error
}

// part is what one replica gets.
type part struct {
	batch    *batch
	member   *sheepdog.Member
	reqs     []*sheepdog.WriteRequest
	at       []int                  // their positions in the batch
	answered func(k int, err error) // part.answer
}

func (g *Gateway) newBatch(ctx context.Context, reqs []*sheepdog.WriteRequest, done func(i int, err error)) *batch {
	b, _ := g.batches.Get().(*batch)
	if b == nil {
		b = &batch{g: g}
	}
	if cap(b.attempts) < len(reqs) {
		b.attempts = make([]attempt, len(reqs))
	}
	b.attempts = b.attempts[:len(reqs)]
	b.ctx, b.view, b.reqs, b.done = ctx, g.views.View(), reqs, done
	b.left.Store(int32(len(reqs)) + 1)
	return b
}

// release counts down; the last one gives the batch back.
func (b *batch) release() {
	if b.left.Add(-1) > 0 {
		return
	}
	for _, p := range b.parts {
		clear(p.reqs)
		p.member, p.reqs, p.at = nil, p.reqs[:0], p.at[:0]
	}
	b.ctx, b.view, b.reqs, b.done, b.parts = nil, nil, nil, nil, b.parts[:0]
	b.g.batches.Put(b)
}

func (b *batch) enlist(m *sheepdog.Member, i int) {
	for _, p := range b.parts {
		if p.member.ID == m.ID {
			p.add(b.reqs[i], i)
			return
		}
	}
	p, n := b.newPart(), len(b.reqs)-i
	p.member, p.reqs, p.at = m, slices.Grow(p.reqs, n), slices.Grow(p.at, n)
	p.add(b.reqs[i], i)
}

// newPart appends a part, one of an earlier use of the batch if there is one.
func (b *batch) newPart() *part {
	n := len(b.parts)
	if n < cap(b.parts) {
		b.parts = b.parts[:n+1]
	} else {
		b.parts = append(b.parts, nil)
	}
	if b.parts[n] == nil {
		p := &part{batch: b}
		p.answered = p.answer
		b.parts[n] = p
	}
	return b.parts[n]
}

func (p *part) add(r *sheepdog.WriteRequest, i int) {
	p.reqs, p.at = append(p.reqs, r), append(p.at, i)
}

// send hands the parts out: this node's own last, so that the others' work
// overlaps it. The answers are awaited whatever becomes of the context.
func (b *batch) send() {
	var local *part
	for _, p := range b.parts {
		if p.member.ID == b.g.self {
			local = p
			continue
		}
		p.send()
	}
	if local != nil {
		local.send()
	}
}

func (p *part) send() {
	p.batch.g.peers.Replica(*p.member).Write(context.Background(), p.reqs, p.answered)
}

// answer notes the replica's answer to one of its writes.
func (p *part) answer(k int, err error) {
	b, i := p.batch, p.at[k]
	a := &b.attempts[i]
	if err != nil {
		b.g.note(*p.member, err)
		err = b.g.nodeError("write", *p.member, err)
		b.mu.Lock()
		if a.err == nil || final(err) {
			a.err = err
		}
		b.mu.Unlock()
	}
	switch left := a.pending.Add(-1); {
	case left == 0:
		b.conclude(i)
	case left < 0:
		panic("gateway: a replica has answered a write twice")
	}
}

func (b *batch) conclude(i int) {
	r, err := b.reqs[i], b.attempts[i].err
	b.attempts[i].err = nil
	if err == nil && b.g.views.View() != b.view {
		err = b.g.sameInterval(r.Policy, r.Object.Partition(), b.attempts[i].since)
	}
	switch {
	case err == nil:
		b.end(i, nil)
	case final(err):
		b.end(i, fmt.Errorf("write object %s: %w", r.Object, err))
	default:
		go b.again(i)
	}
}

// again finishes a write that the first attempt did not.
func (b *batch) again(i int) { b.end(i, b.g.Write(b.ctx, b.reqs[i])) }

func (b *batch) end(i int, err error) {
	b.done(i, err)
	b.release()
}
