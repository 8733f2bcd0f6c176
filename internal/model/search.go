package model

import (
	"fmt"
	"hash/maphash"
	"strings"
)

// Report is the outcome of a search.
type Report struct {
	States    int
	Depth     int
	Violation string   // empty: none found
	Trace     []string // the events that lead to it
	Exhausted bool     // every state within the bounds was visited
}

func (r Report) String() string {
	switch {
	case r.Violation != "":
		var out strings.Builder
		fmt.Fprintf(&out, "%s (%d states)\n", r.Violation, r.States)
		for i, step := range r.Trace {
			fmt.Fprintf(&out, "%4d. %s\n", i+1, step)
		}
		return out.String()
	case r.Exhausted:
		return fmt.Sprintf("no violation in all %d states, depth %d", r.States, r.Depth)
	}
	return fmt.Sprintf("no violation in %d states up to depth %d, not exhausted", r.States, r.Depth)
}

// Check walks the states breadth first, so that a trace is as short as can be.
// States are remembered by a 64-bit hash: within 10^7 states the chance that two
// were taken for one is about 10^-5.
func Check(b Bounds, rules Rule) Report {
	s := &search{bounds: b, rules: rules, seed: maphash.MakeSeed(), seen: make(map[uint64]struct{})}
	return s.run()
}

// search is one walk. Visited states are kept as (parent, step number) only;
// the frontier has them whole.
type search struct {
	bounds Bounds
	rules  Rule
	seed   maphash.Seed
	seen   map[uint64]struct{}
	origin []origin
	found  string
}

type origin struct{ parent, step uint32 }

func (s *search) run() Report {
	first := *initial(s.bounds)
	s.visit(&first, origin{})
	frontier, base, depth := []state{first}, 0, 0
	for len(frontier) > 0 && len(s.seen) <= s.bounds.States {
		nextBase := len(s.origin)
		var next []state
		for i := range frontier {
			next = s.expand(&frontier[i], uint32(base+i), next)
			if s.found != "" {
				return Report{States: len(s.seen), Depth: depth + 1, Violation: s.found, Trace: s.trace()}
			}
		}
		frontier, base = next, nextBase
		depth++
	}
	return Report{States: len(s.seen), Depth: depth, Exhausted: len(frontier) == 0}
}

// expand adds the unseen successors of at to the next frontier.
func (s *search) expand(at *state, index uint32, next []state) []state {
	step := uint32(0)
	s.steps(at, func(to *state, _ func() string, wrong string) {
		step++
		if s.found != "" {
			return
		}
		if wrong == "" {
			wrong = to.broken()
		}
		if wrong != "" {
			s.found = wrong
			s.origin = append(s.origin, origin{index, step})
			return
		}
		if s.settled(to) {
			return
		}
		s.reduce(to)
		if s.bounds.Symmetry {
			s.order(to)
		}
		if s.visit(to, origin{index, step}) {
			next = append(next, *to)
		}
	})
	return next
}

func (s *search) visit(at *state, from origin) bool {
	h := maphash.Comparable(s.seed, *at)
	if _, ok := s.seen[h]; ok {
		return false
	}
	s.seen[h] = struct{}{}
	s.origin = append(s.origin, from)
	return true
}

// trace replays the way to the last state found.
func (s *search) trace() []string {
	var path []uint32
	for i := uint32(len(s.origin) - 1); i != 0; i = s.origin[i].parent {
		path = append(path, s.origin[i].step)
	}
	at := *initial(s.bounds)
	var out []string
	for i := len(path) - 1; i >= 0; i-- {
		step, here := uint32(0), at
		s.steps(&here, func(to *state, label func() string, _ string) {
			if step++; step == path[i] {
				out = append(out, label())
				at = *to
				s.reduce(&at)
				if s.bounds.Symmetry {
					s.order(&at)
				}
			}
		})
	}
	return out
}

// settled says that no read is left that could show anything.
func (s *search) settled(at *state) bool {
	return s.bounds.Reads > 0 && int(at.spent.reads) == s.bounds.Reads && !at.gateways[0].read.open && !at.gateways[1].read.open
}

func (s *search) has(r Rule) bool { return s.rules&r == r }
