package gateway

import (
	"cmp"
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"sheepdog"
)

// Takeover makes every replica promise the token of the scope, and makes the
// blocks equal that an earlier coordinator may have left unfinished
// (docs/protocol.md rule 7): of every block that is dirty anywhere the highest
// stamp wins and is written to all acting replicas and targets. It returns the
// origins of the forwarded writes that are now in place, or says that some may not be. A change of the members in
// between starts it again, and so does one of a partition that had dirty blocks.
// Nothing of the family may be read or written under the token before it has
// returned.
func (g *Gateway) Takeover(ctx context.Context, s sheepdog.Scope) (sheepdog.Succession, error) {
	var out sheepdog.Succession
	err := g.retry(ctx, func(v *sheepdog.View) error {
		sealed, err := g.seal(ctx, v, s)
		if err != nil {
			return err
		}
		parts, err := g.reconcile(ctx, v, s, sealed)
		out.Lost = cmp.Or(out.Lost, sealed.lost) // what was undone by a try that is given up stays undone
		if err != nil {
			return err
		}
		if err := g.stands(s.Policy, sealed.roll, g.views.View(), parts); err != nil {
			return err
		}
		out.Origins = sealed.origins
		return g.Flush(ctx, s, parts, 0)
	})
	if err != nil {
		return sheepdog.Succession{}, fmt.Errorf("take over family %d with token %d: %w", s.Family, s.Token, err)
	}
	return out, nil
}

// Origins lists the forwarded writes that were applied in a family, as Takeover does,
// but promises nothing: for whoever goes on with its VDI in another family.
func (g *Gateway) Origins(ctx context.Context, s sheepdog.Scope) ([]sheepdog.Origin, error) {
	s.Token = 0
	var origins []sheepdog.Origin
	err := g.retry(ctx, func(v *sheepdog.View) error {
		sealed, err := g.seal(ctx, v, s)
		if err == nil {
			origins = sealed.origins
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ask which writes to family %d were applied: %w", s.Family, err)
	}
	return origins, nil
}

// stands reports whether what was sealed and made equal in one view is good in a
// later one. Steps of recovery elsewhere are of no matter, and there may be one every
// few milliseconds: whoever acts or is a target now was one of those that were
// asked, and what it was given since comes from another one.
func (g *Gateway) stands(policy sheepdog.Policy, asked *roll, now *sheepdog.View, parts []sheepdog.Partition) error {
	v := asked.view
	if now.Revision == v.Revision {
		return nil
	}
	moved := now.Epoch != v.Epoch
	for _, p := range parts {
		was, _ := v.Placement(policy, p)
		is, ok := now.Placement(policy, p)
		moved = moved || !ok || is.Since != was.Since
	}
	if after := g.roll(now, policy); moved || after.err != nil || !after.within(asked) {
		return fmt.Errorf("%w: revision %d, takeover began in %d", sheepdog.ErrStale, now.Revision, v.Revision)
	}
	return nil
}

// sealed is what all replicas told.
type sealed struct {
	roll    *roll // who was asked
	dirty   map[sheepdog.NodeID][]sheepdog.DirtyBlocks
	origins []sheepdog.Origin

	mu   sync.Mutex
	lost error // of a write that some of them told of: its bytes are not to be had any more
}

// lose notes such a write, once.
func (s *sealed) lose(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost = cmp.Or(s.lost, err)
}

// partitions are those that have dirty blocks.
func (s *sealed) partitions() []sheepdog.Partition {
	var seen [sheepdog.Partitions]bool
	var out []sheepdog.Partition
	for _, runs := range s.dirty {
		for _, r := range runs {
			if p := r.Object.Partition(); !seen[p] {
				seen[p] = true
				out = append(out, p)
			}
		}
	}
	return out
}

// unequal joins the dirty runs that some replica may have otherwise than the others.
// A run that all acting replicas and targets report with one stamp all of them have:
// a mark tells what is in place, and one of a replica does not overlap another. So it
// is with nearly all that was written since the last flush, and to ask for the
// records of every object takes seconds where a guest wrote all over a large disk.
func (s *sealed) unequal() []sheepdog.DirtyBlocks {
	reports := make(map[sheepdog.DirtyBlocks]int)
	for id, runs := range s.dirty {
		for _, r := range runs {
			if pl, ok := s.roll.view.Placement(s.roll.policy, r.Object.Partition()); ok && pl.IsWriter(id) {
				reports[r]++
			}
		}
	}
	var out []sheepdog.DirtyBlocks
	for _, runs := range s.dirty {
		for _, r := range runs {
			if pl, ok := s.roll.view.Placement(s.roll.policy, r.Object.Partition()); !ok || reports[r] < writersOf(pl) {
				out = append(out, r)
			}
		}
	}
	return union(out)
}

func writersOf(pl *sheepdog.Placement) int {
	n := len(pl.Acting)
	for _, id := range pl.Target {
		if !pl.IsActing(id) {
			n++
		}
	}
	return n
}

// seal asks every member that accepts writes anywhere under the policy. Targets
// promise too: a late write of the coordinator before must not reach one that is
// about to be promoted.
func (g *Gateway) seal(ctx context.Context, v *sheepdog.View, s sheepdog.Scope) (*sealed, error) {
	roll := g.roll(v, s.Policy)
	if roll.err != nil {
		return nil, roll.err
	}
	var mu sync.Mutex
	all := &sealed{roll: roll, dirty: make(map[sheepdog.NodeID][]sheepdog.DirtyBlocks)}
	req := &sheepdog.SealRequest{Fence: sheepdog.Fence{Revision: v.Revision, Token: s.Token}, Family: s.Family}
	err := g.each(ctx, roll.writers, "seal", func(ctx context.Context, m sheepdog.Member, r sheepdog.Replica) error {
		reply, err := r.Seal(ctx, req)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		all.dirty[m.ID] = reply.Dirty
		all.origins = append(all.origins, reply.Origins...)
		return nil
	})
	return all, err
}

// parallelWindows bounds how many windows of dirty blocks are compared at a time.
const parallelWindows = 16

// reconcile makes every dirty block equal and returns the partitions that have any.
func (g *Gateway) reconcile(ctx context.Context, v *sheepdog.View, s sheepdog.Scope, sealed *sealed) ([]sheepdog.Partition, error) {
	eg, ctx := errgroup.WithContext(ctx)
	eg.SetLimit(parallelWindows)
	for _, w := range windows(sealed.unequal()) {
		r := reconciler{g: g, view: v, scope: s, window: w, sealed: sealed}
		eg.Go(func() error { return r.run(ctx) })
	}
	return sealed.partitions(), eg.Wait()
}
