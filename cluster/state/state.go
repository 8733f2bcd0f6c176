// Package state is the replicated state machine of the cluster: who is in,
// which epoch and revision it is, and who holds every partition. Every node
// applies the same commands from the Raft log and comes to the same state.
//
// It is pure: no goroutine, clock, file or socket, and nothing that depends on
// the order of a map. Time comes in with the commands. It does not detect
// failures, does not talk Raft, and keeps no VDIs; package cluster feeds it and
// publishes its views.
//
// Main types: State, Command (and its kinds Format, Change, Promote, Clean,
// AddTable, Configure, Refound, Force), Result, EpochRecord.
package state

import (
	"fmt"
	"slices"
	"time"

	"sheepdog"
)

// Limits. A command beyond them is refused with ErrInvalid.
const (
	MaxMembers = 1024 // of a cluster, gateways included
	MaxTables  = 64   // redundancy policies in use
	MaxHistory = 1024 // epochs remembered
	MaxAddr    = 261  // bytes of a member's address: a host name of 255, colon, port
	MaxReason  = 1024 // bytes of a change's reason
)

// State is the replicated state. It belongs to one goroutine; the views that it
// hands out are immutable and may be shared.
type State struct {
	cluster    sheepdog.ClusterID
	generation uint64
	epoch      sheepdog.Epoch
	revision   sheepdog.Revision
	config     sheepdog.Config
	members    []sheepdog.Member // ascending by ID; replaced, never changed
	tables     []*table          // ascending by policy; replaced, never changed
	weights    []Weight          // set by command, ascending by ID; replaced, never changed
	history    []EpochRecord     // oldest first
	view       *sheepdog.View    // of the present state; nil until asked for
}

// EpochRecord is one committed membership.
type EpochRecord struct {
	Epoch   sheepdog.Epoch    `json:"epoch"`
	Time    time.Time         `json:"time"` // the leader's clock, UTC
	Members []sheepdog.Member `json:"members"`
}

// Result says where a command left the state.
type Result struct {
	Epoch    sheepdog.Epoch
	Revision sheepdog.Revision
	// Generation counts formats. When it rises, every node wipes its store before
	// it adopts the view.
	Generation uint64
	// Changed says that there is a new view.
	Changed bool
	// Refused lists, ascending, the partitions of a Promote or Clean that did not
	// qualify: they moved since, or the node has no such part in them.
	Refused []sheepdog.Partition
}

// New is the state before any command: unformatted.
func New() *State { return &State{} }

// Apply runs one command. It is deterministic. After an error, which wraps
// sheepdog.ErrInvalid, ErrNotFormatted or ErrConflict, the state is what it was.
func (s *State) Apply(cmd Command) (Result, error) {
	if err := cmd.check(); err != nil {
		return s.result(), err
	}
	if cmd.Format == nil && !s.Formatted() {
		return s.result(), fmt.Errorf("%s: %w; run `dog cluster format` first", cmd.kind(), sheepdog.ErrNotFormatted)
	}
	next, refused, err := s.run(cmd)
	if err != nil {
		return s.result(), fmt.Errorf("%s: %w", cmd.kind(), err)
	}
	if next != nil {
		next.view = nil
		*s = *next
	}
	out := s.result()
	out.Changed = next != nil
	out.Refused = refused
	return out, nil
}

// run computes the state after cmd, nil if it is the same one.
func (s *State) run(cmd Command) (next *State, refused []sheepdog.Partition, err error) {
	switch {
	case cmd.Format != nil:
		next = s.format(cmd.Format)
	case cmd.Change != nil:
		next, err = s.change(cmd.Change)
	case cmd.Promote != nil:
		return s.promote(cmd.Promote)
	case cmd.Clean != nil:
		return s.clean(cmd.Clean)
	case cmd.Table != nil:
		next, err = s.addTable(cmd.Table)
	case cmd.Configure != nil:
		next, err = s.configure(cmd.Configure)
	case cmd.Refound != nil:
		next, err = s.refound(cmd.Refound)
	case cmd.Force != nil:
		next, err = s.force(cmd.Force)
	}
	return next, nil, err
}

func (s *State) result() Result {
	return Result{Epoch: s.epoch, Revision: s.revision, Generation: s.generation}
}

// Formatted reports whether there is a cluster yet.
func (s *State) Formatted() bool { return s.epoch > 0 }

// Generation counts formats; see Result.
func (s *State) Generation() uint64 { return s.generation }

// View is the present state for everybody else; nil before Format. It is
// immutable, and the same one until the next change.
func (s *State) View() *sheepdog.View {
	if s.view != nil || !s.Formatted() {
		return s.view
	}
	tables := make(map[sheepdog.Policy]sheepdog.Table, len(s.tables))
	for _, t := range s.tables {
		tables[t.policy] = t.published()
	}
	s.view = &sheepdog.View{
		Cluster:  s.cluster,
		Epoch:    s.epoch,
		Revision: s.revision,
		Config:   s.config,
		Members:  s.members,
		Tables:   tables,
	}
	return s.view
}

// History lists the last MaxHistory epochs, newest last. A format starts it
// afresh. The records are shared: do not change them.
func (s *State) History() []EpochRecord { return slices.Clone(s.history) }

// successor is a copy of s with the next revision, to be changed and returned.
func (s *State) successor() *State {
	next := *s
	next.revision++
	return &next
}

// newEpoch counts a change of the membership and remembers it.
func (s *State) newEpoch(at time.Time) {
	s.epoch++
	old := s.history[max(0, len(s.history)-MaxHistory+1):]
	record := EpochRecord{Epoch: s.epoch, Time: at.UTC().Round(0), Members: s.members}
	s.history = append(slices.Clip(old), record)
}

// member finds a listed node.
func (s *State) member(id sheepdog.NodeID) (sheepdog.Member, bool) {
	return findMember(s.members, id)
}

func (s *State) isMember(id sheepdog.NodeID) bool {
	_, ok := s.member(id)
	return ok
}

// table finds the table of a policy.
func (s *State) table(p sheepdog.Policy) (*table, bool) {
	i, ok := slices.BinarySearchFunc(s.tables, p, func(t *table, p sheepdog.Policy) int {
		return comparePolicies(t.policy, p)
	})
	if !ok {
		return nil, false
	}
	return s.tables[i], true
}

// putTable replaces or adds a table in a list of the state's own.
func (s *State) putTable(t *table) {
	i, ok := slices.BinarySearchFunc(s.tables, t.policy, func(t *table, p sheepdog.Policy) int {
		return comparePolicies(t.policy, p)
	})
	s.tables = slices.Clone(s.tables)
	if ok {
		s.tables[i] = t
		return
	}
	s.tables = slices.Insert(s.tables, i, t)
}
