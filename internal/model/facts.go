package model

import "fmt"

// facts are what clients have been promised. Write 0 is the block's first
// content. A write is known once it was acknowledged or read.
type facts struct {
	// volatile: there are power losses. Without them nothing may be lost at all.
	volatile bool
	known    set
	flushed  set
	holders  [maxWrites + 1]set // acting replicas that have kept it since, if it is known
	after    [maxWrites + 1]set // after[a] has b: a is older than b, as clients saw it
}

// learn records that a client knows of write w.
func (s *state) learn(w int) {
	if s.facts.known.has(w) {
		return
	}
	s.facts.known |= only(w)
	for r := range s.replicas {
		p := &s.replicas[r]
		if s.facts.volatile && s.current().acting.has(r) && (int(p.mem.write) == w || p.mem.origins.has(w)) {
			s.facts.holders[w] |= only(r)
		}
	}
	s.excuse()
}

// excuse forgets promises that were lost with the last volatile copy: a write
// that was not flushed may go with the power of all that held it.
func (s *state) excuse() {
	for w := 1; w <= maxWrites && s.facts.volatile; w++ {
		if !s.facts.known.has(w) || s.facts.flushed.has(w) || s.facts.holders[w] != 0 {
			continue
		}
		s.facts.known &^= only(w)
		for a := range s.facts.after {
			s.facts.after[a] &^= only(w)
		}
		for g := range s.gateways {
			s.gateways[g].read.seen &^= only(w)
			s.gateways[g].flush.covers &^= only(w)
		}
	}
}

// release lets replicas that leave acting go as holders, unless that would be
// the last: a commit is no excuse for a loss. An unclean partition has lost its
// acknowledged but unflushed writes, if any, by rule 12.
func (s *state) release(left set) {
	v := s.current()
	for w := range s.facts.holders {
		stay := s.facts.holders[w] &^ left
		if stay&v.acting != 0 || v.unclean {
			s.facts.holders[w] = stay
		}
	}
	s.excuse()
}

// invokeAfter records that write w began when the known ones were over.
func (s *state) invokeAfter(w int) {
	for a := range s.facts.after {
		if a != w && s.facts.known.has(a) {
			s.facts.after[a] |= only(w)
		}
	}
}

// observe records that a read which began when seen were known returned w, and
// says what is wrong with that.
func (s *state) observe(w int, seen set) (wrong string) {
	for a := range s.facts.after {
		if a == w || !seen.has(a) {
			continue
		}
		if s.facts.after[w].has(a) {
			wrong = fmt.Sprintf("a read returns W%d after the newer W%d was known", w, a)
		}
		s.facts.after[a] |= only(w)
	}
	s.learn(w)
	return wrong
}

// broken says what is wrong with a state even if nobody reads.
func (s *state) broken() string {
	if wrong := s.lost(); wrong != "" {
		return wrong
	}
	return s.unequal()
}

// lost finds a flushed write in whose place every acting replica, dead or alive,
// holds an older one.
func (s *state) lost() string {
	for w := 1; w <= int(s.invoked); w++ {
		if !s.facts.flushed.has(w) {
			continue
		}
		found := false
		for r := range s.replicas {
			if held := s.replicas[r].mem.write; s.current().acting.has(r) && !s.replicas[r].lost && !s.facts.after[held].has(w) {
				found = true
			}
		}
		if !found {
			return fmt.Sprintf("every acting replica holds something older than the flushed W%d", w)
		}
	}
	return ""
}

// unequal says whether the acting replicas differ although nothing is going on.
func (s *state) unequal() string {
	v := s.current()
	g := &s.gateways[v.coordinator]
	if g.view != s.now || g.phase != serving || s.inFlight(int(v.coordinator)) != 0 {
		return ""
	}
	first := -1
	for r := range s.replicas {
		if !v.acting.has(r) {
			continue
		}
		p := &s.replicas[r]
		if p.life != up || p.view != s.now {
			return ""
		}
		if p.lost {
			continue
		}
		if first >= 0 && p.mem.write != s.replicas[first].mem.write {
			return fmt.Sprintf("at rest R%d holds W%d and R%d holds W%d", first+1, s.replicas[first].mem.write, r+1, p.mem.write)
		}
		if first < 0 {
			first = r
		}
	}
	return ""
}

// inFlight are the writes that gateway g has sent and not committed.
func (s *state) inFlight(g int) (out set) {
	for w := 1; w <= maxWrites; w++ {
		if s.gateways[g].seq[w] != 0 && !s.gateways[g].stored.has(w) {
			out |= only(w)
		}
	}
	return out
}
