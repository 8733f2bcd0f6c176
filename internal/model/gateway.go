package model

// learnSteps let gateway g learn any newer view.
func (s *search) learnSteps(at *state, g int, out emit) {
	for v := at.gateways[g].view + 1; v <= at.now; v++ {
		old := &at.views[at.gateways[g].view]
		if new := &at.views[v]; int(old.coordinator) != g && int(new.coordinator) != g && v < at.now {
			continue // it only forwards; what lies between does not matter to it
		}
		to := *at
		s.enter(&to, g, v)
		out(&to, say("G%d learns view %d", g+1, v), "")
	}
}

// enter makes gateway g work in view v.
func (s *search) enter(at *state, g int, v uint8) {
	w := &at.gateways[g]
	old := at.views[w.view]
	doubt := false // acting replicas restarted meanwhile
	for i := w.view + 1; i <= v; i++ {
		doubt = doubt || at.views[i].unclean
	}
	w.view = v
	w.sealed, w.best = 0, content{}
	w.flush.acks = 0 // a flush starts again in a new view
	same := old.token == at.views[v].token
	if !same {
		w.lastSeq, w.seq, w.stored, w.origins = 0, [maxWrites + 1]uint8{}, 0, 0
		w.flush = flush{}
		if s.has(HoldReads) {
			w.read = read{}
		}
	}
	switch {
	case !at.coordinates(g):
		w.phase = idle
	case !s.has(Reconcile) && !at.views[v].unclean:
		s.serve(at, g)
	case !same || doubt || w.phase != serving:
		w.phase = sealing
	default:
		s.serve(at, g)
	}
}

// serve lets the coordinator work, sending again what is in flight.
func (s *search) serve(at *state, g int) {
	w := &at.gateways[g]
	w.phase = serving
	for i := 1; i <= maxWrites; i++ {
		if at.inFlight(g).has(i) && at.messages[i][w.view].stamp == 0 {
			at.messages[i][w.view] = message{stamp: s.stamp(at, g, i)}
		}
	}
}

// stamp is that of write w at coordinator g: token, then sequence number. It
// stays the same however often the write is sent.
func (s *search) stamp(at *state, g, w int) uint8 {
	return at.views[at.gateways[g].view].token<<4 | at.gateways[g].seq[w]
}

// takeoverSteps are rule 7: ask every acting replica, make them equal, serve. An
// unclean partition needs a commit before it is served.
func (s *search) takeoverSteps(at *state, g int, out emit) {
	w := &at.gateways[g]
	v := &at.views[w.view]
	switch w.phase {
	case sealing:
		for r := range s.bounds.Replicas {
			p := &at.replicas[r]
			if v.acting.has(r) && !w.sealed.has(r) && p.life == up && !p.lost && p.view <= w.view {
				s.seal(at, g, r, out)
			}
		}
	case repairing:
		if !v.acting.within(at.repairs[w.view].acks) {
			return
		}
		to := *at
		if v.unclean {
			next := *v
			next.unclean = false
			if w.view == at.now && s.commit(&to, next) {
				out(&to, say("commit view %d: clean", to.now), "")
			}
			return
		}
		to.gateways[g].origins |= at.repairs[w.view].content.origins
		s.serve(&to, g)
		out(&to, say("G%d has made all equal with W%d and serves view %d", g+1, at.repairs[w.view].content.write, w.view), "")
	}
}

// seal asks replica r for what it holds; the last answer starts the repair.
func (s *search) seal(at *state, g, r int, out emit) {
	to := *at
	w := &to.gateways[g]
	held := at.replicas[r].mem
	if s.has(Promise) {
		s.adopt(&to, r, w.view)
	}
	origins := w.best.origins | held.origins
	if held.stamp > w.best.stamp {
		w.best = held
	}
	w.best.origins = origins
	w.sealed |= only(r)
	if w.sealed == to.views[w.view].acting {
		to.repairs[w.view] = repair{open: true, content: w.best}
		w.sealed, w.best = 0, content{}
		w.phase = repairing
	}
	out(&to, say("R%d seals for G%d in view %d, holding W%d", r+1, g+1, w.view, held.write), "")
}

// writeSteps start, retry and acknowledge writes at coordinator g. The client
// may sit at either gateway, if that one knows the coordinator.
func (s *search) writeSteps(at *state, g int, out emit) {
	w := &at.gateways[g]
	if w.phase != serving {
		return
	}
	for h := range at.gateways {
		if int(at.invoked) < s.bounds.Writes && at.forwardsTo(h, g) && !at.waits(h) {
			to := *at
			to.invoked++
			i := int(to.invoked)
			to.owner[i] = uint8(h)
			to.pending |= only(i)
			to.invokeAfter(i)
			s.send(&to, g, i)
			out(&to, say("G%d sends W%d of its client at G%d in view %d", g+1, i, h+1, w.view), "")
		}
	}
	for i := 1; i <= int(at.invoked); i++ {
		switch {
		case at.pending.has(i) && w.seq[i] == 0 && at.forwardsTo(int(at.owner[i]), g):
			s.retry(at, g, i, out)
		case at.inFlight(g).has(i) && s.committed(at, g, i):
			to := *at
			s.acknowledge(&to, g, i)
			out(&to, say("G%d acknowledges W%d in view %d", g+1, i, w.view), "")
		}
	}
}

// forwardsTo says whether a client at gateway h reaches coordinator g.
func (s *state) forwardsTo(h, g int) bool {
	return h == g || s.views[s.gateways[h].view].token == s.views[s.gateways[g].view].token
}

// waits says whether a client at gateway h has a write under way.
func (s *state) waits(h int) bool {
	for i := 1; i <= maxWrites; i++ {
		if s.pending.has(i) && int(s.owner[i]) == h {
			return true
		}
	}
	return false
}

func (s *search) send(at *state, g, i int) {
	w := &at.gateways[g]
	w.lastSeq++
	w.seq[i] = w.lastSeq
	at.messages[i][w.view] = message{stamp: s.stamp(at, g, i)}
}

// retry handles a write that was forwarded to an earlier coordinator.
func (s *search) retry(at *state, g, i int, out emit) {
	to := *at
	if s.has(Origin) && at.gateways[g].origins.has(i) {
		to.gateways[g].seq[i] = 0xff
		s.acknowledge(&to, g, i)
		out(&to, say("G%d finds W%d applied and acknowledges it", g+1, i), "")
		return
	}
	s.send(&to, g, i)
	out(&to, say("G%d sends W%d again for its client, in view %d", g+1, i, at.gateways[g].view), "")
}

// committed is the ack rule.
func (s *search) committed(at *state, g, i int) bool {
	w := &at.gateways[g]
	v := &at.views[w.view]
	acks := at.messages[i][w.view].acks
	if !s.has(AckView) {
		for old := uint8(1); old < w.view; old++ {
			if at.views[old].token == v.token {
				acks |= at.messages[i][old].acks
			}
		}
	}
	need := v.acting
	if s.has(TargetAcks) {
		need = v.writers()
	}
	return need.within(acks)
}

func (s *search) acknowledge(at *state, g, i int) {
	at.gateways[g].stored |= only(i)
	at.pending &^= only(i)
	at.learn(i)
}

// readSteps start a read at coordinator g, which fetches from one acting replica
// at once, and return it later.
func (s *search) readSteps(at *state, g int, out emit) {
	w := &at.gateways[g]
	if w.read.open {
		s.readReturn(at, g, out)
		return
	}
	v := &at.views[w.view]
	if w.phase != serving || !at.coordinates(g) || int(at.spent.reads) >= s.bounds.Reads {
		return
	}
	if s.has(Lease) && v.token != at.current().token {
		return
	}
	for r := range s.bounds.Replicas {
		p := &at.replicas[r]
		if !v.acting.has(r) || p.life != up || p.lost || s.has(ReadView) && p.view != w.view {
			continue
		}
		to := *at
		to.spent.reads++
		to.gateways[g].read = read{open: true, value: p.mem.write, seen: at.facts.known}
		out(&to, say("G%d (view %d) reads W%d from R%d (view %d)", g+1, w.view, p.mem.write, r+1, p.view), "")
	}
}

func (s *search) readReturn(at *state, g int, out emit) {
	w := &at.gateways[g]
	value := int(w.read.value)
	if s.has(HoldReads) && (w.phase != serving || at.inFlight(g).has(value)) {
		return
	}
	to := *at
	to.gateways[g].read = read{}
	wrong := to.observe(value, w.read.seen)
	out(&to, say("G%d returns W%d to its reader", g+1, value), wrong)
}

// flushSteps start a flush at coordinator g, make replicas durable, finish it.
func (s *search) flushSteps(at *state, g int, out emit) {
	w := &at.gateways[g]
	v := &at.views[w.view]
	if w.phase != serving {
		return
	}
	if !w.flush.open {
		if int(at.spent.flushes) < s.bounds.Flushes {
			to := *at
			to.spent.flushes++
			to.gateways[g].flush = flush{open: true, covers: at.facts.known}
			out(&to, say("G%d starts a flush in view %d", g+1, w.view), "")
		}
		return
	}
	need := v.acting
	if s.has(DurableBackfill) {
		need = v.writers()
	}
	for r := range s.bounds.Replicas {
		if need.has(r) && !w.flush.acks.has(r) && !at.replicas[r].lost && s.accepts(at, r, w.view) {
			to := *at
			s.adopt(&to, r, w.view)
			to.replicas[r].disk = to.replicas[r].mem
			to.gateways[g].flush.acks |= only(r)
			out(&to, say("R%d flushes W%d for G%d in view %d", r+1, at.replicas[r].mem.write, g+1, w.view), "")
		}
	}
	if need.within(w.flush.acks) || !s.has(FlushAll) && w.flush.acks != 0 {
		to := *at
		to.facts.flushed |= w.flush.covers
		to.gateways[g].flush = flush{}
		out(&to, say("G%d completes its flush in view %d", g+1, w.view), "")
	}
}
