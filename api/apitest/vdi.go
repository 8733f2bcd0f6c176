package apitest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"sheepdog"
	"sheepdog/api"
)

// maxDisk is the most that VDIs of the fake hold; larger ones are zeros beyond.
const maxDisk = 16 << 20

func (b *Backend) now() time.Time {
	if b.Now == nil {
		return time.Time{}
	}
	return b.Now()
}

func (b *Backend) find(name string, snapshot api.Selector) *disk {
	for _, d := range b.vdis {
		if d.Name == name && snapshot.Matches(&d.VDI) {
			return d
		}
	}
	return nil
}

// selector selects the disk among those of its name.
func selector(d *disk) api.Selector {
	if !d.Snapshot {
		return ""
	}
	return api.Selector(fmt.Sprint(d.SnapshotID))
}

func (b *Backend) need(name string, snapshot api.Selector) (*disk, error) {
	if d := b.find(name, snapshot); d != nil {
		return d, nil
	}
	if snapshot != "" {
		return nil, fmt.Errorf("snapshot %q of VDI %q: %w", snapshot, name, sheepdog.ErrNotFound)
	}
	return nil, fmt.Errorf("VDI %q: %w", name, sheepdog.ErrNotFound)
}

func (b *Backend) VDIs(_ context.Context, q *api.VDIQuery) ([]api.VDI, error) {
	unlock, err := b.begin("VDIs")
	if err != nil {
		return nil, err
	}
	defer unlock()
	var out []api.VDI
	for _, d := range b.vdis {
		if q.Name != "" && d.Name != q.Name {
			continue
		}
		if q.Object != nil {
			_, id, _ := b.object(&api.ObjectQuery{Name: d.Name, Snapshot: selector(d), Index: q.Object.Index})
			if id != *q.Object || id.Index != 0 {
				continue
			}
		}
		v := d.VDI
		for _, n := range []**uint64{&v.PhysicalBytes, &v.ExclusiveBytes, &v.SharedPhysicalBytes} {
			if q.Physical && *n == nil {
				*n = new(uint64)
			} else if !q.Physical {
				*n = nil
			}
		}
		out = append(out, v)
	}
	return out, nil
}

func (b *Backend) add(v api.VDI, data []byte) *disk {
	v.ID = b.freeID(v.Name)
	v.Created = b.now()
	d := &disk{VDI: v, data: data}
	b.vdis = append(b.vdis, d)
	return d
}

func (b *Backend) CreateVDI(_ context.Context, req *api.CreateRequest) (*api.VDI, error) {
	unlock, err := b.begin("CreateVDI")
	if err != nil {
		return nil, err
	}
	defer unlock()
	b.create = append(b.create, *req)
	if b.Info.State == api.StateUnformatted {
		return nil, sheepdog.ErrNotFormatted
	}
	if b.find(req.Name, "") != nil {
		return nil, fmt.Errorf("VDI %q %w", req.Name, sheepdog.ErrExists)
	}
	v := api.VDI{Name: req.Name, SizeBytes: req.SizeBytes, Copies: b.Info.Config.Policy, BlockSizeShift: req.BlockSizeShift}
	if req.Copies != nil {
		v.Copies = *req.Copies
	}
	if v.BlockSizeShift == 0 {
		v.BlockSizeShift = b.Info.Config.BlockSizeShift
	}
	out := b.add(v, make([]byte, min(req.SizeBytes, maxDisk))).VDI
	return &out, nil
}

func (b *Backend) SnapshotVDI(_ context.Context, req *api.SnapshotRequest) (*api.SnapshotResult, error) {
	unlock, err := b.begin("SnapshotVDI")
	if err != nil {
		return nil, err
	}
	defer unlock()
	d, err := b.need(req.Name, "")
	if err != nil {
		return nil, err
	}
	if req.OnlyIfChanged && d.OwnObjects == 0 && !d.written {
		return &api.SnapshotResult{}, nil
	}
	if req.Tag != "" && b.find(req.Name, api.Selector(req.Tag)) != nil {
		return nil, fmt.Errorf("snapshot tag %q of VDI %q %w", req.Tag, req.Name, sheepdog.ErrExists)
	}
	work := d.VDI
	work.ParentID = d.ID
	work.SharedObjects, work.OwnObjects = d.SharedObjects+d.OwnObjects, 0
	d.Snapshot, d.Tag, d.Description, d.Expires = true, req.Tag, req.Description, req.Expires
	for _, o := range b.vdis {
		if o.Name == req.Name {
			d.SnapshotID = max(d.SnapshotID, o.SnapshotID)
		}
	}
	d.SnapshotID++
	snap, working := d.VDI, b.add(work, slices.Clone(d.data)).VDI
	return &api.SnapshotResult{Created: true, Snapshot: &snap, Working: &working}, nil
}

func (b *Backend) CloneVDI(_ context.Context, req *api.CloneRequest) (*api.VDI, error) {
	unlock, err := b.begin("CloneVDI")
	if err != nil {
		return nil, err
	}
	defer unlock()
	b.clones = append(b.clones, *req)
	base, err := b.need(req.Source, req.Snapshot)
	if err != nil {
		return nil, err
	}
	if b.find(req.Name, "") != nil {
		return nil, fmt.Errorf("VDI %q %w", req.Name, sheepdog.ErrExists)
	}
	v := base.VDI
	v.Name, v.Snapshot, v.SnapshotID, v.Tag, v.Clone, v.ParentID = req.Name, false, 0, "", true, base.ID
	v.SharedObjects, v.OwnObjects = base.SharedObjects+base.OwnObjects, 0
	v.SizeBytes = max(v.SizeBytes, req.SizeBytes)
	data := append(slices.Clone(base.data), make([]byte, max(0, int(min(v.SizeBytes, maxDisk))-len(base.data)))...)
	out := b.add(v, data).VDI
	return &out, nil
}

func (b *Backend) DeleteVDI(_ context.Context, req *api.DeleteRequest) error {
	unlock, err := b.begin("DeleteVDI")
	if err != nil {
		return err
	}
	defer unlock()
	d, err := b.need(req.Name, req.Snapshot)
	if err != nil {
		return err
	}
	b.vdis = slices.DeleteFunc(b.vdis, func(o *disk) bool { return o == d })
	if req.Snapshot == "" && !req.Purge {
		b.discard(d)
	}
	return nil
}

func (b *Backend) RollbackVDI(_ context.Context, req *api.RollbackRequest) (*api.VDI, error) {
	if req.SaveTag != "" {
		if _, err := b.SnapshotVDI(context.Background(), &api.SnapshotRequest{Name: req.Name, Tag: req.SaveTag}); err != nil {
			return nil, err
		}
	}
	unlock, err := b.begin("RollbackVDI")
	if err != nil {
		return nil, err
	}
	defer unlock()
	snap, err := b.need(req.Name, req.Snapshot)
	if err != nil {
		return nil, err
	}
	work, err := b.need(req.Name, "")
	if err != nil {
		return nil, err
	}
	v := snap.VDI
	v.Snapshot, v.SnapshotID, v.Tag, v.ParentID = false, 0, "", snap.ID
	v.RevertedAt, v.RevertedFrom = b.now(), snap.SnapshotID
	out := b.add(v, slices.Clone(snap.data)).VDI
	b.vdis = slices.DeleteFunc(b.vdis, func(o *disk) bool { return o == work })
	return &out, nil
}

func (b *Backend) ResizeVDI(_ context.Context, req *api.ResizeRequest) (*api.VDI, error) {
	unlock, err := b.begin("ResizeVDI")
	if err != nil {
		return nil, err
	}
	defer unlock()
	d, err := b.need(req.Name, "")
	if err != nil {
		return nil, err
	}
	if req.SizeBytes < d.SizeBytes {
		return nil, fmt.Errorf("%w: VDI %q has %d bytes; shrinking is not supported", sheepdog.ErrInvalid, req.Name, d.SizeBytes)
	}
	d.SizeBytes = req.SizeBytes
	d.data = append(d.data, make([]byte, max(0, int(min(req.SizeBytes, maxDisk))-len(d.data)))...)
	out := d.VDI
	return &out, nil
}

// zeros reads as zeros for ever.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func (b *Backend) ReadVDI(_ context.Context, req *api.ReadRequest, w io.Writer) error {
	unlock, err := b.begin("ReadVDI")
	if err != nil {
		return err
	}
	d, err := b.need(req.Name, req.Snapshot)
	if err != nil {
		unlock()
		return err
	}
	data, size := slices.Clone(d.data), d.SizeBytes
	unlock()
	if req.Offset > size {
		return fmt.Errorf("%w: read offset %d is beyond the end of the VDI (%d bytes)", sheepdog.ErrInvalid, req.Offset, size)
	}
	length := uint64(req.Length)
	if req.Length < 0 {
		length = size - req.Offset
	}
	if length > size-req.Offset {
		return fmt.Errorf("%w: read of %d bytes at %d goes beyond the end of the VDI (%d bytes)", sheepdog.ErrInvalid, length, req.Offset, size)
	}
	if limit := uint64(b.ReadLimit); limit > 0 && length > limit {
		_, err := w.Write(data[req.Offset:][:limit])
		return errors.Join(err, fmt.Errorf("read object: %w", sheepdog.ErrIO))
	}
	have := data[min(req.Offset, uint64(len(data))):]
	have = have[:min(length, uint64(len(have)))]
	if _, err := w.Write(have); err != nil {
		return err
	}
	_, err = io.CopyN(w, zeros{}, int64(length)-int64(len(have)))
	return err
}

func (b *Backend) WriteVDI(_ context.Context, req *api.WriteRequest, r io.Reader) (int64, error) {
	unlock, err := b.begin("WriteVDI")
	if err != nil {
		return 0, err
	}
	d, err := b.need(req.Name, "")
	unlock()
	if err != nil {
		return 0, err
	}
	if req.Offset > d.SizeBytes || req.Length > int64(d.SizeBytes-req.Offset) {
		return 0, fmt.Errorf("%w: write offset is beyond the end of the VDI (%d bytes)", sheepdog.ErrInvalid, d.SizeBytes)
	}
	room := d.data[min(req.Offset, uint64(len(d.data))):]
	data, err := io.ReadAll(io.LimitReader(r, int64(len(room))+1))
	b.mu.Lock()
	n := copy(room, data)
	d.written = d.written || n > 0
	b.mu.Unlock()
	if err == nil && n < len(data) {
		err = fmt.Errorf("%w: the data go beyond the end of the VDI (%d bytes)", sheepdog.ErrInvalid, d.SizeBytes)
	}
	return int64(n), err
}
