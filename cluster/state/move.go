package state

import (
	"slices"

	"sheepdog"
)

// move is what one Change means to the rows. PROTOCOL rules 2, 3 and 12
// (docs/protocol.md) are in next and survivors.
type move struct {
	fate     map[sheepdog.NodeID]fate
	lacking  map[sheepdog.NodeID]bool // member whose store was incomplete when its life began
	replaced map[sheepdog.NodeID]bool // listed under another incarnation than before, or only before, or only now; or demoted
	revision sheepdog.Revision
}

// fate is what a Change does to a node. A node without one is gone: removed
// now, or in an earlier epoch from which a partition still waits for it.
type fate uint8

const (
	gone      fate = iota // no member
	silent                // member as before, not known to live
	confirmed             // member as before, has just answered
	restarted             // member under another incarnation than before, or new
	maimed                // the same, but its store lacks what was on a disk
	demoted               // member as before that lost data; it leaves like a restarted one if it may, else stays
)

func newMove(before, after []sheepdog.Member, c *Change, revision sheepdog.Revision) *move {
	m := &move{
		fate:     make(map[sheepdog.NodeID]fate, len(after)),
		lacking:  make(map[sheepdog.NodeID]bool),
		replaced: make(map[sheepdog.NodeID]bool),
		revision: revision,
	}
	for _, n := range before {
		if _, ok := findMember(after, n.ID); !ok {
			m.replaced[n.ID] = true
		}
	}
	for _, n := range after {
		m.fate[n.ID] = silent
		m.lacking[n.ID] = n.Incomplete
		if old, ok := findMember(before, n.ID); !ok || old.Incarnation != n.Incarnation {
			m.fate[n.ID] = restarted
			if n.Incomplete {
				m.fate[n.ID] = maimed
			}
			m.replaced[n.ID] = true
		}
	}
	m.tell(after, c.Confirmed, confirmed)
	m.tell(after, c.Demote, demoted)
	// What was copied to a target before it lost data does not count any more: its
	// rows begin a new interval, in which it is filled from the start.
	for _, ref := range c.Demote {
		if m.fate[ref.ID] == demoted {
			m.replaced[ref.ID] = true
		}
	}
	return m
}

// tell changes the fate of members that are as before.
func (m *move) tell(members []sheepdog.Member, refs []MemberRef, f fate) {
	for _, ref := range refs {
		n, ok := findMember(members, ref.ID)
		if ok && n.Incarnation == ref.Incarnation && m.fate[n.ID] != restarted && m.fate[n.ID] != maimed {
			m.fate[n.ID] = f
		}
	}
}

// table moves all rows of t; t itself if nothing changes. A nil ring means that
// the targets stay.
func (m *move) table(t *table, ring [][]sheepdog.NodeID) *table {
	type step struct {
		from   *row
		target *sheepdog.NodeID // equal lists of a ring share memory
	}
	var (
		done  = make(map[step]*row)
		out   = &table{policy: t.policy, rows: make([]*row, len(t.rows))}
		moved bool
	)
	for p, r := range t.rows {
		target := r.Target
		if ring != nil {
			target = ring[p]
		}
		if m.unconcerned(r, target) {
			out.rows[p] = r
			continue
		}
		key := step{from: r}
		if len(target) > 0 {
			key.target = &target[0]
		}
		to, ok := done[key]
		if !ok {
			to = m.next(r, slices.Clip(target))
			done[key] = to
		}
		out.rows[p] = to
		moved = moved || to != r
	}
	if !moved {
		return t
	}
	return out
}

// unconcerned reports, at little cost and for most rows of a large cluster, that next
// would leave a row as it is: all its nodes are members as before, and it waits for
// nothing that a confirmation could bring.
func (m *move) unconcerned(r *row, target []sheepdog.NodeID) bool {
	if len(r.Acting) > len(target) || !sameList(r.Target, target) || !m.calm(target) {
		return false
	}
	return sameList(r.Acting, target) || m.calm(r.Acting) && isInRingOrder(r.Acting, target)
}

// calm reports whether all nodes are members as before.
func (m *move) calm(nodes []sheepdog.NodeID) bool {
	for _, id := range nodes {
		if f := m.fate[id]; f != silent && f != confirmed || m.replaced[id] {
			return false
		}
	}
	return true
}

// sameList looks at the nodes only if the lists are not one in memory.
func sameList(a, b []sheepdog.NodeID) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}

// next is the row after the change; r itself if it stays.
func (m *move) next(r *row, target []sheepdog.NodeID) *row {
	acting, state := m.survivors(r)
	if state == sheepdog.Clean && m.mayShrink(acting, target) {
		acting = target
	}
	acting = inRingOrder(acting, target)
	same := state == r.State && slices.Equal(acting, r.Acting) && slices.Equal(target, r.Target)
	if same && !m.anyReplaced(acting) && !m.anyReplaced(target) {
		return r
	}
	out := &row{
		Placement: sheepdog.Placement{Acting: acting, Target: target, Since: m.revision, State: state, Lost: r.Lost},
		Restarted: m.stillRestarted(r, acting, state),
		Lives:     make([]sheepdog.StoreLife, len(acting)),
	}
	for i, id := range acting {
		out.Lives[i] = r.lifeOf(id)
	}
	return out
}

// survivors decides who of the acting nodes goes on acting.
//
// While one of them is confirmed alive, the restarted, the demoted and the gone
// leave: they may have missed writes or lost data. If none is, nobody knows who is last, and none may
// leave before a better or equal one stays: a node that restarted (it holds
// every flushed write, and it is here) lets the gone leave, and the partition
// is unclean; else the gone stay listed and the partition waits for them. One that
// restarted without a disk, and was not made equal since, is not enough for that:
// what it lacks may be with those that are not here yet.
func (m *move) survivors(r *row) ([]sheepdog.NodeID, sheepdog.PartitionState) {
	whole := func(id sheepdog.NodeID) bool {
		return m.fate[id] == confirmed && (r.State == sheepdog.Clean || !m.lacking[id])
	}
	if slices.ContainsFunc(r.Acting, whole) {
		return m.without(r.Acting, gone, restarted, maimed, demoted), r.State
	}
	if m.any(r.Acting, restarted) {
		return m.without(r.Acting, gone), sheepdog.Unclean
	}
	if m.any(r.Acting, maimed) || m.any(r.Acting, demoted) && len(r.Acting) > 1 {
		return r.Acting, sheepdog.Unclean
	}
	for _, id := range r.Restarted {
		if m.fate[id] != gone {
			return m.without(r.Acting, gone), r.State
		}
	}
	return r.Acting, r.State
}

// mayShrink reports whether former acting nodes that are no targets may leave:
// all targets act, and one of them is known to live.
func (m *move) mayShrink(acting, target []sheepdog.NodeID) bool {
	return allAct(acting, target) && m.any(target, confirmed)
}

// stillRestarted keeps row.Restarted for the next row.
func (m *move) stillRestarted(r *row, acting []sheepdog.NodeID, state sheepdog.PartitionState) []sheepdog.NodeID {
	if state == sheepdog.Clean {
		return nil
	}
	var out []sheepdog.NodeID
	for _, id := range acting {
		if m.fate[id] == restarted || m.fate[id] != maimed && slices.Contains(r.Restarted, id) {
			out = append(out, id)
		}
	}
	return out
}

func (m *move) any(nodes []sheepdog.NodeID, f fate) bool {
	return slices.ContainsFunc(nodes, func(id sheepdog.NodeID) bool { return m.fate[id] == f })
}

func (m *move) anyReplaced(nodes []sheepdog.NodeID) bool {
	return slices.ContainsFunc(nodes, func(id sheepdog.NodeID) bool { return m.replaced[id] })
}

func (m *move) without(nodes []sheepdog.NodeID, fates ...fate) []sheepdog.NodeID {
	out := make([]sheepdog.NodeID, 0, len(nodes))
	for _, id := range nodes {
		if !slices.Contains(fates, m.fate[id]) {
			out = append(out, id)
		}
	}
	return out
}
