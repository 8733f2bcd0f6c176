package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/vdi/directory"
)

// SnapshotGroup snapshots several VDIs in one moment, under the guests' I/O.
func (b backend) SnapshotGroup(ctx context.Context, req *api.GroupRequest) (*api.GroupResult, error) {
	if err := b.n.ready(ctx); err != nil {
		return nil, err
	}
	if err := b.n.room(); err != nil {
		return nil, err
	}
	var members []directory.Snapshot
	for _, name := range req.Names {
		members = append(members, directory.Snapshot{Name: name, Tag: req.Tag, Description: req.Description, Expires: req.Expires})
	}
	snapped, err := b.n.vdis.SnapshotGroup(ctx, members)
	if err != nil {
		return nil, err
	}
	out := &api.GroupResult{}
	for i, one := range snapped.Snapped {
		out.Snapshots = append(out.Snapshots, *b.snapped(req.Names[i], one))
	}
	return out, nil
}

// AlterVDI gives a VDI another redundancy. What an earlier call left is copied
// by this one.
func (b backend) AlterVDI(ctx context.Context, req *api.AlterRequest, report func(api.CopyProgress) error) (*api.VDI, error) {
	if err := b.n.ready(ctx); err != nil {
		return nil, err
	}
	if err := checkPolicy(req.Copies); err != nil {
		return nil, err
	}
	v, err := b.n.dir.Lookup(req.Name)
	if err != nil {
		return nil, err
	}
	if !v.Moving || v.Policy != req.Copies {
		if err := b.n.room(); err != nil {
			return nil, err
		}
		if err := b.table(ctx, req.Copies); err != nil {
			return nil, err
		}
		if _, err := b.n.vdis.Alter(ctx, directory.AlterPolicy{Name: req.Name, Policy: req.Copies}); err != nil {
			return nil, err
		}
		// Another node may have done it; what is to be copied is seen here only then.
		if err := b.n.cluster.Barrier(ctx); err != nil {
			return nil, err
		}
	}
	return b.flatten(ctx, req.Name, report)
}

// FlattenVDI has a clone let go of its base.
func (b backend) FlattenVDI(ctx context.Context, req *api.FlattenRequest, report func(api.CopyProgress) error) (*api.VDI, error) {
	if err := b.n.ready(ctx); err != nil {
		return nil, err
	}
	if err := b.n.room(); err != nil {
		return nil, err
	}
	return b.flatten(ctx, req.Name, report)
}

// copiesAtOnce is how many objects a flatten copies at a time.
const copiesAtOnce = 4

// flatten copies every object that the VDI reads from other families, and lets
// go of them.
func (b backend) flatten(ctx context.Context, name string, report func(api.CopyProgress) error) (*api.VDI, error) {
	v, err := b.n.dir.Lookup(name)
	if err != nil {
		return nil, err
	}
	if l, ok := b.n.dir.Layer(v.Layer); ok && l.Parent != 0 {
		return nil, fmt.Errorf("VDI %s has snapshots, which need what is below them too; delete them, or copy the VDI with clone -n: %w", name, sheepdog.ErrInvalid)
	}
	indexes, err := b.inherited(ctx, v)
	if err != nil {
		return nil, err
	}
	volume, err := b.n.vdis.Open(name, "")
	if err != nil {
		return nil, err
	}
	defer volume.Close(context.WithoutCancel(ctx))
	total := api.CopyProgress{TotalBytes: uint64(len(indexes)) << v.BlockSizeShift}
	for group := range slices.Chunk(indexes, 16*copiesAtOnce) {
		if err := report(total); err != nil {
			return nil, err
		}
		if err := b.copyUp(ctx, volume.CopyUp, group); err != nil {
			return nil, err
		}
		total.DoneBytes += uint64(len(group)) << v.BlockSizeShift
	}
	if err := b.n.vdis.Flatten(ctx, name, v.Layer); err != nil {
		return nil, err
	}
	if err := report(total); err != nil {
		return nil, err
	}
	return b.lookup(name)
}

func (b backend) copyUp(ctx context.Context, copyUp func(context.Context, sheepdog.Index) error, indexes []sheepdog.Index) error {
	eg, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range copiesAtOnce {
		eg.Go(func() error {
			for {
				i := int(next.Add(1))
				if i > len(indexes) {
					return nil
				}
				if err := copyUp(ctx, indexes[i-1]); err != nil {
					return err
				}
			}
		})
	}
	return eg.Wait()
}

// inherited lists the indexes at which layers of other families may hold
// something of a VDI.
func (b backend) inherited(ctx context.Context, v directory.VDI) ([]sheepdog.Index, error) {
	var seen map[sheepdog.Index]bool
	end := objectsOf(&directory.Entry{VDI: v})
	err := b.n.atLevels(ctx, v.Layer, func(levels []level) error {
		seen = make(map[sheepdog.Index]bool)
		others := slices.DeleteFunc(levels, func(l level) bool { return l.family.ID == v.Family })
		return b.n.indexes(ctx, others, func(_ int, i sheepdog.Index) {
			if uint64(i) < end {
				seen[i] = true
			}
		})
	})
	if err != nil {
		return nil, err
	}
	var out []sheepdog.Index
	for i := range seen {
		out = append(out, i)
	}
	slices.Sort(out)
	return out, nil
}

// Trash lists what is in the trash.
func (b backend) Trash(ctx context.Context) (*api.TrashList, error) {
	if err := b.n.ready(ctx); err != nil {
		return nil, err
	}
	out := &api.TrashList{KeepSeconds: uint64(b.n.dir.TrashKeep() / time.Second)}
	for _, t := range b.n.dir.Trash() {
		out.VDIs = append(out.VDIs, api.TrashedVDI{Name: t.Name, ID: api.VID(t.VID), SizeBytes: t.Size, Deleted: t.Deleted, Expires: t.Expires})
	}
	return out, nil
}

// SetTrash turns the trash on or off for deletions to come.
func (b backend) SetTrash(ctx context.Context, req *api.TrashSetting) error {
	if err := b.n.ready(ctx); err != nil {
		return err
	}
	return b.n.vdis.SetTrash(ctx, time.Duration(req.KeepSeconds)*time.Second)
}

// RestoreTrash takes a VDI out of the trash.
func (b backend) RestoreTrash(ctx context.Context, req *api.RestoreRequest) (*api.VDI, error) {
	if err := b.n.ready(ctx); err != nil {
		return nil, err
	}
	if err := b.n.vdis.Untrash(ctx, sheepdog.VID(req.ID), req.Name); err != nil {
		return nil, err
	}
	e, ok := b.n.dir.ByVID(sheepdog.VID(req.ID))
	if !ok {
		return nil, fmt.Errorf("VDI %s was deleted again: %w", req.ID, sheepdog.ErrNotFound)
	}
	v := b.describe(&e, nil)
	return &v, nil
}

// PurgeTrash deletes a VDI in the trash for good.
func (b backend) PurgeTrash(ctx context.Context, id api.VID) error {
	if err := b.n.ready(ctx); err != nil {
		return err
	}
	return b.n.vdis.Purge(ctx, directory.Purge{VID: sheepdog.VID(id), RecycleVIDs: b.n.cluster.View().Config.RecycleVIDs})
}

// expireEvery is how often the leader looks for snapshots, and for VDIs in the
// trash, whose time is over.
const expireEvery = 5 * time.Second

// expireOften deletes them until the node stops.
func (n *Node) expireOften() {
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-tick.C:
		}
		leader, _ := n.raftRole()
		if v := n.cluster.View(); v == nil || leader != n.self.ID {
			continue
		} else if err := n.vdis.Expire(n.ctx, v.Config.RecycleVIDs); err != nil && !errors.Is(err, context.Canceled) {
			n.log.Warn("could not delete what has expired", "err", err)
		}
	}
}
