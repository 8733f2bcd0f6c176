package gateway

import (
	"context"
	"fmt"
	"sync"

	"sheepdog"
)

// Start begins writes, as Write does one by one, and does not wait for answers:
// each replica gets its part of the batch at once. done is called exactly once for
// each, from any goroutine, which it must not hold up; the requests and their data
// are in use until then. Nearly always the first attempt succeeds; a write of which
// it does not is finished by Write, in a goroutine that ends with its done.
func (g *Gateway) Start(ctx context.Context, reqs []*sheepdog.WriteRequest, done func(i int, err error)) {
	b := &batch{g: g, ctx: ctx, reqs: reqs, done: done, attempts: make([]attempt, len(reqs))}
	v := g.views.View()
	sumAll(reqs)
	for i, r := range reqs {
		var to *route
		if v != nil && !r.Repair {
			to = g.route(v, r.Policy, r.Object.Partition())
		}
		if to == nil {
			go b.again(i)
			continue
		}
		r.Revision = v.Revision
		b.attempts[i] = attempt{since: to.since, pending: len(to.writers)}
		for _, m := range to.writers {
			b.enlist(m, i)
		}
	}
	b.send(context.WithoutCancel(ctx))
}

// batch is writes that were started together.
type batch struct {
	g     *Gateway
	ctx   context.Context // of the writes; they outlive the call that has it
	reqs  []*sheepdog.WriteRequest
	done  func(i int, err error)
	parts []part

	mu       sync.Mutex
	attempts []attempt
}

// attempt is the first try of one write.
type attempt struct {
	since   sheepdog.Revision
	pending int // replicas that have not answered
	err     error
}

// part is what one replica gets.
type part struct {
	member sheepdog.Member
	reqs   []*sheepdog.WriteRequest
	at     []int // their positions in the batch
}

func (b *batch) enlist(m sheepdog.Member, i int) {
	for k := range b.parts {
		if p := &b.parts[k]; p.member.ID == m.ID {
			p.reqs, p.at = append(p.reqs, b.reqs[i]), append(p.at, i)
			return
		}
	}
	n := len(b.reqs) - i
	p := part{member: m, reqs: make([]*sheepdog.WriteRequest, 0, n), at: make([]int, 0, n)}
	p.reqs, p.at = append(p.reqs, b.reqs[i]), append(p.at, i)
	b.parts = append(b.parts, p)
}

// send hands the parts out: this node's own last, so that the others' work
// overlaps it.
func (b *batch) send(ctx context.Context) {
	local := -1
	for k := range b.parts {
		if b.parts[k].member.ID == b.g.self {
			local = k
			continue
		}
		b.sendPart(ctx, &b.parts[k])
	}
	if local >= 0 {
		b.sendPart(ctx, &b.parts[local])
	}
}

func (b *batch) sendPart(ctx context.Context, p *part) {
	b.g.peers.Replica(p.member).Write(ctx, p.reqs, func(k int, err error) {
		if err != nil {
			b.g.note(p.member, err)
			err = b.g.nodeError("write", p.member, err)
		}
		b.answer(p.at[k], err)
	})
}

// answer notes one replica's answer to one write.
func (b *batch) answer(i int, err error) {
	b.mu.Lock()
	a := &b.attempts[i]
	a.pending--
	if err != nil && (a.err == nil || final(err)) {
		a.err = err
	}
	last := a.pending == 0
	err = a.err
	b.mu.Unlock()
	if last {
		b.conclude(i, err)
	}
}

func (b *batch) conclude(i int, err error) {
	r := b.reqs[i]
	if err == nil {
		err = b.g.sameInterval(r.Policy, r.Object.Partition(), b.attempts[i].since)
	}
	switch {
	case err == nil:
		b.done(i, nil)
	case final(err):
		b.done(i, fmt.Errorf("write object %s: %w", r.Object, err))
	default:
		go b.again(i)
	}
}

// again finishes a write that the first attempt did not.
func (b *batch) again(i int) { b.done(i, b.g.Write(b.ctx, b.reqs[i])) }
