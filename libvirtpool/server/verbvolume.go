package server

import (
	"context"

	"sheepdog/libvirtpool/rpc"
	"sheepdog/libvirtpool/storage"
)

func encodeVolume(out *rpc.Encoder, v storage.Volume) {
	out.String(v.Pool)
	out.String(v.Name)
	out.String(v.Key())
}

func volumeVerbs() map[rpc.Procedure]verb {
	return map[rpc.Procedure]verb{
		rpc.PoolNumVolumes:     {name: "virStoragePoolNumOfVolumes", args: poolArgs, run: countVolumes},
		rpc.PoolListVolumes:    {name: "virStoragePoolListVolumes", args: poolNeed, run: listVolumes},
		rpc.PoolListAllVolumes: {name: "virStoragePoolListAllVolumes", args: poolNeedFlags, run: listAllVolumes},
		rpc.VolumeLookupName:   {name: "virStorageVolLookupByName", args: poolText, run: volumeByName},
		rpc.VolumeLookupKey:    {name: "virStorageVolLookupByKey", route: byKey, args: textArgs, run: volumeByKey("key")},
		rpc.VolumeLookupPath:   {name: "virStorageVolLookupByPath", route: byKey, args: textArgs, run: volumeByKey("path")},
		rpc.VolumeInfo:         {name: "virStorageVolGetInfo", args: volumeArgs, run: volumeInfo},
		rpc.VolumeInfoFlags:    {name: "virStorageVolGetInfoFlags", flags: infoPhysical, args: volumeFlags, run: volumeInfo},
		rpc.VolumeXML:          {name: "virStorageVolGetXMLDesc", args: volumeFlags, run: volumeXML},
		rpc.VolumePath:         {name: "virStorageVolGetPath", args: volumeArgs, run: volumePath},
	}
}

func poolNeed(d *rpc.Decoder) args {
	a := poolArgs(d)
	a.need = d.Int32()
	a.err = d.Err()
	return a
}

func poolNeedFlags(d *rpc.Decoder) args {
	a := poolNeed(d)
	a.flags = d.Uint32()
	a.err = d.Err()
	return a
}

func poolText(d *rpc.Decoder) args {
	a := poolArgs(d)
	a.text = d.String()
	a.err = d.Err()
	return a
}

func countVolumes(ctx context.Context, d *storage.Driver, a args, out *rpc.Encoder) error {
	list, err := d.Volumes(ctx, a.pool)
	out.Int32(int32(len(list)))
	return err
}

func listVolumes(ctx context.Context, d *storage.Driver, a args, out *rpc.Encoder) error {
	list, err := d.Volumes(ctx, a.pool)
	if err != nil {
		return err
	}
	list = list[:min(len(list), max(int(a.need), 0))]
	out.Uint32(uint32(len(list)))
	for _, v := range list {
		out.String(v.Name)
	}
	return nil
}

func listAllVolumes(ctx context.Context, d *storage.Driver, a args, out *rpc.Encoder) error {
	list, err := d.Volumes(ctx, a.pool)
	if err != nil {
		return err
	}
	if a.need == 0 {
		out.Uint32(0)
	} else {
		out.Uint32(uint32(len(list)))
		for _, v := range list {
			encodeVolume(out, v)
		}
	}
	out.Uint32(uint32(len(list)))
	return nil
}

func volumeByName(ctx context.Context, d *storage.Driver, a args, out *rpc.Encoder) error {
	v, err := d.Volume(ctx, a.pool, a.text)
	if err == nil {
		encodeVolume(out, v)
	}
	return err
}

func volumeByKey(what string) func(context.Context, *storage.Driver, args, *rpc.Encoder) error {
	return func(ctx context.Context, d *storage.Driver, a args, out *rpc.Encoder) error {
		v, err := d.VolumeByKey(ctx, what, a.text)
		if err == nil {
			encodeVolume(out, v)
		}
		return err
	}
}

const (
	volumeNetwork = 3 // VIR_STORAGE_VOL_NETWORK
	infoPhysical  = 1 // VIR_STORAGE_VOL_GET_PHYSICAL, which is the allocation
)

func volumeInfo(ctx context.Context, d *storage.Driver, a args, out *rpc.Encoder) error {
	v, allocated, err := d.VolumeInfo(ctx, a.pool, a.volume)
	if err != nil {
		return err
	}
	out.Int32(volumeNetwork)
	out.Uint64(v.VDI.Size)
	out.Uint64(allocated)
	return nil
}

func volumeXML(ctx context.Context, d *storage.Driver, a args, out *rpc.Encoder) error {
	text, err := d.VolumeXML(ctx, a.pool, a.volume)
	out.String(text)
	return err
}

func volumePath(ctx context.Context, d *storage.Driver, a args, out *rpc.Encoder) error {
	v, err := d.Volume(ctx, a.pool, a.volume)
	if err == nil {
		out.String(v.Key())
	}
	return err
}

func volumeChangeVerbs() map[rpc.Procedure]verb {
	return map[rpc.Procedure]verb{
		rpc.VolumeCreateXML:     {name: "virStorageVolCreateXML", changes: true, flags: createValidate, args: poolTextFlags, run: createVolume},
		rpc.VolumeCreateXMLFrom: {name: "virStorageVolCreateXMLFrom", changes: true, flags: createValidate | createReflink, args: cloneArgs, run: cloneVolume},
		rpc.VolumeDelete:        {name: "virStorageVolDelete", changes: true, flags: deleteSnapshots, args: volumeFlags, run: deleteVolume},
		rpc.VolumeResize:        {name: "virStorageVolResize", changes: true, flags: resizeDelta | resizeShrink, args: resizeArgs, run: resizeVolume},
		rpc.VolumeWipe:          {name: "virStorageVolWipe", changes: true, args: volumeFlags, run: wipeVolume},
		rpc.VolumeWipePattern:   {name: "virStorageVolWipePattern", changes: true, args: wipeArgs, run: wipeVolume},
		rpc.VolumeUpload:        {name: "virStorageVolUpload", changes: true, flags: streamSparse, args: rangeArgs, begin: beginUpload},
		rpc.VolumeDownload:      {name: "virStorageVolDownload", changes: true, flags: streamSparse, args: rangeArgs, begin: beginDownload},
	}
}

func poolTextFlags(d *rpc.Decoder) args {
	a := poolText(d)
	a.flags = d.Uint32()
	a.err = d.Err()
	return a
}

func cloneArgs(d *rpc.Decoder) args {
	a := poolText(d)
	from := volumeArgs(d)
	a.fromPool, a.fromVolume = from.pool, from.volume
	a.flags = d.Uint32()
	a.err = d.Err()
	return a
}

func resizeArgs(d *rpc.Decoder) args {
	a := volumeArgs(d)
	a.length = d.Uint64()
	a.flags = d.Uint32()
	a.err = d.Err()
	return a
}

func wipeArgs(d *rpc.Decoder) args {
	a := volumeArgs(d)
	a.algorithm = d.Uint32()
	a.flags = d.Uint32()
	a.err = d.Err()
	return a
}

func rangeArgs(d *rpc.Decoder) args {
	a := volumeArgs(d)
	a.off, a.length = d.Uint64(), d.Uint64()
	a.flags = d.Uint32()
	a.err = d.Err()
	return a
}

func createVolume(ctx context.Context, d *storage.Driver, a args, out *rpc.Encoder) error {
	v, err := d.CreateVolume(ctx, a.pool, a.text)
	if err == nil {
		encodeVolume(out, v)
	}
	return err
}

func cloneVolume(ctx context.Context, d *storage.Driver, a args, out *rpc.Encoder) error {
	v, err := d.CloneVolume(ctx, a.pool, a.text, a.fromPool, a.fromVolume)
	if err == nil {
		encodeVolume(out, v)
	}
	return err
}

// Bits of virStorageVolCreateFlags.
const (
	createReflink  = 2 // a clone that shares its data, as all of ours do
	createValidate = 4
)

// deleteSnapshots is VIR_STORAGE_VOL_DELETE_WITH_SNAPSHOTS.
const deleteSnapshots = 2

func deleteVolume(ctx context.Context, d *storage.Driver, a args, _ *rpc.Encoder) error {
	mode := storage.KeepSnapshots
	if a.flags&deleteSnapshots != 0 {
		mode = storage.DropSnapshots
	}
	return d.DeleteVolume(ctx, a.pool, a.volume, mode)
}

// Bits of virStorageVolResizeFlags.
const (
	resizeDelta  = 2
	resizeShrink = 4
)

func resizeVolume(ctx context.Context, d *storage.Driver, a args, _ *rpc.Encoder) error {
	return d.ResizeVolume(ctx, a.pool, a.volume, a.length, storage.ResizeMode{Delta: a.flags&resizeDelta != 0, Shrink: a.flags&resizeShrink != 0})
}

func wipeVolume(ctx context.Context, d *storage.Driver, a args, _ *rpc.Encoder) error {
	return d.WipeVolume(ctx, a.pool, a.volume, storage.WipeAlgorithm(a.algorithm))
}
