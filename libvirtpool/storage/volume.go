package storage

import (
	"context"
	"errors"
	"slices"
	"strings"

	"sheepdog"
	"sheepdog/libvirtpool/rpc"
)

// Volumes lists the volumes of an active pool by name, with one request.
func (d *Driver) Volumes(ctx context.Context, pool string) ([]Volume, error) {
	p, err := d.activePool(ctx, pool)
	if err != nil {
		return nil, err
	}
	list, err := d.volumes(ctx, p)
	if err != nil {
		return nil, err
	}
	if len(list) > rpc.MaxList {
		return nil, rpc.Errorf(rpc.CodeRPC, "pool '%s' has %d volumes, but a list may have %d: use several pools", pool, len(list), rpc.MaxList)
	}
	return list, nil
}

func (d *Driver) volumes(ctx context.Context, p Pool) ([]Volume, error) {
	vdis, err := d.store.List(ctx)
	if err != nil {
		return nil, failure(err, "list the volumes")
	}
	var out []Volume
	for _, v := range vdis {
		if name, ok := volumeName(p.Namespace, v.Name); ok {
			out = append(out, Volume{Pool: p.Name, Name: name, VDI: v})
		}
	}
	slices.SortFunc(out, func(a, b Volume) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Volume finds a volume of an active pool by name.
func (d *Driver) Volume(ctx context.Context, pool, name string) (Volume, error) {
	p, err := d.activePool(ctx, pool)
	if err != nil {
		return Volume{}, err
	}
	return d.volume(ctx, p, name)
}

func (d *Driver) volume(ctx context.Context, p Pool, name string) (Volume, error) {
	none := rpc.Errorf(rpc.CodeNoVolume, "no storage vol with matching name '%s'", name)
	vdi := vdiName(p.Namespace, name)
	if _, ok := volumeName(p.Namespace, vdi); !ok || strings.Contains(name, "@") || len(vdi) > sheepdog.MaxNameLength {
		return Volume{}, none
	}
	v, err := d.store.Find(ctx, vdi)
	if errors.Is(err, sheepdog.ErrNotFound) {
		return Volume{}, none
	}
	if err != nil {
		return Volume{}, failure(err, "look up the volume")
	}
	return Volume{Pool: p.Name, Name: name, VDI: v}, nil
}

// Exists fails, with CodeNoVolume, if there is no such VDI. Snapshots, NAME@TAG, are
// not looked up.
func (d *Driver) Exists(ctx context.Context, vdi string) error {
	if strings.Contains(vdi, "@") {
		return nil
	}
	_, err := d.store.Find(ctx, vdi)
	if errors.Is(err, sheepdog.ErrNotFound) {
		return rpc.Errorf(rpc.CodeNoVolume, "no storage vol with matching name '%s'", vdi)
	}
	return failure(err, "look up volume '"+vdi+"'")
}

// VolumeByKey finds a volume of any active pool by its key, which is its path
// too. what says which of both the caller has.
func (d *Driver) VolumeByKey(ctx context.Context, what, key string) (Volume, error) {
	namespace, name := splitVDI(strings.TrimPrefix(key, "sheepdog:"))
	for _, p := range d.pools(ctx) {
		if p.Active && p.Namespace == namespace {
			v, err := d.volume(ctx, p, name)
			if err == nil || rpc.AsError(err).Code != rpc.CodeNoVolume {
				return v, err
			}
		}
	}
	if err := d.silent(); err != nil && !strings.HasPrefix(key, "/") { // it may be of a pool that is new; no file is
		return Volume{}, failure(err, "look up the volume with the "+what+" '"+key+"'")
	}
	return Volume{}, rpc.Errorf(rpc.CodeNoVolume, "no storage vol with matching %s '%s'", what, key)
}

// VolumeInfo finds a volume as Volume does, and what is allocated of it in bytes.
func (d *Driver) VolumeInfo(ctx context.Context, pool, name string) (v Volume, allocated uint64, err error) {
	if v, err = d.Volume(ctx, pool, name); err != nil {
		return v, 0, err
	}
	allocated, err = d.store.Allocated(ctx, v.VDI.Name)
	return v, allocated, failure(err, "ask what volume '"+name+"' holds")
}

// VolumeXML describes a volume.
func (d *Driver) VolumeXML(ctx context.Context, pool, name string) (string, error) {
	v, allocated, err := d.VolumeInfo(ctx, pool, name)
	if err != nil {
		return "", err
	}
	return volumeXML(v, allocated), nil
}
