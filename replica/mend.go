package replica

import (
	"errors"
	"fmt"

	"sheepdog"
)

// meetsEqual reports whether a repair brings blocks with the very stamp that
// the replica holds. An engine leaves such blocks alone; whether they are
// sound has to be looked at.
func (s *Server) meetsEqual(r *sheepdog.WriteRequest) bool {
	recs := make([]sheepdog.Record, r.Count)
	if s.cfg.Engine.Records(r.Object, []sheepdog.LayerID{r.Layer}, r.Start, r.Count, recs) != nil {
		return false
	}
	for _, rec := range recs {
		if rec.Stamp == r.Stamp {
			return true
		}
	}
	return false
}

// mend applies a repair whose stamp the replica holds already. Blocks of that
// stamp are replaced if their bytes are bad or are not those of the repair: a
// stamp is given to one write only, so they must be the same. The gate is held
// alone, for a newer write must not come between look and replacement.
func (s *Server) mend(r *sheepdog.WriteRequest) error {
	sh := &s.shards[shardOf(r.Object.Partition())]
	sh.gate.Lock()
	defer sh.gate.Unlock()
	if _, err := s.admitWrite(sh.view.Load(), r, r.Object.Partition()); err != nil {
		return err
	}
	ops, err := s.mendOps(r)
	if err != nil {
		return fmt.Errorf("node %s: repair object %s layer %d: %w", s.cfg.Self, r.Object, r.Layer, err)
	}
	errs := make([]error, len(ops))
	s.cfg.Engine.Write(ops, errs)
	if err := firstError(errs); err != nil {
		return fmt.Errorf("node %s: repair object %s layer %d: %w", s.cfg.Self, r.Object, r.Layer, err)
	}
	return nil
}

// mendOps is the request by stamp, and a forced op for every unsound block.
func (s *Server) mendOps(r *sheepdog.WriteRequest) ([]sheepdog.Op, error) {
	chain := []sheepdog.LayerID{r.Layer}
	recs := make([]sheepdog.Record, r.Count)
	if err := s.cfg.Engine.Records(r.Object, chain, r.Start, r.Count, recs); err != nil {
		return nil, err
	}
	ops := []sheepdog.Op{writeOp(r)}
	buf := make([]byte, sheepdog.BlockSize)
	for i, rec := range recs {
		if rec.Stamp != r.Stamp {
			continue
		}
		op := writeOp(r)
		op.Start, op.Count, op.Force = r.Start+sheepdog.BlockNo(i), 1, true
		if r.Data != nil {
			op.Data = r.Data[i*sheepdog.BlockSize : (i+1)*sheepdog.BlockSize]
		}
		state := make([]sheepdog.BlockState, 1)
		err := s.cfg.Engine.Read(r.Object, chain, op.Start, 1, buf, state)
		if err != nil && !errors.Is(err, sheepdog.ErrChecksum) {
			return nil, err
		}
		if err != nil || !sameContent(rec, op.Data) {
			ops = append(ops, op)
		}
	}
	return ops, nil
}

// sameContent compares a record with the bytes of a block, nil for zeros.
func sameContent(rec sheepdog.Record, data []byte) bool {
	if data == nil {
		return rec.State == sheepdog.Zero
	}
	return rec.Holds(data)
}
