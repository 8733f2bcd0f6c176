package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/vdi/directory"
)

// Attribute is the value of an attribute of a VDI or snapshot.
func (b backend) Attribute(ctx context.Context, name string, snapshot api.Selector, key string) ([]byte, error) {
	if err := b.n.ready(ctx); err != nil {
		return nil, err
	}
	return b.n.dir.Attr(name, string(snapshot), key)
}

// Attributes lists the keys of a VDI or snapshot.
func (b backend) Attributes(ctx context.Context, name string, snapshot api.Selector) ([]string, error) {
	if err := b.n.ready(ctx); err != nil {
		return nil, err
	}
	return b.n.dir.Attrs(name, string(snapshot))
}

// SetAttribute commits one attribute; the commit decides who is first.
func (b backend) SetAttribute(ctx context.Context, req *api.SetAttributeRequest) error {
	if err := b.n.ready(ctx); err != nil {
		return err
	}
	return b.n.vdis.SetAttr(ctx, directory.SetAttr{Name: req.Name, Snapshot: string(req.Snapshot), Key: req.Key, Value: req.Value, Exclusive: req.Exclusive, Delete: req.Delete})
}

// SetVDICopies has the data of a snapshot erasure coded in the background.
func (b backend) SetVDICopies(ctx context.Context, req *api.VDICopiesRequest) error {
	if err := b.n.ready(ctx); err != nil {
		return err
	}
	if req.Copies.Parity == 0 || req.Snapshot == "" {
		return fmt.Errorf("the redundancy of a VDI cannot change in place; only snapshots can be erasure coded (-c D:P): %w", sheepdog.ErrInvalid)
	}
	if err := enoughZones(req.Copies, b.n.cluster.View().StorageZones()); err != nil {
		return err
	}
	return b.n.vdis.Code(ctx, directory.Code{Name: req.Name, Snapshot: string(req.Snapshot), Policy: req.Copies})
}

// RenameVDI gives a VDI and its snapshots another name.
func (b backend) RenameVDI(ctx context.Context, req *api.RenameRequest) error {
	if err := b.n.ready(ctx); err != nil {
		return err
	}
	return b.n.vdis.Rename(ctx, req.Name, req.NewName)
}

// saved keeps what a rollback is about to throw away as a snapshot.
func (b backend) saved(ctx context.Context, req *api.RollbackRequest) error {
	if _, err := b.n.dir.LookupSnapshot(req.Name, string(req.Snapshot)); err != nil {
		return err
	}
	if _, err := b.n.dir.Lookup(req.Name); err != nil {
		return nil // only snapshots are left: nothing is thrown away
	}
	if err := b.n.room(); err != nil {
		return err
	}
	_, err := b.n.vdis.Snapshot(ctx, directory.Snapshot{Name: req.Name, Tag: req.SaveTag,
		Description: fmt.Sprintf("taken before the rollback to snapshot %s", req.Snapshot)})
	return err
}

// Locks lists the VDIs that a gateway coordinates.
func (b backend) Locks(ctx context.Context) ([]api.Lock, error) {
	if err := b.n.ready(ctx); err != nil {
		return nil, err
	}
	v := b.n.cluster.View()
	var out []api.Lock
	for _, l := range b.n.dir.Locks() {
		lock := api.Lock{Name: l.Name, ID: api.VID(l.VID), Node: l.Coordinator.Node}
		if m, ok := v.Member(l.Coordinator.Node); ok && m.Incarnation == l.Coordinator.Incarnation {
			lock.Addr = m.Addr
		}
		out = append(out, lock)
	}
	return out, nil
}

// Unlock has a VDI's coordinator flush it and give it back.
func (b backend) Unlock(ctx context.Context, req *api.UnlockRequest) error {
	if err := b.n.ready(ctx); err != nil {
		return err
	}
	v, err := b.n.dir.Lookup(req.Name)
	if err != nil {
		return err
	}
	if f, ok := b.n.dir.Family(v.Family); !ok || f.Coordinator.IsZero() {
		return api.NotLocked(req.Name, api.VID(v.VID))
	}
	return b.n.vdis.Unlock(ctx, req.Name)
}

// CopyVDI makes a VDI of a snapshot's data that shares nothing with it. It gets its
// name when it is complete, unless snapshots of that name are left, beside which
// nothing can be renamed.
func (b backend) CopyVDI(ctx context.Context, req *api.CloneRequest, report func(api.CopyProgress) error) (*api.VDI, error) {
	src, err := b.open(ctx, req.Source, string(req.Snapshot))
	if err != nil {
		return nil, err
	}
	defer src.Close(context.WithoutCancel(ctx))
	snap, err := b.n.dir.LookupSnapshot(req.Source, string(req.Snapshot))
	if err != nil {
		return nil, err
	}
	place := req.Name
	if len(b.n.dir.ListName(place)) == 0 {
		place = api.UnfinishedName(place, time.Now())
	}
	cmd := directory.Create{Name: place, Size: max(req.SizeBytes, snap.Size), Policy: snap.Policy, BlockSizeShift: snap.BlockSizeShift}
	if req.SizeBytes != 0 && req.SizeBytes < snap.Size {
		return nil, fmt.Errorf("clone of %d bytes is smaller than its snapshot of %d: %w", req.SizeBytes, snap.Size, sheepdog.ErrInvalid)
	}
	if err := b.n.room(); err != nil {
		return nil, err
	}
	made, err := b.n.vdis.Create(ctx, cmd)
	if err != nil {
		return nil, err
	}
	err = b.fillCopy(ctx, place, allocates(req.Preallocate, cmd.Policy), src, report)
	if err == nil && place != req.Name {
		err = b.n.vdis.Rename(ctx, place, req.Name)
	}
	if err != nil {
		gone, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
		defer cancel()
		// Somebody may have deleted it, and made another of the name, since.
		if derr := b.n.vdis.Delete(gone, directory.Delete{Name: place, IfVID: made.VID, Purge: true}); derr != nil && !errors.Is(derr, sheepdog.ErrNotFound) {
			return nil, fmt.Errorf("%w; the incomplete copy %s is still there (%v): delete it", err, place, derr)
		}
		return nil, err
	}
	return b.lookup(req.Name)
}
