package replica

import (
	"context"
	"errors"
	"fmt"

	"sheepdog"
)

// Read implements sheepdog.Replica: it answers only where this node acts and
// the partition is clean (docs/protocol.md rule 5).
func (s *Server) Read(ctx context.Context, r *sheepdog.ReadRequest) error {
	if uint64(len(r.Buf)) != uint64(r.Count)*sheepdog.BlockSize || len(r.States) != int(r.Count) {
		return fmt.Errorf("%w: %d bytes and %d states for %d blocks", sheepdog.ErrInvalid, len(r.Buf), len(r.States), r.Count)
	}
	return s.await(ctx, func(v *sheepdog.View) error { return s.read(v, r) })
}

// read looks at the view again after the bytes were read: a replica is dropped
// only after a view said that it acts here no more, so if the view stands, the
// bytes were not those of a dropped replica.
func (s *Server) read(v *sheepdog.View, r *sheepdog.ReadRequest) error {
	p := r.Object.Partition()
	if err := s.admitRead(v, r); err != nil {
		return err
	}
	s.adopt(shardOf(p), v)
	s.serving(r.Object.Family)
	err := s.cfg.Engine.Read(r.Object, s.cfg.Layers.Chain(r.Layer), r.Start, r.Count, r.Buf, r.States)
	if err := s.fenceReader(s.view(), r.Revision, r.Policy, p); err != nil {
		return err
	}
	if err == nil {
		return nil
	}
	var bad *sheepdog.BadBlocksError
	if errors.As(err, &bad) && s.cfg.Heal != nil {
		s.cfg.Heal(r.Object, r.Layer, bad.Blocks)
	}
	return fmt.Errorf("node %s: read layer %d: %w", s.cfg.Self, r.Layer, err)
}

func (s *Server) admitRead(v *sheepdog.View, r *sheepdog.ReadRequest) error {
	if err := s.fenceReader(v, r.Revision, r.Policy, r.Object.Partition()); err != nil {
		return err
	}
	if err := s.checkBlocks(r.Object.Family, r.Start, r.Count); err != nil {
		return err
	}
	if err := s.knownLayer(r.Layer, sheepdog.ErrNotFound); err != nil {
		return s.fencedRather(r.Object.Family, r.Token, err)
	}
	if err := s.fencePolicy(r.Object.Family, r.Policy); err != nil {
		return err
	}
	return s.fenceToken(r.Object.Family, r.Token)
}

// fenceToken checks the token of a request that may come without one.
func (s *Server) fenceToken(id sheepdog.FamilyID, token sheepdog.Token) error {
	if token == 0 {
		return nil
	}
	return s.promise(s.family(id), id, token)
}
