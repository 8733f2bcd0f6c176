package gateway

import (
	"fmt"

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
	met := make(map[*sheepdog.Placement]bool) // rows are shared
	acting, writers := make(map[sheepdog.NodeID]bool), make(map[sheepdog.NodeID]bool)
	for part, p := range t {
		if met[p] {
			continue
		}
		met[p] = true
		if _, missing := v.ActingMembers(p); missing > 0 || p.State != sheepdog.Clean {
			r.err = fmt.Errorf("%w: partition %d has %d acting replicas missing", errWaiting, part, missing)
			return r
		}
		r.acting = enrol(r.acting, v, p.Acting, acting)
		r.writers = enrol(r.writers, v, p.Writers(), writers)
	}
	return r
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
