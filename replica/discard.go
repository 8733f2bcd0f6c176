package replica

import (
	"context"
	"fmt"

	"sheepdog"
)

// scratchLayer is the first of the layer ids that hold blocks for the time of a
// Discard. The directory never gives out ids this high; what a crash leaves of
// them is dropped by DropScratch.
const scratchLayer sheepdog.LayerID = 1 << 63

// DropScratch drops what a crash left of temporary layers. No Discard may run
// meanwhile.
func (s *Server) DropScratch() error {
	held, err := s.cfg.Engine.Layers()
	if err != nil {
		return fmt.Errorf("node %s: list layers: %w", s.cfg.Self, err)
	}
	for layer := range held {
		if layer < scratchLayer {
			continue
		}
		if err := s.cfg.Engine.DropLayer(layer); err != nil {
			return fmt.Errorf("node %s: drop scratch layer: %w", s.cfg.Self, err)
		}
	}
	return nil
}

// discardChunk is how many blocks a Discard holds in memory.
const discardChunk = 256

// Touched says which blocks of a replica were written or backfilled in the
// present interval of a partition in which this node is a target; the others
// are of unknown worth (docs/protocol.md rule 8).
func (s *Server) Touched(r *sheepdog.FetchRequest) ([]bool, error) {
	t, unlock, err := s.hold(r)
	if err != nil {
		return nil, err
	}
	defer unlock()
	out := make([]bool, r.Count)
	all := blocks(r.Start, r.Count)
	t.blocks.split(all, func(part span, in bool) {
		for b := part.from; b < part.to; b++ {
			out[b-all.from] = in
		}
	})
	return out, nil
}

// Distrust makes blocks untouched again that still hold one of the stamps up to
// the given one, so that the next backfill replaces them. It is for a write
// that no acting replica has or can still accept.
func (s *Server) Distrust(r *sheepdog.FetchRequest, upTo sheepdog.Stamp) error {
	t, unlock, err := s.hold(r)
	if err != nil {
		return err
	}
	defer unlock()
	recs := make([]sheepdog.Record, r.Count)
	if err := s.records(r, recs); err != nil {
		return fmt.Errorf("node %s: distrust object %s layer %d: %w", s.cfg.Self, r.Object, r.Layer, err)
	}
	for i, rec := range recs {
		if !upTo.Less(rec.Stamp) {
			t.blocks.remove(blocks(r.Start+sheepdog.BlockNo(i), 1))
		}
	}
	return nil
}

// Discard drops everything of one replica of a target that no write of the
// present interval made. Blocks that were written in it are kept: they are
// moved to a scratch layer and merged back after the rest is gone.
func (s *Server) Discard(ctx context.Context, r *sheepdog.FetchRequest) error {
	t, unlock, err := s.hold(r)
	if err != nil {
		return err
	}
	defer unlock()
	scratch := scratchLayer + sheepdog.LayerID(s.scratch.Add(1))
	for _, x := range t.blocks {
		if err := s.keep(ctx, r, x, scratch); err != nil {
			return fmt.Errorf("node %s: discard object %s layer %d: keep blocks: %w", s.cfg.Self, r.Object, r.Layer, err)
		}
	}
	raise(&s.dropped, uint64(s.view().Revision))
	for _, layer := range s.cfg.Layers.Logical(r.Layer) {
		if err := s.cfg.Engine.DropObject(r.Object, layer); err != nil {
			return fmt.Errorf("node %s: discard object %s layer %d: %w", s.cfg.Self, r.Object, layer, err)
		}
	}
	if len(t.blocks) == 0 {
		return nil
	}
	if err := s.cfg.Engine.Merge(scratch, r.Layer); err != nil {
		return fmt.Errorf("node %s: discard object %s layer %d: merge kept blocks: %w", s.cfg.Self, r.Object, r.Layer, err)
	}
	return nil
}

// hold takes the gate of a partition alone and finds the touched set of one
// replica; it refuses where this node is no target or acts.
func (s *Server) hold(r *sheepdog.FetchRequest) (*touched, func(), error) {
	p := r.Object.Partition()
	v := s.view()
	if err := s.fenceMember(v, r.Revision); err != nil {
		return nil, nil, err
	}
	s.adopt(shardOf(p), v)
	sh := &s.shards[shardOf(p)]
	sh.gate.Lock()
	pl, err := s.fenceWriter(sh.view.Load(), r.Revision, r.Policy, p)
	if err == nil && pl.IsActing(s.cfg.Self) {
		err = fmt.Errorf("node %s: %w: partition %d acts here", s.cfg.Self, sheepdog.ErrConflict, p)
	}
	if err != nil {
		sh.gate.Unlock()
		return nil, nil, err
	}
	in := sh.untrustedInterval(place{r.Policy, p}, pl, s.cfg.Self)
	return in.object(replicaKey{r.Object, r.Layer}), sh.gate.Unlock, nil
}

// keep copies blocks to the scratch layer.
func (s *Server) keep(ctx context.Context, r *sheepdog.FetchRequest, x span, scratch sheepdog.LayerID) error {
	for at := x.from; at < x.to; at += discardChunk {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		chunk := *r
		chunk.Start, chunk.Count, chunk.WithData = sheepdog.BlockNo(at), uint32(min(discardChunk, x.to-at)), true
		reply, stable, err := s.lookOnce(&chunk)
		switch {
		case err != nil:
			return err
		case !stable || len(reply.Bad) > 0:
			return fmt.Errorf("blocks at %d: %w", at, sheepdog.ErrChecksum)
		}
		if err := s.writeAs(&chunk, reply, scratch); err != nil {
			return err
		}
	}
	return nil
}

// writeAs writes a fetched run into another layer, block states and stamps as
// they are.
func (s *Server) writeAs(r *sheepdog.FetchRequest, reply *sheepdog.FetchReply, layer sheepdog.LayerID) error {
	var ops []sheepdog.Op
	for i, rec := range reply.Records {
		if rec.State == sheepdog.Absent {
			continue
		}
		op := sheepdog.Op{Object: r.Object, Layer: layer, Start: r.Start + sheepdog.BlockNo(i), Count: 1, Stamp: rec.Stamp, Force: true}
		if rec.State == sheepdog.Data {
			op.Data = reply.Data[i*sheepdog.BlockSize : (i+1)*sheepdog.BlockSize]
		}
		ops = append(ops, op)
	}
	errs := make([]error, len(ops))
	s.cfg.Engine.Write(ops, errs)
	return firstError(errs)
}

// Evict drops one physical object of a partition that is complete without this
// node. It does nothing if the newest view wants the replica here.
func (s *Server) Evict(policy sheepdog.Policy, obj sheepdog.ObjectID, layer sheepdog.LayerID) error {
	p := obj.Partition()
	v := s.view()
	if v == nil {
		return nil
	}
	s.adopt(shardOf(p), v)
	sh := &s.shards[shardOf(p)]
	sh.gate.Lock()
	defer sh.gate.Unlock()
	v = sh.view.Load()
	pl, ok := v.Placement(policy, p)
	if !ok || pl.IsWriter(s.cfg.Self) || !pl.Complete() {
		return nil
	}
	raise(&s.dropped, uint64(v.Revision))
	if err := s.cfg.Engine.DropObject(obj, layer); err != nil {
		return fmt.Errorf("node %s: evict object %s layer %d: %w", s.cfg.Self, obj, layer, err)
	}
	return nil
}
