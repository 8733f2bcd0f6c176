package model

// commit makes next the newest view, if the bounds allow one more.
func (s *search) commit(at *state, next view) bool {
	if int(at.now) >= s.bounds.Views {
		return false
	}
	left := at.current().acting &^ next.acting
	at.now++
	at.views[at.now] = next
	at.release(left)
	return true
}

// alive are the acting replicas, without r, that answer under their listed life
// and have not lost a disk.
func (s *state) alive(r int) (out set) {
	for x := range s.replicas {
		if x != r && s.current().acting.has(x) && s.replicas[x].life == up && !s.replicas[x].lost {
			out |= only(x)
		}
	}
	return out
}

// failureSteps kill the process of replica r, take its power, start it again.
func (s *search) failureSteps(at *state, r int, out emit) {
	p := &at.replicas[r]
	if p.life == down {
		to := *at
		to.replicas[r].life = mute
		if !s.has(Incarnation) {
			to.replicas[r].life = up
		}
		out(&to, say("R%d starts again with W%d", r+1, p.mem.write), "")
		return
	}
	if int(at.spent.kills) < s.bounds.Kills {
		to := *at
		to.spent.kills++
		to.kill(r)
		out(&to, say("R%d is killed", r+1), "")
	}
	if int(at.spent.power) < s.bounds.PowerLosses {
		to := *at
		to.spent.power++
		to.cutPower(r)
		to.excuse()
		out(&to, say("R%d loses power and W%d becomes W%d", r+1, p.mem.write, p.disk.write), "")
	}
}

// kill ends the process; what it accepted is kept by the kernel.
func (s *state) kill(r int) {
	p := &s.replicas[r]
	p.life = down
	p.settled, p.fill, p.source = false, unfilled, content{}
}

func (s *state) cutPower(r int) {
	s.kill(r)
	s.replicas[r].mem = s.replicas[r].disk
	s.drop(r)
}

// drop forgets replica r as a holder.
func (s *state) drop(r int) {
	for w := range s.facts.holders {
		s.facts.holders[w] &^= only(r)
	}
}

// diskSteps let the disk under replica r fail while its process lives, if that is
// not the last copy, and commit the demotion that it asks for.
func (s *search) diskSteps(at *state, r int, out emit) {
	p := &at.replicas[r]
	if p.life != up || !at.current().members.has(r) || at.current().acting.has(r) && at.alive(r) == 0 {
		return
	}
	if int(at.spent.disks) < s.bounds.DiskLosses {
		to := *at
		to.spent.disks++
		q := &to.replicas[r]
		if q.lost = s.has(Demote); !q.lost {
			q.mem, q.disk = content{origins: q.mem.origins}, content{}
		}
		to.drop(r)
		to.excuse()
		out(&to, say("R%d loses its disk, and W%d with it", r+1, p.mem.write), "")
	}
	if p.lost {
		s.demotion(at, r, out)
	}
}

// demotion commits that r does not act, and begins its filling anew.
func (s *search) demotion(at *state, r int, out emit) {
	to := *at
	next := *at.current()
	next.acting &^= only(r)
	if s.commit(&to, next) {
		q := &to.replicas[r]
		q.lost, q.mem, q.disk = false, content{}, content{}
		s.adopt(&to, r, to.now)
		out(&to, say("commit view %d: R%d is demoted, acting %s", to.now, r+1, names(next.acting)), "")
	}
}

// blackoutSteps take the power of all nodes at once. The gateways' requests go
// on existing, which is harsher than the truth.
func (s *search) blackoutSteps(at *state, out emit) {
	if int(at.spent.blackouts) >= s.bounds.Blackouts {
		return
	}
	to := *at
	to.spent.blackouts++
	for r := range s.bounds.Replicas {
		to.cutPower(r)
	}
	to.excuse()
	out(&to, say("all nodes lose power"), "")
}

// membershipSteps remove replica r, rightly or wrongly, let it come back, and
// register it after a restart.
func (s *search) membershipSteps(at *state, r int, out emit) {
	v := *at.current()
	p := &at.replicas[r]
	switch {
	case p.life == mute:
		s.register(at, only(r), out)
	case p.life == up && !v.members.has(r):
		to := *at
		v.members |= only(r)
		if s.commit(&to, v) {
			out(&to, say("commit view %d: R%d comes back, acting %s", to.now, r+1, names(v.acting)), "")
		}
		return
	}
	if v.members.has(r) && int(at.spent.removals) < s.bounds.Removals {
		s.removal(at, r, out)
	}
}

func (s *search) removal(at *state, r int, out emit) {
	next := *at.current()
	next.members &^= only(r)
	if next.acting.has(r) {
		if next.acting &^= only(r); next.acting == 0 || s.has(LastCopy) && at.alive(r) == 0 {
			return
		}
	}
	to := *at
	to.spent.removals++
	if s.commit(&to, next) {
		out(&to, say("commit view %d: R%d is removed, acting %s", to.now, r+1, names(next.acting)), "")
	}
}

// registerAll lists all restarted replicas in one view, as after the restart of
// a whole cluster.
func (s *search) registerAll(at *state, out emit) {
	var restarted set
	for r := range s.bounds.Replicas {
		if at.replicas[r].life == mute {
			restarted |= only(r)
		}
	}
	if restarted&(restarted-1) != 0 { // more than one
		s.register(at, restarted, out)
	}
}

// register commits the new lives. They act no longer, unless no other acting
// replica lives: then they stay, and the partition is unclean.
func (s *search) register(at *state, restarted set, out emit) {
	next := *at.current()
	next.members |= restarted
	if next.acting&restarted != 0 {
		if at.alive(maxReplicas) != 0 {
			next.acting &^= restarted
		} else {
			next.unclean = true
		}
	}
	to := *at
	if !s.commit(&to, next) {
		return
	}
	for r := range s.bounds.Replicas {
		if restarted.has(r) {
			to.replicas[r].life = up
			s.adopt(&to, r, to.now)
		}
	}
	out(&to, say("commit view %d: restarted %s listed, acting %s, unclean %v", to.now, names(restarted), names(next.acting), next.unclean), "")
}

// appointmentSteps make the other gateway the coordinator.
func (s *search) appointmentSteps(at *state, out emit) {
	if int(at.spent.appointments) >= s.bounds.Appointments {
		return
	}
	to := *at
	to.spent.appointments++
	next := *at.current()
	next.token++
	next.coordinator = 1 - next.coordinator
	if s.commit(&to, next) {
		out(&to, say("commit view %d: G%d coordinates with token %d", to.now, next.coordinator+1, next.token), "")
	}
}
