package node

import (
	"context"
	"fmt"
	"io"
	"time"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/cluster/state"
	"sheepdog/vdi"
	"sheepdog/vdi/directory"
)

// backend answers the control API for this node.
type backend struct{ n *Node }

var _ api.Backend = backend{}

// VDIs lists working VDIs and snapshots with their object counts.
func (b backend) VDIs(ctx context.Context, q *api.VDIQuery) ([]api.VDI, error) {
	if err := b.n.ready(ctx); err != nil {
		return nil, err
	}
	counts, err := b.counts(ctx, q)
	if err != nil {
		return nil, err
	}
	entries := b.n.dir.List()
	if q.Name != "" {
		entries = b.n.dir.ListName(q.Name)
	}
	if q.Object != nil {
		if entries, err = b.n.readers(ctx, entries, *q.Object); err != nil {
			return nil, err
		}
	}
	out, owners, holders := make([]api.VDI, len(entries)), b.n.owners(), b.n.holders()
	for i := range entries {
		v := b.describe(&entries[i], counts)
		if api.VID(owners[entries[i].Layer]) != v.ID {
			// An older snapshot of the same bytes has written them.
			v.OwnObjects, v.SharedObjects = 0, v.OwnObjects+v.SharedObjects
		}
		if counts != nil {
			v.HeldBytes = b.n.held(&entries[i], counts, holders) << v.BlockSizeShift
		}
		out[i] = v
	}
	if q.Physical {
		err = b.n.fillSpace(ctx, entries, out)
	}
	return out, err
}

// counts asks all nodes for what their layers hold, unless that is left out.
func (b backend) counts(ctx context.Context, q *api.VDIQuery) (map[sheepdog.LayerID]layerCount, error) {
	if q.Brief {
		return nil, nil
	}
	counts, err := b.n.layerCounts(ctx)
	if err == nil {
		err = b.n.ready(ctx) // a node may have counted layers that are new to this one
	}
	return counts, err
}

// describe tells of one VDI or snapshot. counts may be nil.
func (b backend) describe(e *directory.Entry, counts map[sheepdog.LayerID]layerCount) api.VDI {
	v := api.VDI{Name: e.Name, ID: api.VID(e.VID), Snapshot: e.SnapID != 0, SnapshotID: e.SnapID, Tag: e.Tag, Description: e.Description,
		Expires: e.Expires, RevertedAt: e.RevertedAt, RevertedFrom: e.RevertedFrom, Origin: e.Origin, Moving: e.Moving,
		Clone: e.IsClone, SizeBytes: e.Size, Created: e.Created, Copies: e.Policy, BlockSizeShift: e.BlockSizeShift}
	if p, ok := b.n.dir.ByVID(e.Parent); ok && p.Index == e.ParentIndex {
		v.ParentID = api.VID(e.Parent)
	}
	own, shared := b.n.objects(e, counts)
	v.OwnObjects, v.SharedObjects = own.Objects, shared.Objects
	return v
}

// lookup describes the working VDI of a name after a change.
func (b backend) lookup(name string) (*api.VDI, error) {
	for _, e := range b.n.dir.ListName(name) {
		if e.SnapID == 0 {
			v := b.describe(&e, nil)
			return &v, nil
		}
	}
	return nil, fmt.Errorf("VDI %q: %w", name, sheepdog.ErrNotFound)
}

// CreateVDI makes an empty VDI.
func (b backend) CreateVDI(ctx context.Context, req *api.CreateRequest) (*api.VDI, error) {
	if err := b.n.ready(ctx); err != nil {
		return nil, err
	}
	cfg := b.n.cluster.View().Config
	cmd := directory.Create{Name: req.Name, Size: req.SizeBytes, Policy: cfg.Policy, BlockSizeShift: cfg.BlockSizeShift}
	if req.Copies != nil {
		cmd.Policy = *req.Copies
	}
	if req.BlockSizeShift != 0 {
		cmd.BlockSizeShift = req.BlockSizeShift
	}
	if err := checkPolicy(cmd.Policy); err != nil {
		return nil, err
	}
	if err := b.n.room(); err != nil {
		return nil, err
	}
	if err := b.table(ctx, cmd.Policy); err != nil {
		return nil, err
	}
	if _, err := b.n.vdis.Create(ctx, cmd); err != nil {
		return nil, err
	}
	if allocates(req.Preallocate, cmd.Policy) {
		if err := b.preallocate(ctx, req.Name); err != nil {
			return nil, err
		}
	}
	return b.lookup(req.Name)
}

// table makes sure that the policy has a partition table.
func (b backend) table(ctx context.Context, p sheepdog.Policy) error {
	if _, ok := b.n.cluster.View().Tables[p]; ok {
		return nil
	}
	_, err := b.n.cluster.ProposeState(ctx, state.Command{Table: &state.AddTable{Policy: p}})
	return err
}

// allocates reports whether zeros are written for their space. With erasure coding
// that would be for nothing: encoded zeros take none.
func allocates(asked bool, p sheepdog.Policy) bool { return asked && p.Parity == 0 }

// preallocate writes zeros over the whole VDI, so that every object exists.
func (b backend) preallocate(ctx context.Context, name string) error {
	v, err := b.n.vdis.Open(name, "")
	if err != nil {
		return err
	}
	defer v.Close(context.WithoutCancel(ctx))
	zeros := make([]byte, 1<<20)
	for off := uint64(0); off < v.Size(); off += uint64(len(zeros)) {
		n := min(uint64(len(zeros)), v.Size()-off)
		if err := v.WriteAt(ctx, zeros[:n], off); err != nil {
			return err
		}
	}
	return v.Flush(ctx)
}

// SnapshotVDI freezes the working VDI under the guests' I/O.
func (b backend) SnapshotVDI(ctx context.Context, req *api.SnapshotRequest) (*api.SnapshotResult, error) {
	if err := b.n.ready(ctx); err != nil {
		return nil, err
	}
	if req.OnlyIfChanged {
		changed, err := b.changed(req.Name)
		if err != nil || !changed {
			return &api.SnapshotResult{Version: api.Version}, err
		}
	}
	if err := b.n.room(); err != nil {
		return nil, err
	}
	snapped, err := b.n.vdis.Snapshot(ctx, directory.Snapshot{Name: req.Name, Tag: req.Tag, Description: req.Description, Expires: req.Expires})
	if err != nil {
		return nil, err
	}
	return b.snapped(req.Name, snapped), nil
}

// snapped describes a new snapshot and the VDI that goes on.
func (b backend) snapped(name string, s directory.Snapped) *api.SnapshotResult {
	out := &api.SnapshotResult{Version: api.Version, Created: true}
	for _, e := range b.n.dir.ListName(name) {
		v := b.describe(&e, nil)
		switch e.VID {
		case s.VID:
			out.Snapshot = &v
		case s.NewVID:
			out.Working = &v
		}
	}
	return out
}

// changed reports whether the working VDI was written since its last snapshot.
func (b backend) changed(name string) (bool, error) {
	v, err := b.n.dir.Lookup(name)
	if err != nil {
		return false, err
	}
	l, ok := b.n.dir.Layer(v.Layer)
	return ok && l.Written, nil
}

// CloneVDI makes a VDI on a snapshot.
func (b backend) CloneVDI(ctx context.Context, req *api.CloneRequest) (*api.VDI, error) {
	if err := b.n.ready(ctx); err != nil {
		return nil, err
	}
	if req.NoShare || req.Preallocate {
		return b.CopyVDI(ctx, req, func(api.CopyProgress) error { return nil })
	}
	if err := b.n.room(); err != nil {
		return nil, err
	}
	if req.Snapshot == "" {
		_, err := b.n.vdis.Snapshot(ctx, directory.Snapshot{Name: req.Source, Clone: &directory.CloneOf{Name: req.Name, Size: req.SizeBytes}})
		if err != nil {
			return nil, err
		}
		return b.lookup(req.Name)
	}
	if _, err := b.n.vdis.Clone(ctx, directory.Clone{Source: req.Source, Snapshot: string(req.Snapshot), Name: req.Name, Size: req.SizeBytes}); err != nil {
		return nil, err
	}
	return b.lookup(req.Name)
}

// DeleteVDI deletes the working VDI or one snapshot.
func (b backend) DeleteVDI(ctx context.Context, req *api.DeleteRequest) error {
	if err := b.n.ready(ctx); err != nil {
		return err
	}
	recycle := b.n.cluster.View().Config.RecycleVIDs
	if req.Snapshot != "" {
		return b.n.vdis.DeleteSnapshot(ctx, directory.DeleteSnapshot{Name: req.Name, Snapshot: string(req.Snapshot), RecycleVIDs: recycle})
	}
	return b.n.vdis.Delete(ctx, directory.Delete{Name: req.Name, RecycleVIDs: recycle, Purge: req.Purge})
}

// RollbackVDI replaces the working VDI by a new one on the snapshot.
func (b backend) RollbackVDI(ctx context.Context, req *api.RollbackRequest) (*api.VDI, error) {
	if err := b.n.ready(ctx); err != nil {
		return nil, err
	}
	if req.SaveTag != "" {
		if err := b.saved(ctx, req); err != nil {
			return nil, err
		}
	}
	recycle := b.n.cluster.View().Config.RecycleVIDs
	if _, err := b.n.vdis.Rollback(ctx, directory.Rollback{Name: req.Name, Snapshot: string(req.Snapshot), RecycleVIDs: recycle}); err != nil {
		return nil, err
	}
	return b.lookup(req.Name)
}

// ResizeVDI grows the working VDI.
func (b backend) ResizeVDI(ctx context.Context, req *api.ResizeRequest) (*api.VDI, error) {
	if err := b.n.ready(ctx); err != nil {
		return nil, err
	}
	if err := b.n.vdis.Resize(ctx, req.Name, req.SizeBytes); err != nil {
		return nil, err
	}
	return b.lookup(req.Name)
}

// copyChunk is how much of a VDI the API moves at a time, in bytes.
const copyChunk = 4 << 20

// ReadVDI streams bytes of a VDI or snapshot.
func (b backend) ReadVDI(ctx context.Context, req *api.ReadRequest, w io.Writer) error {
	v, err := b.open(ctx, req.Name, string(req.Snapshot))
	if err != nil {
		return err
	}
	defer v.Close(context.WithoutCancel(ctx))
	size := v.Size()
	if req.Offset > size {
		return fmt.Errorf("read offset %d is beyond the end of the VDI at %d: %w", req.Offset, size, sheepdog.ErrInvalid)
	}
	left := size - req.Offset
	if req.Length != api.ToEnd {
		if req.Length < 0 || uint64(req.Length) > left {
			return fmt.Errorf("read of %d bytes at %d ends beyond the end of the VDI at %d: %w", req.Length, req.Offset, size, sheepdog.ErrInvalid)
		}
		left = uint64(req.Length)
	}
	return b.n.stats.client.copyOut(ctx, v, req.Offset, left, w)
}

func (c *counters) copyOut(ctx context.Context, v *vdi.Volume, off, left uint64, w io.Writer) error {
	buf := make([]byte, min(left, copyChunk))
	for left > 0 {
		p := buf[:min(left, copyChunk)]
		c.begin(&c.read)
		err := v.ReadAt(ctx, p, off)
		c.end(&c.read, time.Time{}, err, len(p))
		if err != nil {
			return err
		}
		if _, err := w.Write(p); err != nil {
			return err
		}
		off, left = off+uint64(len(p)), left-uint64(len(p))
	}
	return nil
}

// WriteVDI writes all of r, then flushes.
func (b backend) WriteVDI(ctx context.Context, req *api.WriteRequest, r io.Reader) (int64, error) {
	v, err := b.open(ctx, req.Name, "")
	if err != nil {
		return 0, err
	}
	defer v.Close(context.WithoutCancel(ctx))
	if size := v.Size(); req.Offset > size || req.Length > 0 && uint64(req.Length) > size-req.Offset {
		return 0, fmt.Errorf("write of %d bytes at %d is beyond the end of the VDI at %d: %w", max(req.Length, 0), req.Offset, size, sheepdog.ErrInvalid)
	}
	n, err := b.n.stats.client.copyIn(ctx, v, req.Offset, r)
	if err != nil {
		return n, err
	}
	return n, v.Flush(ctx)
}

func (c *counters) copyIn(ctx context.Context, v *vdi.Volume, off uint64, r io.Reader) (done int64, err error) {
	buf := make([]byte, copyChunk)
	for {
		n, rerr := io.ReadFull(r, buf)
		if n > 0 {
			at := off + uint64(done)
			if uint64(n) > v.Size()-at {
				return done, fmt.Errorf("more data than the VDI has room for: its end is at %d: %w", v.Size(), sheepdog.ErrInvalid)
			}
			if err := c.put(ctx, v, buf[:n], at); err != nil {
				return done, err
			}
			done += int64(n)
		}
		switch rerr {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return done, nil
		default:
			return done, rerr
		}
	}
}

func (b backend) open(ctx context.Context, name, ref string) (*vdi.Volume, error) {
	if err := b.n.ready(ctx); err != nil {
		return nil, err
	}
	return b.n.vdis.Open(name, ref)
}
