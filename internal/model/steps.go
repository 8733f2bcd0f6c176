package model

import "fmt"

// emit is called for every state that can come next, with what happened and,
// if a promise broke, how.
type emit func(to *state, label func() string, wrong string)

// steps enumerates all events that are possible in at, always in one order.
func (s *search) steps(at *state, out emit) {
	for g := range at.gateways {
		s.learnSteps(at, g, out)
		if at.coordinates(g) {
			s.takeoverSteps(at, g, out)
			s.writeSteps(at, g, out)
			s.flushSteps(at, g, out)
		}
		s.readSteps(at, g, out)
	}
	for r := range s.bounds.Replicas {
		s.deliverySteps(at, r, out)
		s.fillSteps(at, r, out)
		s.failureSteps(at, r, out)
		s.diskSteps(at, r, out)
		s.membershipSteps(at, r, out)
	}
	s.registerAll(at, out)
	s.appointmentSteps(at, out)
	s.blackoutSteps(at, out)
}

func say(format string, args ...any) func() string {
	return func() string { return fmt.Sprintf(format, args...) }
}

// coordinates says whether gateway g is the coordinator of the view it knows.
func (s *state) coordinates(g int) bool {
	return int(s.views[s.gateways[g].view].coordinator) == g
}

// adopt makes replica r know view v.
func (s *search) adopt(at *state, r int, v uint8) {
	p := &at.replicas[r]
	if v <= p.view {
		return
	}
	p.view = v
	if s.has(BackfillView) {
		p.fill, p.source = unfilled, content{}
	}
	if !at.views[v].acting.has(r) {
		p.settled = false
	}
}

// accepts says whether replica r takes a request of view v, adopting it.
func (s *search) accepts(at *state, r int, v uint8) bool {
	p := &at.replicas[r]
	return p.life == up && (p.view <= v || !s.has(Fence))
}

// store puts content into replica r as a request of view v. What a target
// distrusts goes with its origins: a write found there later would be taken for
// applied although nobody holds it.
func (s *search) store(at *state, r int, v uint8, c content) {
	p := &at.replicas[r]
	target := !at.views[v].acting.has(r)
	if s.has(Overwrite) && target && !p.settled {
		p.mem = content{}
	}
	if c.stamp > p.mem.stamp || !s.has(Stamp) || p.mem == (content{}) {
		p.mem.stamp, p.mem.write = c.stamp, c.write
	}
	p.settled = p.settled || target
	p.mem.origins |= c.origins
}

// deliverySteps let writes and repairs of any view reach replica r, now or never,
// and let it learn the newest view by itself.
func (s *search) deliverySteps(at *state, r int, out emit) {
	for v := uint8(1); v <= at.now; v++ {
		if !s.accepts(at, r, v) {
			continue
		}
		for w := 1; w <= int(at.invoked); w++ {
			m := at.messages[w][v]
			if m.stamp == 0 || m.acks.has(r) || !at.views[v].writers().has(r) {
				continue
			}
			to := *at
			s.adopt(&to, r, v)
			s.store(&to, r, v, content{stamp: m.stamp, write: uint8(w), origins: only(w)})
			to.messages[w][v].acks |= only(r)
			out(&to, say("R%d accepts W%d of view %d and holds W%d", r+1, w, v, to.replicas[r].mem.write), "")
		}
		if c := at.repairs[v]; c.open && !c.acks.has(r) && at.views[v].acting.has(r) {
			to := *at
			s.adopt(&to, r, v)
			s.store(&to, r, v, c.content)
			to.repairs[v].acks |= only(r)
			out(&to, say("R%d accepts the repair to W%d of view %d", r+1, c.content.write, v), "")
		}
	}
	if p := &at.replicas[r]; p.life == up && p.view < at.now {
		to := *at
		s.adopt(&to, r, at.now)
		out(&to, say("R%d learns view %d", r+1, at.now), "")
	}
}

// fillSteps are the backfill of target r: fetch from an acting replica, store,
// propose the promotion.
func (s *search) fillSteps(at *state, r int, out emit) {
	p := &at.replicas[r]
	v := at.views[p.view]
	if p.life != up || v.acting.has(r) || !v.members.has(r) || v.unclean || int(at.spent.promotions) >= s.bounds.Promotions {
		return
	}
	switch p.fill {
	case unfilled:
		for x := range s.bounds.Replicas {
			source := &at.replicas[x]
			if !v.acting.has(x) || source.life != up || source.lost || s.has(BackfillView) && source.view != p.view {
				continue
			}
			to := *at
			to.replicas[r].fill, to.replicas[r].source = fetched, source.mem
			out(&to, say("R%d fetches W%d from R%d (views %d and %d)", r+1, source.mem.write, x+1, p.view, source.view), "")
		}
	case fetched:
		to := *at
		q := &to.replicas[r]
		s.store(&to, r, p.view, p.source)
		q.fill, q.source = filled, content{}
		if s.has(DurableBackfill) {
			q.disk = q.mem
		}
		out(&to, say("R%d is filled and holds W%d", r+1, q.mem.write), "")
	case filled:
		s.promotion(at, r, out)
	}
}

// promotion commits that r acts. Without the guard it is enough that r is a
// member when the commit comes.
func (s *search) promotion(at *state, r int, out emit) {
	v := at.current()
	if s.has(PromoteGuard) && at.replicas[r].view != at.now || !v.members.has(r) || v.acting.has(r) || v.unclean {
		return
	}
	to := *at
	to.spent.promotions++
	next := *v
	next.acting |= only(r)
	if s.commit(&to, next) {
		to.replicas[r].fill = unfilled
		out(&to, say("commit view %d: R%d is promoted, acting %s", to.now, r+1, names(next.acting)), "")
	}
}

// names writes a set of replicas.
func names(s set) string {
	out := ""
	for r := range maxReplicas {
		if s.has(r) {
			out += fmt.Sprintf(" R%d", r+1)
		}
	}
	return "{" + out + " }"
}
