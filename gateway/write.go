package gateway

import (
	"context"
	"fmt"
	"sync"

	"sheepdog"
)

// Write replicates one write until the acknowledgement rule holds
// (docs/protocol.md rule 3): every acting replica and every target of the
// partition has accepted it in one interval, and enough of them act. The
// request's Revision is set here; everything else is the caller's, and must not
// change until Write returns, also not when ctx ends: ctx only stops further
// attempts, never one that is under way.
//
// ErrFenced means that another coordinator has taken over; the write may or may
// not have reached replicas.
func (g *Gateway) Write(ctx context.Context, req *sheepdog.WriteRequest) error {
	part, sums := req.Object.Partition(), sumsOf(req)
	waits := stall{g: g, family: req.Object.Family}
	defer waits.ended()
	err := g.retry(ctx, func(v *sheepdog.View) error {
		to := g.route(v, req.Policy, part)
		if to == nil || req.Repair {
			p, writers, err := writable(v, req.Policy, part, req.Repair)
			if err != nil {
				return err
			}
			to = &route{since: p.Since, writers: writers}
		}
		r := *req
		r.Revision, r.Sums = v.Revision, sums
		if err := g.fanOut(ctx, []*sheepdog.WriteRequest{&r}, to.writers); err != nil {
			waits.met(err)
			return err
		}
		return g.sameInterval(req.Policy, part, to.since)
	})
	if err != nil {
		return fmt.Errorf("write object %s: %w", req.Object, err)
	}
	return nil
}

// writable lists the members that a write of the partition needs in this view.
func writable(v *sheepdog.View, policy sheepdog.Policy, part sheepdog.Partition, repair bool) (*sheepdog.Placement, []sheepdog.Member, error) {
	p, ok := v.Placement(policy, part)
	if !ok {
		return nil, nil, fmt.Errorf("%w: no table for policy %s in revision %d", errWaiting, policy, v.Revision)
	}
	if p.State != sheepdog.Clean && !repair {
		return nil, nil, fmt.Errorf("%w: partition %d is being compared after a restart", errWaiting, part)
	}
	live, missing := v.ActingMembers(p)
	if missing > 0 || len(live) < v.MinCopies(policy) {
		return nil, nil, fmt.Errorf("%w: partition %d has %d acting replicas, %d missing, needs %d",
			errWaiting, part, len(live), missing, v.MinCopies(policy))
	}
	for _, id := range p.Target {
		if p.IsActing(id) {
			continue
		}
		if m, ok := v.Member(id); ok {
			live = append(live, m)
		}
	}
	return p, live, nil
}

// sameInterval checks that the acks were given in the coordinator's present
// view: acks of an older interval do not count.
func (g *Gateway) sameInterval(policy sheepdog.Policy, part sheepdog.Partition, since sheepdog.Revision) error {
	now, ok := g.views.View().Placement(policy, part)
	if !ok || now.Since != since {
		return fmt.Errorf("%w: partition %d moved during the attempt", sheepdog.ErrStale, part)
	}
	return nil
}

// fan is one attempt of one or more writes at all their replicas.
type fan struct {
	mu      sync.Mutex
	pending int
	err     error
	done    chan struct{}
}

func (f *fan) finish(err error) {
	f.mu.Lock()
	f.pending--
	if err != nil && (f.err == nil || final(err)) {
		f.err = err
	}
	last := f.pending == 0
	f.mu.Unlock()
	if last {
		f.done <- struct{}{}
	}
}

// fanOut sends the requests to all members and waits for every answer: the
// payload is the caller's memory, and a broken connection answers too. Remote
// members come first so that their work overlaps the local one.
func (g *Gateway) fanOut(ctx context.Context, reqs []*sheepdog.WriteRequest, to []sheepdog.Member) error {
	f := g.newFan(len(to) * len(reqs))
	ctx = context.WithoutCancel(ctx)
	local := -1
	for i, m := range to {
		if m.ID == g.self {
			local = i
			continue
		}
		g.send(ctx, f, m, reqs)
	}
	if local >= 0 {
		g.send(ctx, f, to[local], reqs)
	}
	return g.await(f)
}

// newFan expects so many answers; await ends when all have come.
func (g *Gateway) newFan(answers int) *fan {
	f, ok := g.fans.Get().(*fan)
	if !ok {
		f = &fan{done: make(chan struct{}, 1)}
	}
	f.pending, f.err = answers, nil
	return f
}

func (g *Gateway) await(f *fan) error {
	<-f.done
	err := f.err
	g.fans.Put(f)
	return err
}

func (g *Gateway) send(ctx context.Context, f *fan, m sheepdog.Member, reqs []*sheepdog.WriteRequest) {
	g.peers.Replica(m).Write(ctx, reqs, func(_ int, err error) {
		if err != nil {
			g.note(m, err)
			err = g.nodeError("write", m, err)
		}
		f.finish(err)
	})
}
