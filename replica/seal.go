package replica

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"sheepdog"
)

// Seal implements sheepdog.Replica: it promises the token and adopts the
// revision first, waits until every write admitted before is finished, and only
// then looks (docs/protocol.md rule 7).
//
// Token 0 promises nothing; recovery asks so for what it must carry over with
// the data. With family 0 besides, the reply has one entry with Count 0 for
// every family that has dirty blocks, origins or a promise; the token promised
// is in its Stamp.
func (s *Server) Seal(ctx context.Context, r *sheepdog.SealRequest) (*sheepdog.SealReply, error) {
	var reply *sheepdog.SealReply
	err := s.await(ctx, func(v *sheepdog.View) (err error) {
		reply, err = s.seal(v, r)
		return err
	})
	return reply, err
}

func (s *Server) seal(v *sheepdog.View, r *sheepdog.SealRequest) (*sheepdog.SealReply, error) {
	if err := s.fenceNode(v, r.Revision); err != nil {
		return nil, err
	}
	if r.Family == 0 {
		if r.Token != 0 {
			return nil, fmt.Errorf("%w: seal with token %d but no family", sheepdog.ErrInvalid, r.Token)
		}
		return s.activeFamilies(), nil
	}
	f := s.family(r.Family)
	if err := s.fenceToken(r.Family, r.Token); err != nil {
		return nil, err
	}
	s.drain(v)
	f.dropEnded(&s.lives)
	dirty, err := s.dirtyBlocks(r.Family, f)
	if err != nil {
		return nil, fmt.Errorf("node %s: seal family %d: %w", s.cfg.Self, r.Family, err)
	}
	return &sheepdog.SealReply{Dirty: dirty, Origins: f.listOrigins(s)}, nil
}

// activeFamilies names the families of which something is remembered.
func (s *Server) activeFamilies() *sheepdog.SealReply {
	s.families.mu.RLock()
	defer s.families.mu.RUnlock()
	reply := new(sheepdog.SealReply)
	for id, f := range s.families.all {
		f.mu.Lock()
		if len(f.dirty.all) > 0 || len(f.origins) > 0 || f.promised.Load() > 0 {
			reply.Dirty = append(reply.Dirty, sheepdog.DirtyBlocks{
				Object: sheepdog.ObjectID{Family: id}, Stamp: sheepdog.Stamp{Token: sheepdog.Token(f.promised.Load())}})
		}
		f.mu.Unlock()
	}
	slices.SortFunc(reply.Dirty, func(a, b sheepdog.DirtyBlocks) int {
		return cmp.Compare(a.Object.Family, b.Object.Family)
	})
	return reply
}

// dirtyBlocks lists what is dirty, in order. Marks of intervals after which
// this node ceased to act are void.
func (s *Server) dirtyBlocks(id sheepdog.FamilyID, f *family) ([]sheepdog.DirtyBlocks, error) {
	policy, _ := s.cfg.Layers.Policy(id)
	f.mu.Lock()
	defer f.mu.Unlock()
	keys := make([]replicaKey, 0, len(f.dirty.all))
	for key, d := range f.dirty.all {
		if !s.valid(place{policy, key.object.Partition()}, d.born) {
			f.runs -= len(d.runs)
			f.dirty.forget(key)
			continue
		}
		keys = append(keys, key)
	}
	slices.SortFunc(keys, replicaKey.compare)
	var out []sheepdog.DirtyBlocks
	for _, key := range keys {
		// Blocks of a layer that was absorbed belong to the one above it now; those
		// of a layer that was dropped are nobody's.
		owner, listed := s.cfg.Layers.Owner(key.layer)
		if !listed {
			f.runs -= len(f.dirty.all[key].runs)
			f.dirty.forget(key)
			continue
		}
		runs := f.dirty.all[key].runs
		if f.dirty.all[key].coarse {
			var err error
			if runs, err = s.resolveCoarse(replicaKey{key.object, owner}, runs[0], f.cleared); err != nil {
				return nil, err
			}
		}
		for _, r := range runs {
			out = append(out, sheepdog.DirtyBlocks{Object: key.object, Layer: owner,
				Start: sheepdog.BlockNo(r.from), Count: uint32(r.to - r.from), Stamp: r.stamp})
		}
	}
	return out, nil
}

// resolveCoarse replaces a covering run by the runs that the engine's records
// show to be newer than the last flush.
func (s *Server) resolveCoarse(key replicaKey, all stampedRun, cleared sheepdog.Stamp) ([]stampedRun, error) {
	recs := make([]sheepdog.Record, all.to-all.from)
	err := s.cfg.Engine.Records(key.object, s.cfg.Layers.Logical(key.layer), sheepdog.BlockNo(all.from), uint32(len(recs)), recs)
	if err != nil {
		return nil, err
	}
	var out []stampedRun
	for i, rec := range recs {
		if cleared.Less(rec.Stamp) {
			at := all.from + uint64(i)
			out = append(out, stampedRun{span{at, at + 1}, rec.Stamp})
		}
	}
	return joined(out), nil
}

// Flush implements sheepdog.Replica. Family 0 with token 0 makes everything
// durable on behalf of no coordinator.
func (s *Server) Flush(ctx context.Context, r *sheepdog.FlushRequest) error {
	return s.await(ctx, func(v *sheepdog.View) error { return s.flush(v, r) })
}

func (s *Server) flush(v *sheepdog.View, r *sheepdog.FlushRequest) error {
	if err := s.fenceNode(v, r.Revision); err != nil {
		return err
	}
	if err := s.fenceToken(r.Family, r.Token); err != nil {
		return err
	}
	if !s.cfg.NoSync {
		if err := s.cfg.Engine.Flush(); err != nil {
			return fmt.Errorf("node %s: flush family %d: %w", s.cfg.Self, r.Family, err)
		}
	}
	if r.Token == 0 {
		return nil
	}
	f := s.family(r.Family)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.clearLocked(sheepdog.Stamp{Token: r.Token, Seq: r.Flushed})
	return nil
}

// Carry takes over what a source of backfill remembered of a family: its
// promise, its origins, and its dirty marks for blocks that this node has with
// that stamp or a newer one. Without it a block that an unfinished write left
// on the source would, once copied, be found by no takeover after the source is
// gone.
func (s *Server) Carry(revision sheepdog.Revision, id sheepdog.FamilyID, promised sheepdog.Token, from *sheepdog.SealReply) error {
	policy, ok := s.cfg.Layers.Policy(id)
	if !ok {
		return nil // deleted meanwhile, and its data with it
	}
	held, err := s.heldRuns(policy, from.Dirty)
	if err != nil {
		return fmt.Errorf("node %s: carry dirty marks of family %d: %w", s.cfg.Self, id, err)
	}
	f := s.family(id)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.raiseLocked(promised)
	for _, d := range held {
		at := place{policy, d.Object.Partition()}
		f.markLocked(s, mark{at, replicaKey{d.Object, d.Layer}, blocks(d.Start, d.Count), d.Stamp, revision})
	}
	for _, o := range from.Origins {
		f.originsLocked(o.Gateway).add(o.Request, site{since: revision, carried: true})
	}
	return nil
}

// heldRuns cuts the runs down to the blocks that this node has.
func (s *Server) heldRuns(policy sheepdog.Policy, dirty []sheepdog.DirtyBlocks) ([]sheepdog.DirtyBlocks, error) {
	v := s.view()
	var out []sheepdog.DirtyBlocks
	for _, d := range dirty {
		pl, ok := v.Placement(policy, d.Object.Partition())
		if !ok || !pl.IsWriter(s.cfg.Self) || s.checkBlocks(d.Object.Family, d.Start, d.Count) != nil {
			continue
		}
		recs := make([]sheepdog.Record, d.Count)
		if err := s.cfg.Engine.Records(d.Object, s.cfg.Layers.Logical(d.Layer), d.Start, d.Count, recs); err != nil {
			return nil, err
		}
		for i, rec := range recs {
			if !rec.Stamp.Less(d.Stamp) {
				one := d
				one.Start, one.Count = d.Start+sheepdog.BlockNo(i), 1
				out = append(out, one)
			}
		}
	}
	return out, nil
}
