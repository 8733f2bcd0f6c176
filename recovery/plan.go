package recovery

import (
	"fmt"
	"slices"

	"sheepdog"
)

// Place is one partition under one policy.
type Place struct {
	Policy    sheepdog.Policy
	Partition sheepdog.Partition
}

// Item is one partition in the interval for which work is done. Work for an
// interval that has ended is void.
type Item struct {
	Partition sheepdog.Partition
	Since     sheepdog.Revision
}

// Group is partitions that are worked on together, ascending.
type Group struct {
	Policy sheepdog.Policy
	// Sources is the one acting replica that a backfill copies from, or the live
	// acting replicas that a reconciliation makes equal.
	Sources []sheepdog.NodeID
	Items   []Item
	// Sets has, of a reconciliation of many sets of replicas, that of each partition;
	// Sources are all of them then. nil: there is one set.
	Sets map[sheepdog.Partition][]sheepdog.NodeID
}

// set is the live acting replicas of a partition.
func (g *Group) set(p sheepdog.Partition) []sheepdog.NodeID {
	if g.Sets == nil {
		return g.Sources
	}
	return g.Sets[p]
}

// mostSets is how many sets of replicas are reconciled by themselves. Almost every
// partition of a large cluster has a set of its own: one list of each node is for
// all of them then, and one commit.
const mostSets = 16

// joined makes one reconciliation of many.
func joined(groups []Group) []Group {
	if len(groups) <= mostSets {
		return groups
	}
	all := Group{Policy: groups[0].Policy, Sets: make(map[sheepdog.Partition][]sheepdog.NodeID)}
	for _, g := range groups {
		all.Items = append(all.Items, g.Items...)
		all.Sources = append(all.Sources, g.Sources...)
		for _, item := range g.Items {
			all.Sets[item.Partition] = g.Sources
		}
	}
	slices.SortFunc(all.Items, func(a, b Item) int { return int(a.Partition) - int(b.Partition) })
	slices.Sort(all.Sources)
	all.Sources = slices.Compact(all.Sources)
	return []Group{all}
}

// Plan is what one node has to do in one view.
type Plan struct {
	Backfill  []Group // by source
	Reconcile []Group // by set of live acting replicas, or of all sets if there are many
	// Waiting counts the partitions that this node should backfill but cannot:
	// no acting replica lives, or they must be reconciled first.
	Waiting int
	// Pending counts the partitions that this node backfills or reconciles,
	// those skipped included.
	Pending int
}

// newAsking finds the partitions that may ask something of a node.
func newAsking(self sheepdog.NodeID) *lookout {
	return newLookout(func(pl *sheepdog.Placement) bool {
		return pl.IsWriter(self) && (pl.State != sheepdog.Clean || !pl.IsActing(self))
	})
}

// planFrom says what node self has to do in v, one of views that follow each other.
// Partitions for which skip is true are left out: somebody works on them already, or
// they wait.
func planFrom(asking *lookout, v *sheepdog.View, self sheepdog.NodeID, skip func(Place, sheepdog.Revision) bool) *Plan {
	asking.look(v)
	b := &planner{view: v, self: self, skip: skip, plan: new(Plan), load: make(map[sheepdog.NodeID]int)}
	policies := make([]sheepdog.Policy, 0, len(v.Tables))
	for policy := range v.Tables {
		policies = append(policies, policy)
	}
	slices.SortFunc(policies, comparePolicies)
	for _, policy := range policies {
		b.table(policy, asking.tables[policy])
	}
	return b.plan
}

func comparePolicies(a, b sheepdog.Policy) int {
	return int(a.Copies)<<8 + int(a.Parity) - int(b.Copies)<<8 - int(b.Parity)
}

type planner struct {
	view      *sheepdog.View
	self      sheepdog.NodeID
	skip      func(Place, sheepdog.Revision) bool
	plan      *Plan
	load      map[sheepdog.NodeID]int // partitions given to each source
	backfill  map[sheepdog.NodeID]*Group
	reconcile map[string]*Group
	shared    map[*sheepdog.Placement]verdict
}

// verdict is what a placement asks of this node; placements are shared by many
// partitions.
type verdict struct {
	live []sheepdog.NodeID
	todo todo
}

type todo uint8

const (
	nothing todo = iota
	waits
	backfills
	reconciles
)

func (b *planner) table(policy sheepdog.Policy, t *lookedAt) {
	b.backfill, b.reconcile = make(map[sheepdog.NodeID]*Group), make(map[string]*Group)
	b.shared = make(map[*sheepdog.Placement]verdict)
	for p := range t.found.all {
		pl := t.table[p]
		d, ok := b.shared[pl]
		if !ok {
			d = b.judge(pl)
			b.shared[pl] = d
		}
		if d.todo != nothing {
			b.assign(Place{policy, p}, pl.Since, d)
		}
	}
	b.plan.Backfill = appendSorted(b.plan.Backfill, b.backfill)
	b.plan.Reconcile = append(b.plan.Reconcile, joined(appendSorted(nil, b.reconcile))...)
}

func (b *planner) judge(pl *sheepdog.Placement) verdict {
	members, _ := b.view.ActingMembers(pl)
	d := verdict{live: make([]sheepdog.NodeID, len(members))}
	for i, m := range members {
		d.live[i] = m.ID
	}
	wanted := slices.Contains(pl.Target, b.self) && !pl.IsActing(b.self)
	switch {
	case pl.State == sheepdog.Unclean && len(d.live) > 0 && d.live[0] == b.self:
		d.todo = reconciles
	case wanted && (pl.State != sheepdog.Clean || len(d.live) == 0):
		d.todo = waits
	case wanted:
		d.todo = backfills
	}
	return d
}

func (b *planner) assign(at Place, since sheepdog.Revision, d verdict) {
	if d.todo == waits {
		b.plan.Waiting++
		return
	}
	b.plan.Pending++
	if b.skip != nil && b.skip(at, since) {
		return
	}
	item := Item{at.Partition, since}
	if d.todo == reconciles {
		add(b.reconcile, fmt.Sprint(d.live), at.Policy, d.live, item)
		return
	}
	source := d.live[0]
	for _, id := range d.live[1:] {
		if b.load[id] < b.load[source] {
			source = id
		}
	}
	b.load[source]++
	add(b.backfill, source, at.Policy, []sheepdog.NodeID{source}, item)
}

func add[K comparable](groups map[K]*Group, key K, policy sheepdog.Policy, sources []sheepdog.NodeID, item Item) {
	g := groups[key]
	if g == nil {
		g = &Group{Policy: policy, Sources: sources}
		groups[key] = g
	}
	g.Items = append(g.Items, item)
}

func appendSorted[K comparable](out []Group, groups map[K]*Group) []Group {
	first := len(out)
	for _, g := range groups {
		out = append(out, *g)
	}
	slices.SortFunc(out[first:], func(a, b Group) int { return slices.Compare(a.Sources, b.Sources) })
	return out
}

// Substitutes lists the partitions for which self became a target in next only
// because a former target is no member any more. That node may come back, so
// moving data in its place can wait. A node that joined or came back itself
// stands in for nobody.
func Substitutes(prev, next *sheepdog.View, self sheepdog.NodeID) []Place {
	if prev == nil {
		return nil
	}
	was, ok := prev.Member(self)
	is, still := next.Member(self)
	if !ok || !still || was.Incarnation != is.Incarnation {
		return nil
	}
	var out []Place
	for policy, table := range next.Tables {
		before := prev.Tables[policy]
		for p, pl := range table {
			if p < len(before) && before[p] != pl && standsIn(before[p], pl, next, self) {
				out = append(out, Place{policy, sheepdog.Partition(p)})
			}
		}
	}
	slices.SortFunc(out, func(a, b Place) int {
		if c := comparePolicies(a.Policy, b.Policy); c != 0 {
			return c
		}
		return int(a.Partition) - int(b.Partition)
	})
	return out
}

func standsIn(before, pl *sheepdog.Placement, next *sheepdog.View, self sheepdog.NodeID) bool {
	if !slices.Contains(pl.Target, self) || pl.IsActing(self) || before.IsWriter(self) {
		return false
	}
	return slices.ContainsFunc(before.Target, func(id sheepdog.NodeID) bool {
		_, member := next.Member(id)
		return !member
	})
}
