package state

import (
	"fmt"

	"sheepdog"
	"sheepdog/cluster/ring"
)

// AddTable places a policy that no VDI has used yet. Nothing is stored under
// it, so what the ring wants acts at once. A policy that has a table keeps it.
type AddTable struct {
	Policy sheepdog.Policy `json:"policy"`
}

func (s *State) addTable(a *AddTable) (*State, error) {
	if _, ok := s.table(a.Policy); ok {
		return nil, nil
	}
	next := s.successor()
	return next, next.place(a.Policy)
}

// place adds a table for the policy, which has none.
func (s *State) place(policy sheepdog.Policy) error {
	if len(s.tables) >= MaxTables {
		return fmt.Errorf("%w: %d redundancy policies are in use, no more are possible", sheepdog.ErrInvalid, len(s.tables))
	}
	wanted := ring.Place(s.members, policy.Width())
	if len(wanted[0]) == 0 {
		return fmt.Errorf("%w: no member has storage for policy %s; add a node first", sheepdog.ErrInvalid, policy)
	}
	s.putTable(s.freshTable(policy, wanted))
	return nil
}

// Configure changes settings of a formatted cluster; nil leaves one alone.
type Configure struct {
	// Policy is the default for new VDIs; it gets a table if it has none.
	Policy           *sheepdog.Policy `json:"copies,omitempty"`
	MinCopies        *uint8           `json:"minCopies,omitempty"`
	SyncAlways       *bool            `json:"syncAlways,omitempty"`
	RecoveryDisabled *bool            `json:"recoveryDisabled,omitempty"`
}

func (c *Configure) check() error {
	if c.Policy != nil {
		if err := checkPolicy(*c.Policy); err != nil {
			return err
		}
	}
	if c.MinCopies != nil && *c.MinCopies > sheepdog.MaxCopies {
		return fmt.Errorf("%w: min-copies is %d, at most %d is possible", sheepdog.ErrInvalid, *c.MinCopies, sheepdog.MaxCopies)
	}
	return nil
}

func (s *State) configure(c *Configure) (*State, error) {
	next := s.successor()
	set(&next.config.Policy, c.Policy)
	set(&next.config.MinCopies, c.MinCopies)
	set(&next.config.SyncAlways, c.SyncAlways)
	set(&next.config.RecoveryDisabled, c.RecoveryDisabled)
	if next.config == s.config {
		return nil, nil
	}
	if _, ok := s.table(next.config.Policy); ok {
		return next, nil
	}
	return next, next.place(next.config.Policy)
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}
