package replicatest

import (
	"slices"
	"sync"

	"sheepdog"
)

// Views is a sheepdog.Views that is stepped by hand.
type Views struct {
	mu      sync.Mutex
	view    *sheepdog.View
	changed chan struct{}
}

// NewViews starts with a view, which may be nil.
func NewViews(v *sheepdog.View) *Views {
	return &Views{view: v, changed: make(chan struct{})}
}

// View implements sheepdog.Views.
func (w *Views) View() *sheepdog.View {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.view
}

// Changed implements sheepdog.Views.
func (w *Views) Changed(v *sheepdog.View) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.view != v && w.view != nil && (v == nil || w.view.Revision > v.Revision) {
		done := make(chan struct{})
		close(done)
		return done
	}
	return w.changed
}

// Publish steps to a newer view.
func (w *Views) Publish(v *sheepdog.View) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.view = v
	close(w.changed)
	w.changed = make(chan struct{})
}

// Policy is the policy of the views that this package makes.
var Policy = sheepdog.Policy{Copies: 3}

// NewView makes a view in which every partition is placed alike. Node n has
// incarnation n and zone n; acting and target may name nodes that are no
// members.
func NewView(revision sheepdog.Revision, members []sheepdog.NodeID, acting, target []sheepdog.NodeID) *sheepdog.View {
	v := &sheepdog.View{Epoch: sheepdog.Epoch(revision), Revision: revision, Tables: make(map[sheepdog.Policy]sheepdog.Table)}
	for _, id := range slices.Sorted(slices.Values(members)) {
		v.Members = append(v.Members, sheepdog.Member{ID: id, Incarnation: sheepdog.Incarnation(id), Zone: sheepdog.Zone(id), VNodes: 1})
	}
	row := &sheepdog.Placement{Acting: acting, Target: target, Since: revision}
	table := make(sheepdog.Table, sheepdog.Partitions)
	for p := range table {
		table[p] = row
	}
	v.Tables[Policy] = table
	return v
}

// Next copies a view with the next revision; edit may replace rows of its table
// and sees the new revision in it.
func Next(v *sheepdog.View, edit func(next *sheepdog.View, table sheepdog.Table)) *sheepdog.View {
	next := *v
	next.Revision++
	next.Members = slices.Clone(v.Members)
	next.Tables = make(map[sheepdog.Policy]sheepdog.Table)
	for policy, table := range v.Tables {
		next.Tables[policy] = slices.Clone(table)
	}
	if edit != nil {
		edit(&next, next.Tables[Policy])
	}
	return &next
}
