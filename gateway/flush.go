package gateway

import (
	"context"
	"fmt"

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
		since, members, err := flushSet(v, s.Policy, parts)
		if err != nil {
			return err
		}
		req := &sheepdog.FlushRequest{Fence: sheepdog.Fence{Revision: v.Revision, Token: s.Token}, Family: s.Family, Flushed: flushed}
		err = g.each(ctx, members, "flush", func(ctx context.Context, _ sheepdog.Member, r sheepdog.Replica) error {
			return r.Flush(ctx, req)
		})
		if err != nil {
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
func flushSet(v *sheepdog.View, policy sheepdog.Policy, parts []sheepdog.Partition) ([]sheepdog.Revision, []sheepdog.Member, error) {
	since := make([]sheepdog.Revision, len(parts))
	seen := make(map[sheepdog.NodeID]bool)
	var members []sheepdog.Member
	for i, part := range parts {
		p, writers, err := writable(v, policy, part, false)
		if err != nil {
			return nil, nil, err
		}
		since[i] = p.Since
		for _, m := range writers {
			if !seen[m.ID] {
				seen[m.ID] = true
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
