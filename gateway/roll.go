package gateway

import (
	"fmt"
	"slices"

	"sheepdog"
)

// roll is who holds anything under one policy in one view. err says that some
// partition cannot serve yet: its content would be missed.
type roll struct {
	view    *sheepdog.View
	policy  sheepdog.Policy
	acting  []sheepdog.Member
	writers []sheepdog.Member // acting and targets
	err     error
}

// roll looks at all partitions once per view: takeovers and lists of layers ask
// for it by the thousand.
func (g *Gateway) roll(v *sheepdog.View, policy sheepdog.Policy) *roll {
	if r := g.rolled.Load(); r != nil && r.view == v && r.policy == policy {
		return r
	}
	r := newRoll(v, policy)
	g.rolled.Store(r)
	return r
}

func newRoll(v *sheepdog.View, policy sheepdog.Policy) *roll {
	r := &roll{view: v, policy: policy}
	t, ok := v.Tables[policy]
	if !ok {
		r.err = fmt.Errorf("%w: no table for policy %s in revision %d", errWaiting, policy, v.Revision)
		return r
	}
	acting, writers := make(map[sheepdog.NodeID]bool), make(map[sheepdog.NodeID]bool)
	met := make(map[*sheepdog.Placement]bool) // small clusters share rows
	for part, p := range t {
		if met[p] {
			continue
		}
		if len(met) < maxMet {
			met[p] = true
		}
		if p.State != sheepdog.Clean || !r.enrolActing(p, acting) {
			_, missing := v.ActingMembers(p)
			r.err = fmt.Errorf("%w: partition %d has %d acting replicas missing", errWaiting, part, missing)
			return r
		}
		r.writers = enrol(r.writers, v, p.Acting, writers)
		r.writers = enrol(r.writers, v, p.Target, writers)
	}
	return r
}

// maxMet bounds the rows that are remembered: where there are more, few partitions
// share one.
const maxMet = 1024

// enrolActing is false if an acting replica is no member.
func (r *roll) enrolActing(p *sheepdog.Placement, seen map[sheepdog.NodeID]bool) bool {
	for _, id := range p.Acting {
		if seen[id] {
			continue
		}
		m, ok := r.view.Member(id)
		if !ok {
			return false
		}
		seen[id] = true
		r.acting = append(r.acting, m)
	}
	return true
}

// within reports whether all that hold anything are among those of another roll.
func (r *roll) within(other *roll) bool {
	for _, m := range r.writers {
		if !slices.Contains(other.writers, m) {
			return false
		}
	}
	return true
}

// enrol appends the members that were not seen yet.
func enrol(to []sheepdog.Member, v *sheepdog.View, ids []sheepdog.NodeID, seen map[sheepdog.NodeID]bool) []sheepdog.Member {
	for _, id := range ids {
		if m, ok := v.Member(id); ok && !seen[id] {
			seen[id] = true
			to = append(to, m)
		}
	}
	return to
}
