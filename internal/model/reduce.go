package model

import (
	"hash/maphash"
	"math/bits"
)

// reduce clears what no later step can see, so that states that differ only in
// it are one.
func (s *search) reduce(at *state) {
	if int(at.spent.power) >= s.bounds.PowerLosses && int(at.spent.blackouts) >= s.bounds.Blackouts {
		for r := range at.replicas {
			at.replicas[r].disk = content{}
		}
	}
	for w := range at.facts.holders {
		if at.facts.flushed.has(w) {
			at.facts.holders[w] = 0
		}
	}
	s.forgetOrigins(at)
	s.catchUp(at)
	if s.has(AckView | Fence) {
		s.forgetAcks(at)
		s.forgetViews(at)
	}
}

// forgetOrigins drops origins of writes that no client waits for.
func (s *search) forgetOrigins(at *state) {
	for r := range at.replicas {
		p := &at.replicas[r]
		p.mem.origins &= at.pending
		p.disk.origins &= at.pending
		p.source.origins &= at.pending
	}
	for g := range at.gateways {
		at.gateways[g].best.origins &= at.pending
		at.gateways[g].origins &= at.pending
	}
	for v := range at.repairs {
		at.repairs[v].content.origins &= at.pending
	}
}

// catchUp brings those to the newest view for whom the way there makes no
// difference: a gateway that only forwards, to the same coordinator, and a
// replica that must be listed again before it takes anything.
func (s *search) catchUp(at *state) {
	now := at.current()
	for g := range at.gateways {
		if !at.coordinates(g) && int(now.coordinator) != g && at.views[at.gateways[g].view].token == now.token && !at.gateways[g].read.open {
			at.gateways[g].view = at.now
		}
	}
	for r := range s.bounds.Replicas {
		if at.replicas[r].life != up && s.has(Incarnation) {
			at.replicas[r].view = at.now
		}
	}
}

// forgetAcks evens out acknowledgements that nobody counts any more, and drops
// messages that nobody will take any more.
func (s *search) forgetAcks(at *state) {
	for v := uint8(1); v <= at.now; v++ {
		refuse := at.refusing(v) | ^at.views[v].writers()
		for w := 1; w <= int(at.invoked); w++ {
			m := &at.messages[w][v]
			if m.stamp == 0 || at.counted(v, func(g int) bool { return at.inFlight(g).has(w) }) {
				continue
			}
			if m.acks |= refuse; m.acks == ^set(0) {
				*m = message{}
			}
		}
		c := &at.repairs[v]
		if !c.open || at.counted(v, func(g int) bool { return at.gateways[g].phase == repairing }) {
			continue
		}
		if c.acks |= at.refusing(v) | ^at.views[v].acting; c.acks == ^set(0) {
			*c = repair{}
		}
	}
}

// refusing are the replicas that take nothing of view v any more.
func (s *state) refusing(v uint8) (out set) {
	for r := range s.replicas {
		if s.replicas[r].view > v {
			out |= only(r)
		}
	}
	return out
}

// counted says whether a coordinator in view v for which wants is true exists.
func (s *state) counted(v uint8, wants func(g int) bool) bool {
	for g := range s.gateways {
		if s.gateways[g].view == v && s.coordinates(g) && wants(g) {
			return true
		}
	}
	return false
}

// forgetViews drops what belongs to views that everybody has left.
func (s *search) forgetViews(at *state) {
	oldest := at.now
	for g := range at.gateways {
		oldest = min(oldest, at.gateways[g].view)
	}
	for r := range s.bounds.Replicas {
		oldest = min(oldest, at.replicas[r].view)
	}
	for v := range oldest {
		at.views[v] = view{}
		at.repairs[v] = repair{}
		for w := range at.messages {
			at.messages[w][v] = message{}
		}
	}
}

// order renames the replicas so that states that differ only in their names are
// (mostly) one: nothing in the protocol depends on a name.
func (s *search) order(at *state) {
	n := s.bounds.Replicas
	var keys [maxReplicas]uint64
	for r := range n {
		keys[r] = maphash.Comparable(s.seed, at.replicas[r])
	}
	at.eachReplicaSet(func(x *set) {
		for r := range n {
			keys[r] = bits.RotateLeft64(keys[r], 1) * 0x9e3779b97f4a7c15
			if x.has(r) {
				keys[r]++
			}
		}
	})
	var from [maxReplicas]int // from[i] is the old name of replica i
	for i := range n {
		j := i
		for ; j > 0 && keys[i] < keys[from[j-1]]; j-- {
			from[j] = from[j-1]
		}
		from[j] = i
	}
	old := at.replicas
	for i := range n {
		at.replicas[i] = old[from[i]]
	}
	at.eachReplicaSet(func(x *set) {
		renamed := *x &^ (only(n) - 1)
		for i := range n {
			if x.has(from[i]) {
				renamed |= only(i)
			}
		}
		*x = renamed
	})
}

// eachReplicaSet visits every set of replicas in the state, always in one order.
func (s *state) eachReplicaSet(visit func(*set)) {
	for v := 1; v <= int(s.now); v++ {
		visit(&s.views[v].acting)
		visit(&s.views[v].members)
		visit(&s.repairs[v].acks)
		for w := 1; w <= int(s.invoked); w++ {
			visit(&s.messages[w][v].acks)
		}
	}
	for w := range s.facts.holders {
		visit(&s.facts.holders[w])
	}
	for g := range s.gateways {
		visit(&s.gateways[g].sealed)
		visit(&s.gateways[g].flush.acks)
	}
}
