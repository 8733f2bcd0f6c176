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

// reconcile makes the live acting replicas of unclean partitions equal and lets
// them serve (docs/protocol.md rule 12). All of them restarted; everything
// flushed is on each; of what was not flushed the highest stamp wins. Nobody
// else writes meanwhile: replicas refuse all but repairs.
func (a *Agent) reconcile(ctx context.Context, r *run) error {
	if len(r.group.Sources) == 1 {
		return a.cancelled(ctx, a.settle(ctx, r, r.group.Items, a.cfg.Committer.Clean))
	}
	c := &circle{Agent: a, revision: r.view.Revision, policy: r.group.Policy, ids: r.group.Sources}
	pagers := make([]*pager, len(c.ids))
	for i, id := range c.ids {
		pagers[i] = &pager{agent: a, id: id, run: r}
	}
	var ready []Item
	var since time.Time // when the first of them was ready
	var trouble error   // with an object: it keeps back its partition, and only that
	flush := func() error {
		items := ready
		ready = nil
		return c.clean(ctx, r, items)
	}
	if err := fillAll(ctx, pagers); err != nil {
		return a.cancelled(ctx, err)
	}
	err := byPartition(ctx, r, pagers, func(item Item, objects []*listed) error {
		err := c.among(r.group.set(item.Partition), objects).reconcilePartition(ctx, objects)
		if errors.Is(err, sheepdog.ErrIO) && ctx.Err() == nil {
			trouble = cmp.Or(trouble, err)
			return nil
		}
		if err != nil {
			return err
		}
		if len(ready) == 0 {
			since = time.Now()
		}
		ready = append(ready, item)
		if len(ready) == commitItems || time.Since(since) >= commitEvery {
			return flush()
		}
		return nil
	})
	if err == nil {
		err = flush()
	}
	return a.cancelled(ctx, cmp.Or(err, trouble))
}

// among is the circle of some of its replicas; the lists of objects are cut down to
// theirs.
func (c *circle) among(ids []sheepdog.NodeID, objects []*listed) *circle {
	if len(ids) == len(c.ids) {
		return c
	}
	for _, l := range objects {
		all := l.layers
		l.layers = make([][]sheepdog.ListEntry, len(ids))
		for i, id := range ids {
			l.layers[i] = all[slices.Index(c.ids, id)]
		}
	}
	return &circle{Agent: c.Agent, revision: c.revision, policy: c.policy, ids: ids}
}

// cancelled hides the errors of work that a newer view made void, and reports
// the nodes that did not answer in other work.
func (a *Agent) cancelled(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return nil
	}
	var gone *peerError
	if errors.As(err, &gone) && errors.Is(err, sheepdog.ErrUnreachable) && gone.id != a.cfg.Self && a.cfg.Hooks.Suspect != nil {
		a.cfg.Hooks.Suspect(gone.id, err)
	}
	return fmt.Errorf("reconcile: %w", err)
}

// clean flushes all replicas before it lets them serve.
func (c *circle) clean(ctx context.Context, r *run, items []Item) error {
	if len(items) == 0 {
		return nil
	}
	err := c.each(ctx, func(ctx context.Context, _ int, rep sheepdog.Replica) error {
		return rep.Flush(ctx, &sheepdog.FlushRequest{Fence: sheepdog.Fence{Revision: c.revision}})
	})
	if err != nil {
		return err
	}
	return c.settle(ctx, r, items, c.cfg.Committer.Clean)
}

func (c *circle) reconcilePartition(ctx context.Context, objects []*listed) error {
	c.progress.total.Add(uint64(len(objects)))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(c.cfg.Parallel)
	for _, l := range objects {
		g.Go(func() error {
			if err := c.reconcileObject(ctx, l); err != nil {
				return fmt.Errorf("object %s: %w", l.object, err)
			}
			c.progress.finished.Add(1)
			return nil
		})
	}
	return g.Wait()
}

// reconcileObject is not throttled: the partition serves nobody until it is
// done.
func (c *circle) reconcileObject(ctx context.Context, l *listed) error {
	if l.equal() {
		return nil
	}
	for _, layer := range l.union() {
		if err := c.reconcileLayer(ctx, l.object, layer); err != nil && !layerGone(err) {
			return fmt.Errorf("layer %d: %w", layer, err)
		}
	}
	return nil
}

func (c *circle) reconcileLayer(ctx context.Context, obj sheepdog.ObjectID, layer sheepdog.LayerID) error {
	limit, err := c.blocksOf(obj, layer)
	if err != nil {
		return err
	}
	for start := uint32(0); start < limit; start += verifyBlocks {
		req := place(c.revision, c.policy, obj, layer)
		req.Start, req.Count, req.Verify = sheepdog.BlockNo(start), min(verifyBlocks, limit-start), true
		replies, err := c.fetchAll(ctx, &req)
		if err != nil {
			return err
		}
		for i := range int(req.Count) {
			if err := c.reconcileBlock(ctx, req, replies, i); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *circle) reconcileBlock(ctx context.Context, req sheepdog.FetchRequest, replies []*sheepdog.FetchReply, i int) error {
	j := judge(versionsOf(replies, req.Start, i))
	if len(j.wrong) == 0 {
		return nil
	}
	at := req
	at.Start, at.Count, at.Verify = req.Start+sheepdog.BlockNo(i), 1, false
	if j.source < 0 || j.older {
		c.cfg.Log.Error("block lost its newest bytes", "object", req.Object, "layer", req.Layer, "block", at.Start,
			"token", j.stamp.Token, "seq", j.stamp.Seq, "olderTaken", j.older)
	}
	if j.source < 0 {
		return nil // reads of it fail; nothing better is left
	}
	done, err := c.mend(ctx, at, j, replies[j.source].Records[i])
	if err == nil && !done {
		err = fmt.Errorf("block %d: %w: it changed while nobody may write", at.Start, sheepdog.ErrConflict)
	}
	return err
}
