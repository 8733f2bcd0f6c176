package recovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"sheepdog"
)

// pageLimit is the entries asked for at once.
const pageLimit = 8192

// staleLooks bounds how often a list is asked for again because a partition of
// it moved meanwhile.
const staleLooks = 64

// pager reads the list of one replica for the partitions of a run, page by
// page. Partitions that moved are left out from then on.
type pager struct {
	agent *Agent
	id    sheepdog.NodeID
	run   *run
	after sheepdog.ListEntry
	buf   []sheepdog.ListEntry
	ended bool
}

// head is the next entry; nil at the end.
func (p *pager) head(ctx context.Context) (*sheepdog.ListEntry, error) {
	for len(p.buf) == 0 && !p.ended {
		if err := p.fill(ctx); err != nil {
			return nil, err
		}
	}
	if len(p.buf) == 0 {
		return nil, nil
	}
	return &p.buf[0], nil
}

// fillAll asks many replicas for their first pages at once.
func fillAll(ctx context.Context, pagers []*pager) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, p := range pagers {
		g.Go(func() error {
			_, err := p.head(ctx)
			return err
		})
	}
	return g.Wait()
}

func (p *pager) fill(ctx context.Context) error {
	for range staleLooks {
		v := p.agent.cfg.Views.View()
		req := &sheepdog.ListRequest{Fence: sheepdog.Fence{Revision: p.run.view.Revision}, Policy: p.run.group.Policy,
			Partitions: p.remaining(v), After: p.after, Limit: pageLimit}
		if len(req.Partitions) == 0 {
			p.ended = true
			return nil
		}
		reply, err := p.agent.replica(p.id).List(ctx, req)
		if errors.Is(err, sheepdog.ErrStale) {
			if err := awaitNewer(ctx, p.agent.cfg.Views, v); err != nil {
				return err
			}
			continue
		}
		if err == nil {
			err = p.take(reply)
		}
		if err != nil {
			return &peerError{p.id, fmt.Errorf("list: %w", err)}
		}
		return nil
	}
	return fmt.Errorf("list: %w: partitions keep moving", sheepdog.ErrStale)
}

// take checks that a page goes forward, whatever the other node sends.
func (p *pager) take(reply *sheepdog.ListReply) error {
	if reply == nil || reply.More && len(reply.Entries) == 0 {
		return fmt.Errorf("%w: empty page of a list that goes on", sheepdog.ErrInvalid)
	}
	last := p.after
	for _, e := range reply.Entries {
		if last != (sheepdog.ListEntry{}) && compareEntries(last, e) >= 0 {
			return fmt.Errorf("%w: list is out of order at object %s layer %d", sheepdog.ErrInvalid, e.Object, e.Layer)
		}
		last = e
	}
	p.buf, p.after, p.ended = reply.Entries, last, !reply.More
	return nil
}

// remaining lists the partitions not read yet that stand.
func (p *pager) remaining(v *sheepdog.View) []sheepdog.Partition {
	out := make([]sheepdog.Partition, 0, len(p.run.group.Items))
	low := p.after.Object.Partition()
	for _, item := range p.run.group.Items {
		if p.after != (sheepdog.ListEntry{}) && item.Partition < low || !p.has(item.Partition) || !valid(v, p.run.group.Policy, item) {
			continue
		}
		out = append(out, item.Partition)
	}
	return out
}

// has reports whether the replica is one of a partition's.
func (p *pager) has(part sheepdog.Partition) bool {
	return p.run.group.Sets == nil || slices.Contains(p.run.group.Sets[part], p.id)
}

// valid reports whether the interval of an item has not ended in v.
func valid(v *sheepdog.View, policy sheepdog.Policy, item Item) bool {
	pl, ok := v.Placement(policy, item.Partition)
	return ok && pl.Since == item.Since
}

// newerWait bounds the wait for a view that another node has seen.
const newerWait = 5 * time.Second

// awaitNewer waits until a view newer than v is known here. Another node that
// calls a request stale has seen one.
func awaitNewer(ctx context.Context, views sheepdog.Views, v *sheepdog.View) error {
	timer := time.NewTimer(newerWait)
	defer timer.Stop()
	select {
	case <-views.Changed(v):
		return nil
	case <-timer.C:
		return fmt.Errorf("list: %w: no newer view came", sheepdog.ErrStale)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func compareEntries(a, b sheepdog.ListEntry) int {
	return cmp.Or(compareObjects(a.Object, b.Object), cmp.Compare(a.Layer, b.Layer))
}

func compareObjects(a, b sheepdog.ObjectID) int {
	return cmp.Or(cmp.Compare(a.Partition(), b.Partition()), cmp.Compare(a.Family, b.Family), cmp.Compare(a.Index, b.Index))
}

// listed is one object as several replicas list it: for each replica its
// layers, ascending.
type listed struct {
	object sheepdog.ObjectID
	layers [][]sheepdog.ListEntry
}

// equal reports whether all replicas list the same layers and digests.
func (l *listed) equal() bool {
	for _, entries := range l.layers[1:] {
		if !slices.Equal(entries, l.layers[0]) {
			return false
		}
	}
	return true
}

// union lists the layers that any replica has, ascending.
func (l *listed) union() []sheepdog.LayerID {
	var out []sheepdog.LayerID
	for _, entries := range l.layers {
		for _, e := range entries {
			out = append(out, e.Layer)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// merge reads the lists of several replicas side by side and visits every
// object that any of them has, in order.
func merge(ctx context.Context, pagers []*pager, visit func(*listed) error) error {
	for {
		var first *sheepdog.ObjectID
		for _, p := range pagers {
			e, err := p.head(ctx)
			if err != nil {
				return err
			}
			if e != nil && (first == nil || compareObjects(e.Object, *first) < 0) {
				obj := e.Object
				first = &obj
			}
		}
		if first == nil {
			return nil
		}
		l := &listed{object: *first, layers: make([][]sheepdog.ListEntry, len(pagers))}
		for i, p := range pagers {
			entries, err := p.object(ctx, *first)
			if err != nil {
				return err
			}
			l.layers[i] = entries
		}
		if err := visit(l); err != nil {
			return err
		}
	}
}

// object takes the entries of one object off the list.
func (p *pager) object(ctx context.Context, obj sheepdog.ObjectID) ([]sheepdog.ListEntry, error) {
	var out []sheepdog.ListEntry
	for {
		e, err := p.head(ctx)
		if err != nil || e == nil || e.Object != obj {
			return out, err
		}
		out = append(out, *e)
		p.buf = p.buf[1:]
	}
}

// byPartition visits the partitions of a run in order, each with the objects of
// it that any of the replicas has; at last also those without any.
func byPartition(ctx context.Context, r *run, pagers []*pager, visit func(Item, []*listed) error) error {
	items := r.group.Items
	var objects []*listed
	next := 0
	// upTo visits all items before partition p; p itself collects objects.
	upTo := func(p int) error {
		for ; next < len(items) && int(items[next].Partition) < p; next++ {
			err := visit(items[next], objects)
			objects = nil
			if err != nil {
				return err
			}
		}
		return nil
	}
	err := merge(ctx, pagers, func(l *listed) error {
		if err := upTo(int(l.object.Partition())); err != nil {
			return err
		}
		if next < len(items) && items[next].Partition == l.object.Partition() {
			objects = append(objects, l)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return upTo(sheepdog.Partitions)
}
