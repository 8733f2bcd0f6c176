package gateway

import (
	"context"
	"fmt"
	"sync"

	"sheepdog"
)

// Takeover makes every acting replica promise the token of the scope, and makes
// the blocks equal that an earlier coordinator may have left unfinished
// (docs/protocol.md rule 7): of every block that is dirty anywhere the highest
// stamp wins and is written to all acting replicas and targets. It returns the
// origins of the forwarded writes that are now in place. A view change in
// between starts it again. Nothing of the family may be read or written under
// the token before it has returned.
func (g *Gateway) Takeover(ctx context.Context, s sheepdog.Scope) ([]sheepdog.Origin, error) {
	var origins []sheepdog.Origin
	err := g.retry(ctx, func(v *sheepdog.View) error {
		sealed, err := g.seal(ctx, v, s)
		if err != nil {
			return err
		}
		parts, err := g.reconcile(ctx, v, s, sealed.Dirty)
		if err != nil {
			return err
		}
		if now := g.views.View(); now.Revision != v.Revision {
			return fmt.Errorf("%w: revision %d, takeover began in %d", sheepdog.ErrStale, now.Revision, v.Revision)
		}
		origins = sealed.Origins
		return g.Flush(ctx, s, parts, 0)
	})
	if err != nil {
		return nil, fmt.Errorf("take over family %d with token %d: %w", s.Family, s.Token, err)
	}
	return origins, nil
}

// seal asks every member that acts anywhere under the policy.
func (g *Gateway) seal(ctx context.Context, v *sheepdog.View, s sheepdog.Scope) (*sheepdog.SealReply, error) {
	acting, err := actingAnywhere(v, s.Policy)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	all := new(sheepdog.SealReply)
	req := &sheepdog.SealRequest{Fence: sheepdog.Fence{Revision: v.Revision, Token: s.Token}, Family: s.Family}
	err = g.each(ctx, acting, "seal", func(ctx context.Context, _ sheepdog.Member, r sheepdog.Replica) error {
		reply, err := r.Seal(ctx, req)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		all.Dirty = append(all.Dirty, reply.Dirty...)
		all.Origins = append(all.Origins, reply.Origins...)
		return nil
	})
	return all, err
}

// actingAnywhere lists the members that act in some partition; an error if a
// partition cannot serve yet, for its dirty blocks would be missed.
func actingAnywhere(v *sheepdog.View, policy sheepdog.Policy) ([]sheepdog.Member, error) {
	t, ok := v.Tables[policy]
	if !ok {
		return nil, fmt.Errorf("%w: no table for policy %s in revision %d", errWaiting, policy, v.Revision)
	}
	seen := make(map[sheepdog.NodeID]bool)
	var out []sheepdog.Member
	var last *sheepdog.Placement // rows are shared: neighbours are often the same
	for part, p := range t {
		if p == last {
			continue
		}
		last = p
		live, missing := v.ActingMembers(p)
		if missing > 0 || p.State != sheepdog.Clean {
			return nil, fmt.Errorf("%w: partition %d has %d acting replicas missing", errWaiting, part, missing)
		}
		for _, m := range live {
			if !seen[m.ID] {
				seen[m.ID] = true
				out = append(out, m)
			}
		}
	}
	return out, nil
}

// reconcile makes every dirty block equal and returns the partitions it wrote.
func (g *Gateway) reconcile(ctx context.Context, v *sheepdog.View, s sheepdog.Scope, dirty []sheepdog.DirtyBlocks) ([]sheepdog.Partition, error) {
	touched := make(map[sheepdog.Partition]bool)
	var parts []sheepdog.Partition
	for _, run := range union(dirty) {
		if err := g.reconcileRun(ctx, v, s, run); err != nil {
			return nil, err
		}
		if p := run.Object.Partition(); !touched[p] {
			touched[p] = true
			parts = append(parts, p)
		}
	}
	return parts, nil
}

// reconcileRun compares one run of blocks on all acting replicas and pushes the
// winners.
func (g *Gateway) reconcileRun(ctx context.Context, v *sheepdog.View, s sheepdog.Scope, run sheepdog.DirtyBlocks) error {
	_, writers, err := writable(v, s.Policy, run.Object.Partition(), true)
	if err != nil {
		return err
	}
	p, _ := v.Placement(s.Policy, run.Object.Partition())
	acting, _ := v.ActingMembers(p)
	replies := make([]*sheepdog.FetchReply, len(acting))
	fetch := &sheepdog.FetchRequest{Fence: sheepdog.Fence{Revision: v.Revision, Token: s.Token}, Policy: s.Policy,
		Object: run.Object, Layer: run.Layer, Start: run.Start, Count: run.Count, WithData: true}
	index := make(map[sheepdog.NodeID]int, len(acting))
	for i, m := range acting {
		index[m.ID] = i
	}
	err = g.each(ctx, acting, "fetch", func(ctx context.Context, m sheepdog.Member, r sheepdog.Replica) (err error) {
		replies[index[m.ID]], err = r.Fetch(ctx, fetch)
		return err
	})
	if err != nil {
		return err
	}
	for _, w := range winners(run, replies) {
		w.Fence, w.Policy = fetch.Fence, s.Policy
		if err := g.fanOut(ctx, w, writers); err != nil {
			return err
		}
	}
	return nil
}

// winners picks the highest stamp of every block on which the replies differ.
// A block whose bytes are bad on the replica that has the highest stamp is taken
// from another with the same stamp.
func winners(run sheepdog.DirtyBlocks, replies []*sheepdog.FetchReply) []*sheepdog.WriteRequest {
	var out []*sheepdog.WriteRequest
	for b := range run.Count {
		best, same := -1, true
		for i, r := range replies {
			rec := r.Records[b]
			same = same && rec == replies[0].Records[b]
			if bad(r, run.Start+sheepdog.BlockNo(b)) {
				same = false
				continue
			}
			if best < 0 || replies[best].Records[b].Stamp.Less(rec.Stamp) {
				best = i
			}
		}
		if same || best < 0 {
			continue
		}
		rec := replies[best].Records[b]
		if rec.State == sheepdog.Absent {
			continue
		}
		w := &sheepdog.WriteRequest{Object: run.Object, Layer: run.Layer, Start: run.Start + sheepdog.BlockNo(b), Count: 1, Stamp: rec.Stamp, Repair: true}
		if rec.State == sheepdog.Data {
			w.Data = replies[best].Data[b*sheepdog.BlockSize : (b+1)*sheepdog.BlockSize]
		}
		out = append(out, w)
	}
	return out
}

func bad(r *sheepdog.FetchReply, b sheepdog.BlockNo) bool {
	for _, n := range r.Bad {
		if n == b {
			return true
		}
	}
	return false
}
