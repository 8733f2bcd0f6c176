package gateway

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"sheepdog"
)

// Flush makes the accepted writes of a family in the given partitions durable
// on every acting replica and target (docs/protocol.md rule 11). It is complete
// only when all of them answered and none of the partitions moved meanwhile;
// otherwise it flushes again in the newer view. flushed is the highest sequence
// number below which an earlier flush was complete.
func (g *Gateway) Flush(ctx context.Context, s sheepdog.Scope, parts []sheepdog.Partition, flushed uint64) error {
	err := g.retry(ctx, func(v *sheepdog.View) error {
		since, members, err := g.flushSet(v, s.Policy, parts)
		if err != nil {
			return err
		}
		req := &sheepdog.FlushRequest{Fence: sheepdog.Fence{Revision: v.Revision, Token: s.Token}, Family: s.Family, Flushed: flushed}
		if err := g.flushAll(ctx, members, req); err != nil {
			return err
		}
		for i, p := range parts {
			if err := g.sameInterval(s.Policy, p, since[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("flush family %d: %w", s.Family, err)
	}
	return nil
}

// flushStarter is a replica that can begin a flush that nobody waits for: done gets
// its outcome, and must not block. If it returns false nothing has happened.
type flushStarter interface {
	StartFlush(ctx context.Context, req *sheepdog.FlushRequest, done func(error)) bool
}

// flushAll flushes all members and waits for every answer. Remote ones are begun
// first, so that their work overlaps the local one.
func (g *Gateway) flushAll(ctx context.Context, members []sheepdog.Member, req *sheepdog.FlushRequest) error {
	if len(members) == 0 {
		return nil
	}
	f := g.newFan(len(members))
	local := -1
	for i, m := range members {
		if m.ID == g.self {
			local = i
			continue
		}
		g.startFlush(ctx, f, m, req)
	}
	if local >= 0 {
		m := members[local]
		f.finish(g.flushed(m, g.peers.Replica(m).Flush(ctx, req)))
	}
	return g.await(f)
}

func (g *Gateway) startFlush(ctx context.Context, f *fan, m sheepdog.Member, req *sheepdog.FlushRequest) {
	r := g.peers.Replica(m)
	finish := func(err error) { f.finish(g.flushed(m, err)) }
	if s, ok := r.(flushStarter); ok && s.StartFlush(ctx, req, finish) {
		return
	}
	go func() { finish(r.Flush(ctx, req)) }() // flushAll waits for it
}

// flushed notes what became of a member's flush.
func (g *Gateway) flushed(m sheepdog.Member, err error) error {
	if err == nil {
		return nil
	}
	g.note(m, err)
	return g.nodeError("flush", m, err)
}

// Settled tells every replica of the family up to which sequence number of the
// scope's token flushes are complete, so that it forgets that those writes were
// dirty. Flushes and writes say so of the flush before; this is for a coordinator
// that has nothing more to send. It tries once: a replica that was not reached
// remembers too much, which costs the next coordinator a comparison.
func (g *Gateway) Settled(ctx context.Context, s sheepdog.Scope, flushed uint64) error {
	v := g.views.View()
	if v == nil {
		return sheepdog.ErrNotFormatted
	}
	roll := g.roll(v, s.Policy)
	if roll.err != nil {
		return roll.err
	}
	req := &sheepdog.FlushRequest{Fence: sheepdog.Fence{Revision: v.Revision, Token: s.Token}, Family: s.Family, Flushed: flushed}
	err := g.each(ctx, roll.writers, "settle", func(ctx context.Context, _ sheepdog.Member, r sheepdog.Replica) error { return r.Flush(ctx, req) })
	if err != nil {
		return fmt.Errorf("settle family %d: %w", s.Family, err)
	}
	return nil
}

// flushSet is the union of the writers of the partitions, and their intervals.
func (g *Gateway) flushSet(v *sheepdog.View, policy sheepdog.Policy, parts []sheepdog.Partition) ([]sheepdog.Revision, []sheepdog.Member, error) {
	since := make([]sheepdog.Revision, len(parts))
	var members []sheepdog.Member
	var latest *route
	for i, part := range parts {
		to := g.route(v, policy, part)
		if to == nil {
			p, writers, err := writable(v, policy, part, false)
			if err != nil {
				return nil, nil, err
			}
			to = &route{since: p.Since, writers: writers}
		}
		since[i] = to.since
		if to == latest { // partitions share rows
			continue
		}
		latest = to
		for _, m := range to.writers {
			if !slices.ContainsFunc(members, func(o sheepdog.Member) bool { return o.ID == m.ID }) {
				members = append(members, m)
			}
		}
	}
	return since, members, nil
}

// each runs ask for every member at once and waits for all.
func (g *Gateway) each(ctx context.Context, members []sheepdog.Member, what string, ask func(context.Context, sheepdog.Member, sheepdog.Replica) error) error {
	if len(members) == 1 {
		return g.askOne(ctx, members[0], what, ask)
	}
	eg, ctx := errgroup.WithContext(ctx)
	for _, m := range members {
		eg.Go(func() error { return g.askOne(ctx, m, what, ask) })
	}
	return eg.Wait()
}

func (g *Gateway) askOne(ctx context.Context, m sheepdog.Member, what string, ask func(context.Context, sheepdog.Member, sheepdog.Replica) error) error {
	err := ask(ctx, m, g.peers.Replica(m))
	if err == nil {
		return nil
	}
	g.note(m, err)
	return g.nodeError(what, m, err)
}
