package replica

import (
	"fmt"

	"sheepdog"
)

// fenceMember checks that the view is known here and lists this incarnation
// (docs/protocol.md rule 2: a restarted process is mute until a commit does).
func (s *Server) fenceMember(v *sheepdog.View, revision sheepdog.Revision) error {
	if v == nil || revision > v.Revision {
		return &waiting{fmt.Sprintf("revision %d is not known here", revision)}
	}
	m, ok := v.Member(s.cfg.Self)
	if !ok || m.Incarnation != s.cfg.Incarnation {
		return fmt.Errorf("node %s: %w: incarnation %s is no member of revision %d",
			s.cfg.Self, sheepdog.ErrNotActing, s.cfg.Incarnation, v.Revision)
	}
	return nil
}

// fenceNode is the fence of requests that are for no partition: besides, the
// request must be meant for this incarnation and not for an earlier life of the
// node. Where there is a partition, its Since tells.
func (s *Server) fenceNode(v *sheepdog.View, revision sheepdog.Revision) error {
	if err := s.fenceMember(v, revision); err != nil {
		return err
	}
	if uint64(revision) < s.born.Load() {
		return fmt.Errorf("node %s: %w: revision %d is older than incarnation %s",
			s.cfg.Self, sheepdog.ErrStale, revision, s.cfg.Incarnation)
	}
	return nil
}

// fence checks a request of the given revision for a partition against v
// (rule 1) and returns the placement in v. A request older than v passes if the
// partition did not change between the two: then both mean the same nodes.
func (s *Server) fence(v *sheepdog.View, revision sheepdog.Revision, policy sheepdog.Policy, p sheepdog.Partition) (*sheepdog.Placement, error) {
	if err := s.fenceMember(v, revision); err != nil {
		return nil, err
	}
	pl, ok := v.Placement(policy, p)
	if !ok {
		return nil, fmt.Errorf("node %s: %w: no table for policy %s in revision %d", s.cfg.Self, sheepdog.ErrNotActing, policy, v.Revision)
	}
	if pl.Since > revision {
		return nil, fmt.Errorf("node %s: %w: partition %d changed in revision %d, request is of %d",
			s.cfg.Self, sheepdog.ErrStale, p, pl.Since, revision)
	}
	return pl, nil
}

// fenceWriter is fence for requests that only acting replicas and targets
// answer.
func (s *Server) fenceWriter(v *sheepdog.View, revision sheepdog.Revision, policy sheepdog.Policy, p sheepdog.Partition) (*sheepdog.Placement, error) {
	pl, err := s.fence(v, revision, policy, p)
	if err != nil {
		return nil, err
	}
	if !pl.IsWriter(s.cfg.Self) {
		return nil, s.notActing(v, p, "holds no replica of it")
	}
	return pl, nil
}

// fenceReader is fence for guest reads: only a clean acting replica answers.
func (s *Server) fenceReader(v *sheepdog.View, revision sheepdog.Revision, policy sheepdog.Policy, p sheepdog.Partition) error {
	pl, err := s.fence(v, revision, policy, p)
	switch {
	case err != nil:
		return err
	case !pl.IsActing(s.cfg.Self):
		return s.notActing(v, p, "does not act")
	case pl.State != sheepdog.Clean:
		return s.notActing(v, p, "waits for comparison with the other replicas")
	}
	return nil
}

func (s *Server) notActing(v *sheepdog.View, p sheepdog.Partition, why string) error {
	return fmt.Errorf("node %s: %w: partition %d, revision %d: %s", s.cfg.Self, sheepdog.ErrNotActing, p, v.Revision, why)
}

// knownLayer says whether a layer may be used: nil, waiting while the directory
// here may lag, or missing if the layer was deleted.
func (s *Server) knownLayer(layer sheepdog.LayerID, missing error) error {
	if _, known := s.cfg.Layers.Frozen(layer); known {
		return nil
	}
	if s.cfg.Layers.Dropped(layer) {
		return fmt.Errorf("node %s: layer %d is deleted: %w", s.cfg.Self, layer, missing)
	}
	return &waiting{fmt.Sprintf("layer %d is not known here", layer)}
}

// fencePolicy checks that the request places its object as the directory does.
func (s *Server) fencePolicy(family sheepdog.FamilyID, policy sheepdog.Policy) error {
	have, ok := s.cfg.Layers.Policy(family)
	if !ok {
		return &waiting{fmt.Sprintf("family %d is not known here", family)}
	}
	if have != policy {
		return &waiting{fmt.Sprintf("family %d has policy %s here, %s in the request", family, have, policy)}
	}
	return nil
}

// checkBlocks refuses block ranges that no object of the family has.
func (s *Server) checkBlocks(family sheepdog.FamilyID, start sheepdog.BlockNo, count uint32) error {
	limit := s.blocksPerObject(family)
	if count == 0 || uint64(start)+uint64(count) > limit {
		return fmt.Errorf("%w: blocks %d to %d of an object with %d", sheepdog.ErrInvalid, start, uint64(start)+uint64(count), limit)
	}
	return nil
}

// blocksPerObject is the blocks of an object of the family; of a family that is
// not known here, the most that any has.
func (s *Server) blocksPerObject(family sheepdog.FamilyID) uint64 {
	shift, ok := s.cfg.Layers.ObjectShift(family)
	if !ok {
		shift = sheepdog.MaxBlockSizeShift
	}
	return 1 << shift / sheepdog.BlockSize
}
