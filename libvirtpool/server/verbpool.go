package server

import (
	"context"

	"sheepdog/libvirtpool/rpc"
	"sheepdog/libvirtpool/storage"
)

func encodePool(out *rpc.Encoder, p storage.Pool) {
	out.String(p.Name)
	out.UUID(p.UUID)
}

func listVerbs() map[rpc.Procedure]verb {
	running, defined := storage.Filter{Active: true}, storage.Filter{Inactive: true}
	names := func(d *rpc.Decoder) args {
		a := args{need: d.Int32()}
		a.err = d.Err()
		return a
	}
	return map[rpc.Procedure]verb{
		rpc.ConnectNumPools:        {name: "virConnectNumOfStoragePools", route: merging, args: noArgs, run: countPools(running)},
		rpc.ConnectListPools:       {name: "virConnectListStoragePools", route: merging, args: names, run: listPools(running)},
		rpc.ConnectNumDefinedPools: {name: "virConnectNumOfDefinedStoragePools", route: merging, args: noArgs, run: countPools(defined)},
		rpc.ConnectDefinedPools:    {name: "virConnectListDefinedStoragePools", route: merging, args: names, run: listPools(defined)},
		rpc.ConnectListAllPools:    {name: "virConnectListAllStoragePools", flags: listAll, route: merging, args: listAllArgs, run: listAllPools},
		rpc.ConnectFindSources:     {name: "virConnectFindStoragePoolSources", route: byType, changes: true, args: textArgs, run: findSources},
		rpc.ConnectPoolCaps:        {name: "virConnectGetStoragePoolCapabilities", route: merging, args: flagsArgs, run: capabilities},
	}
}

func flagsArgs(d *rpc.Decoder) args {
	a := args{flags: d.Uint32()}
	a.err = d.Err()
	return a
}

func listAllArgs(d *rpc.Decoder) args {
	a := args{need: d.Int32(), flags: d.Uint32()}
	a.err = d.Err()
	return a
}

func countPools(f storage.Filter) func(context.Context, *storage.Driver, args, *rpc.Encoder) error {
	return func(ctx context.Context, d *storage.Driver, _ args, out *rpc.Encoder) error {
		out.Int32(int32(len(d.Pools(ctx, f))))
		return nil
	}
}

func listPools(f storage.Filter) func(context.Context, *storage.Driver, args, *rpc.Encoder) error {
	return func(ctx context.Context, d *storage.Driver, a args, out *rpc.Encoder) error {
		list := d.Pools(ctx, f)
		list = list[:min(len(list), max(int(a.need), 0))]
		out.Uint32(uint32(len(list)))
		for _, p := range list {
			out.String(p.Name)
		}
		return nil
	}
}

// Bits of virConnectListAllStoragePoolsFlags.
const (
	listInactive   = 1 << 0
	listActive     = 1 << 1
	listPersistent = 1 << 2
	listTransient  = 1 << 3
	listAutostart  = 1 << 4
	listManual     = 1 << 5
	listSheepdog   = 1 << 15
	listTypes      = 0x3fffc0 // all bits that stand for pool types
	listAll        = listTypes | listInactive | listActive | listPersistent | listTransient | listAutostart | listManual
)

func listAllPools(ctx context.Context, d *storage.Driver, a args, out *rpc.Encoder) error {
	var list []storage.Pool
	if a.flags&listTypes == 0 || a.flags&listSheepdog != 0 {
		has := func(bit uint32) bool { return a.flags&bit != 0 }
		list = d.Pools(ctx, storage.Filter{Inactive: has(listInactive), Active: has(listActive),
			Persistent: has(listPersistent), Transient: has(listTransient), Autostart: has(listAutostart), Manual: has(listManual)})
	}
	if a.need == 0 {
		out.Uint32(0)
	} else {
		out.Uint32(uint32(len(list)))
		for _, p := range list {
			encodePool(out, p)
		}
	}
	out.Uint32(uint32(len(list)))
	return nil
}

// findSources has nothing to find: every name space is a source.
func findSources(_ context.Context, _ *storage.Driver, a args, out *rpc.Encoder) error {
	if a.text != storage.PoolType {
		return rpc.Errorf(rpc.CodeNoSupport, "pool type '%s' does not support source discovery here", a.text)
	}
	out.String("<sources>\n</sources>\n")
	return nil
}

func capabilities(_ context.Context, _ *storage.Driver, _ args, out *rpc.Encoder) error {
	out.String("<storagepoolCapabilities>\n" + storage.Capabilities + "</storagepoolCapabilities>\n")
	return nil
}

func poolVerbs() map[rpc.Procedure]verb {
	return map[rpc.Procedure]verb{
		rpc.PoolLookupName:   {name: "virStoragePoolLookupByName", route: byName, args: textArgs, run: lookupName},
		rpc.PoolLookupUUID:   {name: "virStoragePoolLookupByUUID", route: byUUID, args: uuidArgs, run: lookupUUID},
		rpc.PoolLookupVolume: {name: "virStoragePoolLookupByVolume", route: byPool, args: volumeArgs, run: lookupVolumePool},
		rpc.PoolLookupTarget: {name: "virStoragePoolLookupByTargetPath", route: byKey, args: textFlags, run: lookupTarget},
		rpc.PoolInfo:         {name: "virStoragePoolGetInfo", args: poolArgs, run: poolInfo},
		rpc.PoolXML:          {name: "virStoragePoolGetXMLDesc", flags: xmlInactive, args: poolFlags, run: poolXML},
		rpc.PoolGetAutostart: {name: "virStoragePoolGetAutostart", args: poolArgs, run: poolFact(func(p storage.Pool) bool { return p.Persistent && p.Autostart })},
		rpc.PoolIsActive:     {name: "virStoragePoolIsActive", args: poolArgs, run: poolFact(func(p storage.Pool) bool { return p.Active })},
		rpc.PoolIsPersistent: {name: "virStoragePoolIsPersistent", args: poolArgs, run: poolFact(func(p storage.Pool) bool { return p.Persistent })},
	}
}

func lookupName(ctx context.Context, d *storage.Driver, a args, out *rpc.Encoder) error {
	p, err := d.Lookup(ctx, a.text)
	if err == nil {
		encodePool(out, p)
	}
	return err
}

func lookupUUID(ctx context.Context, d *storage.Driver, a args, out *rpc.Encoder) error {
	p, err := d.LookupUUID(ctx, a.uuid)
	if err == nil {
		encodePool(out, p)
	}
	return err
}

func lookupVolumePool(ctx context.Context, d *storage.Driver, a args, out *rpc.Encoder) error {
	p, err := d.Lookup(ctx, a.pool)
	if err == nil {
		encodePool(out, p)
	}
	return err
}

// lookupTarget never finds one: our pools are not in the file system.
func lookupTarget(_ context.Context, _ *storage.Driver, a args, _ *rpc.Encoder) error {
	return rpc.Errorf(rpc.CodeNoPool, "no storage pool with matching target path '%s'", a.text)
}

func poolInfo(ctx context.Context, d *storage.Driver, a args, out *rpc.Encoder) error {
	i, err := d.Info(ctx, a.pool)
	if err != nil {
		return err
	}
	out.Uint32(uint32(i.State))
	out.Uint64(i.Total)
	out.Uint64(i.Used)
	out.Uint64(i.Free)
	return nil
}

// xmlInactive is VIR_STORAGE_XML_INACTIVE.
const xmlInactive = 1

func poolXML(ctx context.Context, d *storage.Driver, a args, out *rpc.Encoder) error {
	view := storage.Current
	if a.flags&xmlInactive != 0 {
		view = storage.Inactive
	}
	text, err := d.XML(ctx, a.pool, view)
	out.String(text)
	return err
}

func poolFact(is func(storage.Pool) bool) func(context.Context, *storage.Driver, args, *rpc.Encoder) error {
	return func(ctx context.Context, d *storage.Driver, a args, out *rpc.Encoder) error {
		p, err := d.Lookup(ctx, a.pool)
		out.Bool(is(p))
		return err
	}
}

// Bits that say how a pool is made ready. There is nothing to make ready.
const (
	poolValidate   = 1         // virStoragePoolDefineFlags
	poolCreateBits = 1 | 2 | 4 // virStoragePoolCreateFlags: with a build that overwrites, or does not
	poolBuildBits  = 4 | 8     // virStoragePoolBuildFlags: overwriting, or not
)

func poolChangeVerbs() map[rpc.Procedure]verb {
	change := func(name string, flags uint32, shape func(*rpc.Decoder) args, f func(*storage.Driver, context.Context, string) error) verb {
		return verb{name: name, changes: true, flags: flags, args: shape, run: func(ctx context.Context, d *storage.Driver, a args, _ *rpc.Encoder) error {
			return f(d, ctx, a.pool)
		}}
	}
	create := func(name string, flags uint32, f func(*storage.Driver, context.Context, string) (storage.Pool, error)) verb {
		return verb{name: name, route: byXML, changes: true, flags: flags, args: textFlags, run: func(ctx context.Context, d *storage.Driver, a args, out *rpc.Encoder) error {
			p, err := f(d, ctx, a.text)
			if err == nil {
				encodePool(out, p)
			}
			return err
		}}
	}
	return map[rpc.Procedure]verb{
		rpc.PoolDefineXML:    create("virStoragePoolDefineXML", poolValidate, (*storage.Driver).Define),
		rpc.PoolCreateXML:    create("virStoragePoolCreateXML", poolCreateBits, (*storage.Driver).CreateXML),
		rpc.PoolCreate:       change("virStoragePoolCreate", poolCreateBits, poolFlags, (*storage.Driver).Start),
		rpc.PoolBuild:        change("virStoragePoolBuild", poolBuildBits, poolFlags, (*storage.Driver).Build),
		rpc.PoolDestroy:      change("virStoragePoolDestroy", 0, poolArgs, (*storage.Driver).Destroy),
		rpc.PoolDelete:       change("virStoragePoolDelete", 0, poolFlags, (*storage.Driver).DeletePool),
		rpc.PoolUndefine:     change("virStoragePoolUndefine", 0, poolArgs, (*storage.Driver).Undefine),
		rpc.PoolRefresh:      change("virStoragePoolRefresh", 0, poolFlags, (*storage.Driver).Refresh),
		rpc.PoolSetAutostart: {name: "virStoragePoolSetAutostart", changes: true, args: poolOn, run: setAutostart},
	}
}

func poolOn(d *rpc.Decoder) args {
	a := poolArgs(d)
	a.on = d.Bool()
	a.err = d.Err()
	return a
}

func setAutostart(ctx context.Context, d *storage.Driver, a args, _ *rpc.Encoder) error {
	return d.SetAutostart(ctx, a.pool, storage.Autostart(a.on))
}
