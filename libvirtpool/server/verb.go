package server

import (
	"context"
	"maps"

	"sheepdog/libvirtpool/rpc"
	"sheepdog/libvirtpool/storage"
)

// route says how it is found out whether a call is about one of our pools.
type route int

// The ways of finding out.
const (
	byPool  route = iota // by the pool's name, which libvirt handed out before
	byName               // a look-up by name: libvirtd may know better
	byUUID               // a look-up by UUID
	byKey                // a look-up of a volume, whose pool is not known
	byXML                // by the pool type in the XML
	byType               // by the pool type given
	merging              // both answer, and the answers are joined
)

// verb is a storage procedure.
type verb struct {
	name    string // libvirt's name of the function
	route   route
	changes bool   // not for read-only clients
	flags   uint32 // the bits of its flags that mean something here
	args    func(d *rpc.Decoder) args
	run     func(ctx context.Context, d *storage.Driver, a args, out *rpc.Encoder) error
	// begin is for verbs that start a stream; they have no run.
	begin func(ctx context.Context, d *storage.Driver, a args) (transfer, error)
}

// args are the arguments of a storage verb, as far as it has them.
type args struct {
	pool   string
	uuid   rpc.UUID
	volume string
	text   string // XML, name, key or path

	fromPool, fromVolume string

	need        int32 // how much of a list is wanted; 0: only its length
	on          bool
	flags       uint32
	algorithm   uint32
	off, length uint64

	err error
}

// The shapes of arguments. Each returns the decoder's error with them.

func noArgs(d *rpc.Decoder) args { return args{err: d.Err()} }

func poolArgs(d *rpc.Decoder) args {
	a := args{pool: d.String(), uuid: d.UUID()}
	a.err = d.Err()
	return a
}

func poolFlags(d *rpc.Decoder) args {
	a := poolArgs(d)
	a.flags = d.Uint32()
	a.err = d.Err()
	return a
}

func volumeArgs(d *rpc.Decoder) args {
	a := args{pool: d.String(), volume: d.String()}
	_ = d.String() // the key, which says nothing new
	a.err = d.Err()
	return a
}

func volumeFlags(d *rpc.Decoder) args {
	a := volumeArgs(d)
	a.flags = d.Uint32()
	a.err = d.Err()
	return a
}

func textArgs(d *rpc.Decoder) args {
	a := args{text: d.String()}
	a.err = d.Err()
	return a
}

func textFlags(d *rpc.Decoder) args {
	a := textArgs(d)
	a.flags = d.Uint32()
	a.err = d.Err()
	return a
}

func uuidArgs(d *rpc.Decoder) args {
	a := args{uuid: d.UUID()}
	a.err = d.Err()
	return a
}

// storageVerbs is the table of all storage procedures.
func storageVerbs() map[rpc.Procedure]verb {
	t := map[rpc.Procedure]verb{}
	for _, part := range []map[rpc.Procedure]verb{listVerbs(), poolVerbs(), poolChangeVerbs(), volumeVerbs(), volumeChangeVerbs()} {
		maps.Copy(t, part)
	}
	return t
}
