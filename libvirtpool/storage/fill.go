package storage

import (
	"context"
	"time"

	"sheepdog/libvirtpool/rpc"
)

// undoTimeout bounds the removal of what was not completed.
const undoTimeout = 30 * time.Second

// FilledVolume makes a volume from XML of at least size bytes, and has fill upload what
// it holds. It is in its pool when it is complete: what a process that is killed leaves
// is taken for no volume.
func (d *Driver) FilledVolume(ctx context.Context, pool, text string, size uint64, fill func(*Upload) error) (Volume, error) {
	p, spec, err := d.newVolume(ctx, pool, text)
	if err != nil {
		return Volume{}, err
	}
	spec.capacity = max(spec.capacity, size, minSize)
	name := vdiName(p.Namespace, spec.name)
	place, err := d.store.PlaceFor(ctx, name)
	if err == nil {
		err = d.store.Create(ctx, place, spec.capacity)
	}
	v, err := made(p, spec, spec.capacity, err)
	if err != nil {
		return v, err
	}
	half := v
	half.VDI.Name = place
	if err := d.fill(ctx, half, fill); err != nil {
		d.dropHalf(ctx, place)
		return Volume{}, err
	}
	if place == name {
		return v, nil
	}
	_, err = made(p, spec, spec.capacity, d.store.Rename(ctx, place, name))
	if err != nil {
		d.dropHalf(ctx, place)
		return Volume{}, err
	}
	return v, nil
}

func (d *Driver) fill(ctx context.Context, v Volume, fill func(*Upload) error) error {
	u := &Upload{d: d, volume: v}
	if err := fill(u); err != nil {
		u.Abort()
		return err
	}
	return u.Finish(ctx)
}

// dropHalf deletes what was not completed, although ctx may have ended.
func (d *Driver) dropHalf(ctx context.Context, vdi string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if err := failure(d.store.Delete(ctx, vdi), "delete it"); err != nil && rpc.AsError(err).Code != rpc.CodeNoVolume {
		d.log.Error("a VDI of a copy that failed is left; dog vdi delete removes it", "vdi", vdi, "err", err)
	}
}
