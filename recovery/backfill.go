package recovery

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"sheepdog"
)

// Promotions go in batches: as many as a commit may have, or what became ready
// in a while.
const (
	commitItems = 16384
	commitEvery = 500 * time.Millisecond
)

// backfill is the copying of one group from one acting replica.
//
// Why nothing is missed (docs/protocol.md rule 9): the source answers in the
// interval of the target, so it has finished all writes of older intervals and
// refuses new ones; what is written in this interval goes to the target too
// before it is acknowledged. Blocks on which the target is ahead of the source
// are looked at again until the source has caught up, or cannot any more.
type backfill struct {
	*Agent
	run      *run
	source   sheepdog.Replica
	ready    []Item
	last     time.Time                      // of the last commit
	families map[sheepdog.FamilyID]struct{} // of the ready partitions
}

func (a *Agent) backfill(ctx context.Context, r *run) error {
	b := &backfill{Agent: a, run: r, source: a.replica(r.group.Sources[0]), last: time.Now(), families: make(map[sheepdog.FamilyID]struct{})}
	if err := b.all(ctx); err != nil {
		return b.failed(ctx, err)
	}
	return nil
}

// failed reports a source that could not be reached.
func (b *backfill) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil // cancelled: a newer view asks for something else
	}
	if errors.Is(err, sheepdog.ErrUnreachable) && b.cfg.Hooks.Suspect != nil {
		b.cfg.Hooks.Suspect(b.run.group.Sources[0], err)
	}
	return fmt.Errorf("backfill from node %s: %w", b.run.group.Sources[0], err)
}

func (b *backfill) all(ctx context.Context) error {
	if err := b.carry(ctx, nil); err != nil {
		return err
	}
	pagers := []*pager{
		{agent: b.Agent, id: b.run.group.Sources[0], run: b.run},
		{agent: b.Agent, id: b.cfg.Self, run: b.run},
	}
	err := byPartition(ctx, b.run, pagers, func(item Item, objects []*listed) error {
		return b.partition(ctx, item, objects)
	})
	return errors.Join(err, b.commit(ctx))
}

// partition makes one partition complete. Trouble with its content keeps it
// back, and only it.
func (b *backfill) partition(ctx context.Context, item Item, objects []*listed) error {
	if !valid(b.cfg.Views.View(), b.run.group.Policy, item) {
		return nil
	}
	err := b.objects(ctx, objects)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, sheepdog.ErrUnreachable), errors.Is(err, sheepdog.ErrNoSpace), errors.Is(err, sheepdog.ErrIO):
		return err
	default:
		if !errors.Is(err, sheepdog.ErrStale) {
			b.cfg.Log.Warn("partition is not complete yet", "partition", item.Partition, "err", err)
		}
		return nil
	}
	b.ready = append(b.ready, item)
	if len(b.ready) >= commitItems || time.Since(b.last) >= commitEvery {
		began := time.Now()
		defer func() { b.pace.Held(time.Since(began)) }()
		return b.commit(ctx)
	}
	return nil
}

// objects brings the objects of one partition in line, several at once.
func (b *backfill) objects(ctx context.Context, objects []*listed) (err error) {
	var finished atomic.Uint64
	b.progress.total.Add(uint64(len(objects)))
	defer func() {
		if err != nil { // they will be met again
			b.progress.total.Add(-uint64(len(objects)))
			b.progress.finished.Add(-finished.Load())
		}
	}()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(b.cfg.Parallel)
	for _, l := range objects {
		b.families[l.object.Family] = struct{}{}
		g.Go(func() error {
			if err := b.differing(ctx, l); err != nil {
				return fmt.Errorf("object %s: %w", l.object, err)
			}
			finished.Add(1)
			b.progress.finished.Add(1)
			return nil
		})
	}
	return g.Wait()
}

// differing moves an object if there is anything to move.
func (b *backfill) differing(ctx context.Context, l *listed) error {
	if l.equal() {
		return nil
	}
	if err := b.admit(ctx); err != nil {
		return err
	}
	defer func() { <-b.slots }()
	buf := b.buffers.Get().(*[]byte)
	defer b.buffers.Put(buf)
	m := &mover{backfill: b, buf: *buf}
	began := time.Now()
	b.pace.Begin()
	err := m.object(ctx, l)
	b.progress.moved.Add(m.moved)
	return errors.Join(err, b.pace.End(ctx, m.moved, time.Since(began)))
}

// mover moves one object.
type mover struct {
	*backfill
	buf   []byte // of one copyRun
	moved uint64 // bytes fetched
}

// admit waits until one more object may be moved: the throttle and the other
// groups let it.
func (a *Agent) admit(ctx context.Context) error {
	if err := a.throttle.Wait(ctx); err != nil {
		return err
	}
	select {
	case a.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// object brings one object in line, layer by layer. Layers that the source does
// not have go first: if the directory absorbs one of them at this very moment,
// its blocks are missed and copied afterwards, for then nothing listed before
// is believed any more.
func (b *mover) object(ctx context.Context, l *listed) error {
	have := make(map[sheepdog.LayerID]uint64)
	for _, e := range l.layers[1] {
		have[e.Layer] = e.Digest
	}
	want := make(map[sheepdog.LayerID]bool)
	for _, e := range l.layers[0] {
		want[e.Layer] = true
	}
	discarded := false
	for layer := range have {
		if want[layer] {
			continue
		}
		discarded = true
		at := b.place(l.object, layer)
		if err := b.cfg.Local.Discard(ctx, &at); err != nil {
			return err
		}
	}
	for _, e := range l.layers[0] {
		if digest, ok := have[e.Layer]; ok && digest == e.Digest && !discarded {
			continue
		}
		if err := b.layer(ctx, l.object, e.Layer); err != nil {
			return fmt.Errorf("layer %d: %w", e.Layer, err)
		}
	}
	return b.unmoved(l.layers[0])
}

// unmoved refuses what was compared if the directory here has absorbed or
// dropped a layer that the source listed. The source's blocks of such a layer
// were not found under the name of the one that absorbed it, and ours may have
// been discarded as blocks that nobody has.
func (b *backfill) unmoved(listed []sheepdog.ListEntry) error {
	for _, e := range listed {
		if owner, ok := b.cfg.Layers.Owner(e.Layer); !ok || owner != e.Layer {
			return fmt.Errorf("layer %d was absorbed or dropped meanwhile: %w", e.Layer, sheepdog.ErrConflict)
		}
	}
	return nil
}

func (b *backfill) place(obj sheepdog.ObjectID, layer sheepdog.LayerID) sheepdog.FetchRequest {
	return place(b.run.view.Revision, b.run.group.Policy, obj, layer)
}

// commit makes what was copied durable and has the ready partitions promoted.
func (b *backfill) commit(ctx context.Context) error {
	ready := b.ready[:0:0]
	for _, item := range b.ready {
		if valid(b.cfg.Views.View(), b.run.group.Policy, item) {
			ready = append(ready, item)
		}
	}
	families := b.families
	b.ready, b.last, b.families = nil, time.Now(), make(map[sheepdog.FamilyID]struct{})
	if len(ready) == 0 || ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := b.carry(ctx, families); err != nil {
		return err
	}
	flush := &sheepdog.FlushRequest{Fence: sheepdog.Fence{Revision: b.run.view.Revision}}
	if err := b.cfg.Local.Flush(ctx, flush); err != nil {
		return fmt.Errorf("flush before promotion: %w", err)
	}
	return b.settle(ctx, b.run, ready, b.promotions.promote)
}

// settle commits a batch and notes what was accepted.
func (a *Agent) settle(ctx context.Context, r *run, items []Item, commit func(context.Context, *Move) ([]sheepdog.Partition, error)) error {
	for len(items) > 0 {
		n := min(len(items), commitItems)
		refused, err := commit(ctx, &Move{Policy: r.group.Policy, Node: a.cfg.Self, Incarnation: a.cfg.Incarnation, Items: items[:n]})
		if err != nil {
			return fmt.Errorf("commit of %d partitions: %w", n, err)
		}
		no := make(map[sheepdog.Partition]bool, len(refused))
		for _, p := range refused {
			no[p] = true
		}
		for _, item := range items[:n] {
			if !no[item.Partition] {
				r.settled = append(r.settled, item)
			}
		}
		items = items[n:]
	}
	return nil
}

// carry takes over what the source remembers of families. A nil set takes over
// the promises of all families, before anything is compared: what the source
// refuses by then this node refuses too. Before a promotion the dirty marks and
// origins of the families of the promoted partitions follow, so that a takeover
// finds unfinished writes here as it would there.
func (b *backfill) carry(ctx context.Context, families map[sheepdog.FamilyID]struct{}) error {
	fence := sheepdog.Fence{Revision: b.run.view.Revision}
	active, err := b.source.Seal(ctx, &sheepdog.SealRequest{Fence: fence})
	if err != nil {
		return fmt.Errorf("ask for active families: %w", err)
	}
	for _, d := range active.Dirty {
		id := d.Object.Family
		reply := new(sheepdog.SealReply)
		if _, ok := families[id]; ok {
			if reply, err = b.source.Seal(ctx, &sheepdog.SealRequest{Fence: fence, Family: id}); err != nil {
				return fmt.Errorf("ask for dirty blocks of family %d: %w", id, err)
			}
		}
		if err := b.cfg.Local.Carry(b.run.view.Revision, id, d.Stamp.Token, reply); err != nil {
			return err
		}
	}
	return nil
}
