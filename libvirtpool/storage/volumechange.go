package storage

import (
	"context"
	"errors"
	"io"

	"sheepdog"
	"sheepdog/libvirtpool/rpc"
)

// minSize is what a volume of capacity 0 gets: no VDI is empty.
const minSize = sheepdog.BlockSize

// CreateVolume makes a volume from XML. With a backing volume it is a clone of
// that one.
func (d *Driver) CreateVolume(ctx context.Context, pool, text string) (Volume, error) {
	p, spec, err := d.newVolume(ctx, pool, text)
	if err != nil {
		return Volume{}, err
	}
	if spec.backing != "" {
		base, err := d.VolumeByKey(ctx, "path", spec.backing)
		if err != nil {
			return Volume{}, err
		}
		return d.clone(ctx, p, spec, base.VDI.Name)
	}
	if !spec.sized {
		return Volume{}, rpc.Errorf(rpc.CodeXML, "missing capacity element")
	}
	return d.create(ctx, p, spec)
}

func (d *Driver) create(ctx context.Context, p Pool, spec volumeSpec) (Volume, error) {
	size := max(spec.capacity, minSize)
	err := d.store.Create(ctx, vdiName(p.Namespace, spec.name), size)
	return made(p, spec, size, err)
}

// CloneVolume makes a volume from XML that holds what another one, of any pool,
// holds now. It takes the same time whatever the size.
func (d *Driver) CloneVolume(ctx context.Context, pool, text, fromPool, from string) (Volume, error) {
	p, spec, err := d.newVolume(ctx, pool, text)
	if err != nil {
		return Volume{}, err
	}
	source, err := d.activePool(ctx, fromPool)
	if err != nil {
		return Volume{}, err
	}
	v, err := d.clone(ctx, p, spec, vdiName(source.Namespace, from))
	if errors.Is(err, sheepdog.ErrNotFound) {
		err = rpc.Errorf(rpc.CodeNoVolume, "no storage vol with matching name '%s'", from)
	}
	return v, err
}

// clone does not look the source up first: who starts a machine waits for it.
func (d *Driver) clone(ctx context.Context, p Pool, spec volumeSpec, source string) (Volume, error) {
	size, err := d.store.Clone(ctx, source, vdiName(p.Namespace, spec.name), spec.capacity)
	if errors.Is(err, sheepdog.ErrNotFound) {
		return Volume{}, err
	}
	return made(p, spec, size, err)
}

// newVolume checks what is to be made.
func (d *Driver) newVolume(ctx context.Context, pool, text string) (Pool, volumeSpec, error) {
	p, err := d.activePool(ctx, pool)
	if err != nil {
		return p, volumeSpec{}, err
	}
	spec, err := parseVolume(text)
	if err == nil {
		err = checkVolumeName(p.Namespace, spec.name)
	}
	if err == nil && spec.format != "" && spec.format != "raw" {
		d.log.Info("a volume is always raw; images of other formats are converted when uploaded", "volume", spec.name, "asked", spec.format)
	}
	return p, spec, err
}

// made turns the outcome of a creation into a volume.
func made(p Pool, spec volumeSpec, size uint64, err error) (Volume, error) {
	if errors.Is(err, sheepdog.ErrExists) {
		return Volume{}, rpc.Errorf(rpc.CodeVolumeExists, "'%s'", spec.name)
	}
	if err != nil {
		return Volume{}, failure(err, "create volume "+spec.name)
	}
	return Volume{Pool: p.Name, Name: spec.name, VDI: VDI{Name: vdiName(p.Namespace, spec.name), Size: size}}, nil
}

// Snapshots says what happens to a volume's snapshots when it is deleted.
type Snapshots int

// What may happen to snapshots.
const (
	KeepSnapshots Snapshots = iota // a volume with snapshots is not deleted
	DropSnapshots
)

// DeleteVolume deletes a volume. Its clones live on.
func (d *Driver) DeleteVolume(ctx context.Context, pool, name string, s Snapshots) error {
	v, err := d.Volume(ctx, pool, name)
	if err != nil {
		return err
	}
	if n := len(v.VDI.Snapshots); n > 0 && s == KeepSnapshots {
		return rpc.Errorf(rpc.CodeInvalid, "volume '%s' has %d snapshots: delete them too (--delete-snapshots), or first", name, n)
	}
	return failure(d.store.Delete(ctx, v.VDI.Name), "delete volume "+name)
}

// ResizeMode says how a new size is meant.
type ResizeMode struct {
	Delta  bool // it is added, or with Shrink taken away
	Shrink bool // the volume may become smaller, which VDIs cannot
}

// ResizeVolume makes a volume larger.
func (d *Driver) ResizeVolume(ctx context.Context, pool, name string, size uint64, m ResizeMode) error {
	v, err := d.Volume(ctx, pool, name)
	if err != nil {
		return err
	}
	if m.Delta {
		if size > sheepdog.MaxVDISize {
			return checkSize(size)
		}
		if m.Shrink {
			size = v.VDI.Size - min(size, v.VDI.Size)
		} else {
			size += v.VDI.Size
		}
	}
	switch {
	case size == v.VDI.Size:
		return nil
	case size < v.VDI.Size && m.Shrink:
		return rpc.Errorf(rpc.CodeUnsupported, "volume '%s' cannot become smaller than its %d bytes", name, v.VDI.Size)
	case size < v.VDI.Size:
		return rpc.Errorf(rpc.CodeInvalidArg, "Can't shrink capacity below current capacity unless shrink flag explicitly specified")
	}
	if err := checkSize(size); err != nil {
		return err
	}
	return failure(d.store.Resize(ctx, v.VDI.Name, size), "resize volume "+name)
}

// WipeAlgorithm is libvirt's number of a way to wipe.
type WipeAlgorithm uint32

// The ways to wipe that mean something on out-of-place storage.
const (
	WipeZero WipeAlgorithm = 0
	WipeTrim WipeAlgorithm = 9

	wipeLast WipeAlgorithm = 9 // that libvirt knows
)

// WipeVolume overwrites a volume with zeros. Snapshots and clones keep what they
// have.
func (d *Driver) WipeVolume(ctx context.Context, pool, name string, a WipeAlgorithm) error {
	if a > wipeLast {
		return rpc.Errorf(rpc.CodeInvalidArg, "wiping algorithm %d not supported", a)
	}
	if a != WipeZero && a != WipeTrim {
		return rpc.Errorf(rpc.CodeUnsupported, "storage pool '%s' wipes volumes with zeros only (algorithm zero or trim)", pool)
	}
	v, err := d.Volume(ctx, pool, name)
	if err != nil {
		return err
	}
	return failure(d.store.Write(ctx, v.VDI.Name, 0, io.LimitReader(zeros{}, int64(v.VDI.Size))), "wipe volume "+name)
}

// zeros is an endless reader of zeros.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
