package apitest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"sheepdog"
	"sheepdog/api"
)

func (b *Backend) SnapshotGroup(ctx context.Context, req *api.GroupRequest) (*api.GroupResult, error) {
	for _, name := range req.Names {
		unlock, err := b.begin("SnapshotGroup")
		if err != nil {
			return nil, err
		}
		_, err = b.need(name, "")
		unlock()
		if err != nil {
			return nil, err
		}
	}
	out := &api.GroupResult{}
	for _, name := range req.Names {
		one, err := b.SnapshotVDI(ctx, &api.SnapshotRequest{Name: name, Tag: req.Tag, Description: req.Description, Expires: req.Expires})
		if err != nil {
			return nil, err
		}
		out.Snapshots = append(out.Snapshots, *one)
	}
	return out, nil
}

func (b *Backend) AlterVDI(_ context.Context, req *api.AlterRequest, report func(api.CopyProgress) error) (*api.VDI, error) {
	return b.moved("AlterVDI", req.Name, report, func(d *disk) error {
		switch {
		case d.Copies == req.Copies && !d.Moving:
			return fmt.Errorf("redundancy %s of VDI %q %w", req.Copies, req.Name, sheepdog.ErrExists)
		case d.ParentID != 0:
			return fmt.Errorf("VDI %q does not stand alone: %w", req.Name, sheepdog.ErrInvalid)
		}
		d.Copies, d.Moving = req.Copies, false
		return nil
	})
}

func (b *Backend) FlattenVDI(_ context.Context, req *api.FlattenRequest, report func(api.CopyProgress) error) (*api.VDI, error) {
	return b.moved("FlattenVDI", req.Name, report, func(d *disk) error {
		d.OwnObjects, d.SharedObjects, d.ParentID, d.Clone = d.OwnObjects+d.SharedObjects, 0, 0, false
		return nil
	})
}

// moved changes a working VDI, with the progress that a copy of all its data
// would report.
func (b *Backend) moved(method, name string, report func(api.CopyProgress) error, change func(*disk) error) (*api.VDI, error) {
	unlock, err := b.begin(method)
	if err != nil {
		return nil, err
	}
	defer unlock()
	d, err := b.need(name, "")
	if err != nil {
		return nil, err
	}
	if err := change(d); err != nil {
		return nil, err
	}
	out := d.VDI
	return &out, report(api.CopyProgress{DoneBytes: d.SizeBytes, TotalBytes: d.SizeBytes})
}

func (b *Backend) Trash(context.Context) (*api.TrashList, error) {
	unlock, err := b.begin("Trash")
	if err != nil {
		return nil, err
	}
	defer unlock()
	out := b.kept.trash
	return &out, nil
}

func (b *Backend) SetTrash(_ context.Context, req *api.TrashSetting) error {
	unlock, err := b.begin("SetTrash")
	if err != nil {
		return err
	}
	defer unlock()
	b.kept.trash.KeepSeconds = req.KeepSeconds
	return nil
}

// discard puts a deleted VDI into the trash if that is on; b.mu is held.
func (b *Backend) discard(d *disk) {
	if b.kept.trash.KeepSeconds == 0 {
		return
	}
	at := b.now()
	b.kept.trashed = append(b.kept.trashed, d)
	b.kept.trash.VDIs = append(b.kept.trash.VDIs, api.TrashedVDI{Name: d.Name, ID: d.ID, SizeBytes: d.SizeBytes,
		Deleted: at, Expires: at.Add(time.Duration(b.kept.trash.KeepSeconds) * time.Second)})
}

// takeOut removes a VDI from the trash.
func (b *Backend) takeOut(id api.VID) (*disk, error) {
	i := slices.IndexFunc(b.kept.trashed, func(d *disk) bool { return d.ID == id })
	if i < 0 {
		return nil, fmt.Errorf("id %s is not in the trash: %w", id, sheepdog.ErrNotFound)
	}
	d := b.kept.trashed[i]
	b.kept.trashed = slices.Delete(b.kept.trashed, i, i+1)
	b.kept.trash.VDIs = slices.DeleteFunc(b.kept.trash.VDIs, func(t api.TrashedVDI) bool { return t.ID == id })
	return d, nil
}

func (b *Backend) RestoreTrash(_ context.Context, req *api.RestoreRequest) (*api.VDI, error) {
	unlock, err := b.begin("RestoreTrash")
	if err != nil {
		return nil, err
	}
	defer unlock()
	d, err := b.takeOut(req.ID)
	if err != nil {
		return nil, err
	}
	if req.Name != "" {
		d.Name = req.Name
	}
	b.vdis = append(b.vdis, d)
	out := d.VDI
	return &out, nil
}

func (b *Backend) PurgeTrash(_ context.Context, id api.VID) error {
	unlock, err := b.begin("PurgeTrash")
	if err != nil {
		return err
	}
	defer unlock()
	_, err = b.takeOut(id)
	return err
}
