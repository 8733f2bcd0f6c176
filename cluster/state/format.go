package state

import (
	"fmt"
	"slices"
	"time"

	"sheepdog"
	"sheepdog/cluster/ring"
)

// Format makes a cluster of the members, or makes an existing one empty: the
// generation rises and every node wipes its store, the epoch starts again at 1,
// the revision goes on. The cluster id of an existing cluster stays.
type Format struct {
	Cluster sheepdog.ClusterID `json:"cluster"`
	Config  sheepdog.Config    `json:"config"` // Created is set from Time where it is zero
	Members []sheepdog.Member  `json:"members"`
	Time    time.Time          `json:"time"`
}

func (f *Format) check() error {
	if f.Cluster.IsZero() {
		return fmt.Errorf("%w: cluster id is missing", sheepdog.ErrInvalid)
	}
	if err := checkConfig(f.Config); err != nil {
		return err
	}
	if err := checkTime(f.Time); err != nil {
		return err
	}
	if err := checkMembers(f.Members); err != nil {
		return err
	}
	if !slices.ContainsFunc(f.Members, func(m sheepdog.Member) bool { return m.VNodes > 0 }) {
		return fmt.Errorf("%w: none of %d members has storage; start a sheep without --gateway", sheepdog.ErrInvalid, len(f.Members))
	}
	return nil
}

func (s *State) format(f *Format) *State {
	next := s.successor()
	next.generation++
	next.config = normalised(f.Config, f.Time)
	next.members = slices.SortedFunc(slices.Values(f.Members), compareMembers)
	next.epoch = 0
	next.history, next.weights = nil, nil
	if !s.Formatted() {
		next.cluster = f.Cluster
	}
	next.newEpoch(f.Time)
	wanted := ring.Place(next.members, next.config.Policy.Width())
	next.tables = []*table{next.freshTable(next.config.Policy, wanted)}
	return next
}

// normalised is the config as every node keeps it.
func normalised(c sheepdog.Config, at time.Time) sheepdog.Config {
	if c.Created.IsZero() {
		c.Created = at
	}
	c.Created = c.Created.UTC().Round(0)
	return c
}

func checkConfig(c sheepdog.Config) error {
	if err := checkPolicy(c.Policy); err != nil {
		return err
	}
	if err := checkTime(c.Created); err != nil {
		return err
	}
	if c.MinCopies > sheepdog.MaxCopies {
		return fmt.Errorf("%w: min-copies is %d, at most %d is possible", sheepdog.ErrInvalid, c.MinCopies, sheepdog.MaxCopies)
	}
	if c.BlockSizeShift < sheepdog.MinBlockSizeShift || c.BlockSizeShift > sheepdog.MaxBlockSizeShift {
		return fmt.Errorf("%w: block size shift is %d, want %d to %d", sheepdog.ErrInvalid, c.BlockSizeShift, sheepdog.MinBlockSizeShift, sheepdog.MaxBlockSizeShift)
	}
	return nil
}
