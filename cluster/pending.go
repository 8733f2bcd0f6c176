package cluster

import (
	"maps"
	"slices"
	"sync"
	"time"

	"sheepdog"
	"sheepdog/cluster/state"
)

// pending is what waits for the leader's next change of the membership.
type pending struct {
	mu        sync.Mutex
	joins     map[sheepdog.NodeID]sheepdog.Member
	leaves    map[state.MemberRef]bool
	condemned map[state.MemberRef]bool          // two observers were refused
	absent    map[state.MemberRef]time.Duration // since when gossip has not known it
}

func newPending() *pending {
	return &pending{
		joins:     make(map[sheepdog.NodeID]sheepdog.Member),
		leaves:    make(map[state.MemberRef]bool),
		condemned: make(map[state.MemberRef]bool),
		absent:    make(map[state.MemberRef]time.Duration),
	}
}

// join queues a node; false if the queue is full.
func (p *pending) join(m sheepdog.Member) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.joins[m.ID]; !ok && len(p.joins) >= state.MaxMembers {
		return false
	}
	p.joins[m.ID] = m
	return true
}

// leave queues the removal of a member that asked for it.
func (p *pending) leave(ref state.MemberRef) { p.add(p.leaves, ref) }

// condemn queues the removal of a member that refuses connections; false if it is
// queued already.
func (p *pending) condemn(ref state.MemberRef) bool { return p.add(p.condemned, ref) }

func (p *pending) add(set map[state.MemberRef]bool, ref state.MemberRef) (added bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if set[ref] || len(set) >= 2*state.MaxMembers {
		return false
	}
	set[ref] = true
	return true
}

// absentSince notes when a member was first missing from gossip.
func (p *pending) absentSince(ref state.MemberRef, now time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	since, ok := p.absent[ref]
	if !ok {
		since = now
		p.absent[ref] = now
	}
	return since
}

// waits reports whether a node is queued to join.
func (p *pending) waits(id sheepdog.NodeID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.joins[id]
	return ok
}

// work is what one change is about.
type work struct {
	joins  []sheepdog.Member // ascending by id
	leaves map[state.MemberRef]bool
	// doubtful members are removed unless they confirm that they live.
	doubtful map[state.MemberRef]bool
}

func (w work) empty() bool { return len(w.joins)+len(w.leaves)+len(w.doubtful) == 0 }

// collect drops what the view has overtaken and returns the rest; dead are the
// members that gossip holds for dead.
func (p *pending) collect(view *sheepdog.View, dead map[state.MemberRef]bool) work {
	p.mu.Lock()
	defer p.mu.Unlock()
	gone := func(ref state.MemberRef, _ bool) bool { return !listed(view, ref) }
	maps.DeleteFunc(p.leaves, gone)
	maps.DeleteFunc(p.condemned, gone)
	maps.DeleteFunc(p.absent, func(ref state.MemberRef, _ time.Duration) bool { return !listed(view, ref) })
	maps.DeleteFunc(p.joins, func(_ sheepdog.NodeID, m sheepdog.Member) bool { return upToDate(view, m) })
	w := work{leaves: maps.Clone(p.leaves), doubtful: maps.Clone(p.condemned)}
	maps.Copy(w.doubtful, dead)
	for _, m := range p.joins {
		ref := state.MemberRef{ID: m.ID, Incarnation: m.Incarnation}
		if p.leaves[ref] {
			continue
		}
		w.joins = append(w.joins, m)
	}
	for ref := range p.leaves {
		delete(w.doubtful, ref)
	}
	slices.SortFunc(w.joins, func(a, b sheepdog.Member) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return w
}

// forget drops suspicions that a member has refuted and joins that failed; who
// still wants to join asks again.
func (p *pending) forget(refuted map[state.MemberRef]bool, failed []sheepdog.NodeID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for ref := range refuted {
		delete(p.condemned, ref)
		delete(p.absent, ref)
	}
	for _, id := range failed {
		delete(p.joins, id)
	}
}

// upToDate reports whether registering m would change nothing. The weight is
// not looked at: it may have been changed by command since the node started.
func upToDate(view *sheepdog.View, m sheepdog.Member) bool {
	old, ok := view.Member(m.ID)
	return ok && old.Incarnation == m.Incarnation && old.Addr == m.Addr && old.Zone == m.Zone
}
