package directory

import (
	"slices"
	"time"

	"sheepdog"
)

// Prune forgets absorbed layers that all members have merged and hold nothing
// of: per layer the ids to forget. What is not absorbed by that layer, or by
// the one that has absorbed it meanwhile, is left alone.
type Prune struct {
	Time   time.Time                               `json:"time"`
	Layers map[sheepdog.LayerID][]sheepdog.LayerID `json:"layers"`
	// Epoch is the membership that was asked; the leader's gate refuses another.
	Epoch sheepdog.Epoch `json:"epoch,omitempty"`
}

func (c *Prune) validate() error {
	ids := 0
	for _, absorbed := range c.Layers {
		ids += len(absorbed)
	}
	if ids > MaxPruneIDs {
		return invalid("prune names %d layers, at most %d are allowed; propose several", ids, MaxPruneIDs)
	}
	return nil
}

func (c *Prune) apply(s *state) (any, error) {
	for id, absorbed := range c.Layers {
		if n := s.layers.get(id); n != nil {
			s.prune(n.owner(), absorbed)
		}
	}
	return nil, nil
}

func (s *state) prune(n *layerNode, ids []sheepdog.LayerID) {
	gone := make(map[sheepdog.LayerID]bool, len(ids))
	for _, id := range ids {
		if a := s.layers.get(id); a != nil && a != n && a.owner() == n {
			gone[id] = true
			s.unlist(id)
		}
	}
	if len(gone) == 0 {
		return
	}
	s.change(n, func(l *Layer) {
		kept := slices.DeleteFunc(slices.Clone(l.Absorbed), func(id sheepdog.LayerID) bool { return gone[id] })
		l.Absorbed = slices.Clip(kept)
	})
	if len(n.layer.Load().Absorbed) == 0 {
		s.change(n, func(l *Layer) { l.Absorbed = nil })
		delete(s.absorbing, n.id())
	}
	n.spread()
}
