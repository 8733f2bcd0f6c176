package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"sheepdog"
)

// Takeover makes every replica promise the token of the scope, and makes the
// blocks equal that an earlier coordinator may have left unfinished
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
		parts, err := g.reconcile(ctx, v, s, sealed)
		if err != nil {
			return err
		}
		if now := g.views.View(); now.Revision != v.Revision {
			return fmt.Errorf("%w: revision %d, takeover began in %d", sheepdog.ErrStale, now.Revision, v.Revision)
		}
		origins = sealed.origins
		return g.Flush(ctx, s, parts, 0)
	})
	if err != nil {
		return nil, fmt.Errorf("take over family %d with token %d: %w", s.Family, s.Token, err)
	}
	return origins, nil
}

// sealed is what all replicas told.
type sealed struct {
	dirty   map[sheepdog.NodeID][]sheepdog.DirtyBlocks
	origins []sheepdog.Origin
}

// all joins the dirty runs of all replicas.
func (s *sealed) all() []sheepdog.DirtyBlocks {
	var out []sheepdog.DirtyBlocks
	for _, runs := range s.dirty {
		out = append(out, runs...)
	}
	return union(out)
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
	all := &sealed{dirty: make(map[sheepdog.NodeID][]sheepdog.DirtyBlocks)}
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

// reconcile makes every dirty block equal and returns the partitions it wrote.
func (g *Gateway) reconcile(ctx context.Context, v *sheepdog.View, s sheepdog.Scope, sealed *sealed) ([]sheepdog.Partition, error) {
	touched := make(map[sheepdog.Partition]bool)
	var parts []sheepdog.Partition
	for _, run := range sealed.all() {
		if err := g.reconcileRun(ctx, v, s, run, sealed); err != nil {
			return nil, err
		}
		if p := run.Object.Partition(); !touched[p] {
			touched[p] = true
			parts = append(parts, p)
		}
	}
	return parts, nil
}

// witness is what one replica holds of a run of blocks.
type witness struct {
	reply *sheepdog.FetchReply
	// only is set for a target: it counts for the blocks that it reported dirty,
	// because what else it holds is of unknown worth (rule 8).
	only []sheepdog.DirtyBlocks
}

// counts reports whether the witness may speak of block b.
func (w *witness) counts(b sheepdog.BlockNo, layer sheepdog.LayerID, obj sheepdog.ObjectID) bool {
	if w.only == nil {
		return true
	}
	for _, d := range w.only {
		if d.Object == obj && d.Layer == layer && b >= d.Start && b < d.Start+sheepdog.BlockNo(d.Count) {
			return true
		}
	}
	return false
}

// reconcileRun compares one run of blocks on all replicas and pushes the
// winners.
func (g *Gateway) reconcileRun(ctx context.Context, v *sheepdog.View, s sheepdog.Scope, run sheepdog.DirtyBlocks, sealed *sealed) error {
	p, writers, err := writable(v, s.Policy, run.Object.Partition(), true)
	if err != nil {
		return err
	}
	fetch := &sheepdog.FetchRequest{Fence: sheepdog.Fence{Revision: v.Revision, Token: s.Token}, Policy: s.Policy,
		Object: run.Object, Layer: run.Layer, Start: run.Start, Count: run.Count, WithData: true}
	var mu sync.Mutex
	var witnesses []witness
	err = g.each(ctx, writers, "fetch", func(ctx context.Context, m sheepdog.Member, r sheepdog.Replica) error {
		w := witness{}
		if !p.IsActing(m.ID) {
			if w.only = sealed.dirty[m.ID]; len(w.only) == 0 {
				return nil
			}
		}
		reply, err := r.Fetch(ctx, fetch)
		if errors.Is(err, sheepdog.ErrNotFound) {
			// The layer was absorbed since the seal: ask again what is dirty.
			return fmt.Errorf("%w: %v", sheepdog.ErrStale, err)
		}
		if err != nil {
			return err
		}
		w.reply = reply
		mu.Lock()
		defer mu.Unlock()
		witnesses = append(witnesses, w)
		return nil
	})
	if err != nil {
		return err
	}
	for _, w := range winners(run, witnesses) {
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
func winners(run sheepdog.DirtyBlocks, witnesses []witness) []*sheepdog.WriteRequest {
	var out []*sheepdog.WriteRequest
	for i := range run.Count {
		best, same := winner(run, i, witnesses)
		if same || best == nil {
			continue
		}
		rec := best.Records[i]
		if rec.State == sheepdog.Absent {
			continue
		}
		w := &sheepdog.WriteRequest{Object: run.Object, Layer: run.Layer, Start: run.Start + sheepdog.BlockNo(i), Count: 1, Stamp: rec.Stamp, Repair: true}
		if rec.State == sheepdog.Data {
			w.Data = best.Data[i*sheepdog.BlockSize : (i+1)*sheepdog.BlockSize]
		}
		out = append(out, w)
	}
	return out
}

// winner is the reply with the highest stamp of block i of the run and good
// bytes; same says that all have the same.
func winner(run sheepdog.DirtyBlocks, i uint32, witnesses []witness) (best *sheepdog.FetchReply, same bool) {
	same = true
	b := run.Start + sheepdog.BlockNo(i)
	var first *sheepdog.Record
	for k := range witnesses {
		w := &witnesses[k]
		if !w.counts(b, run.Layer, run.Object) {
			same = false // it may hold anything
			continue
		}
		rec := &w.reply.Records[i]
		if first == nil {
			first = rec
		}
		same = same && *rec == *first
		if slices.Contains(w.reply.Bad, b) {
			same = false
			continue
		}
		if best == nil || best.Records[i].Stamp.Less(rec.Stamp) {
			best = w.reply
		}
	}
	return best, same
}
