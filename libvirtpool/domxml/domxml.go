// Package domxml rewrites the disks in libvirt's XML: what names a volume of ours
// becomes an NBD disk at the local gateway's unix socket, which every QEMU can
// open, and is shown as the volume again. Everything else in a document stays as
// it is, byte for byte.
//
// Main type: Rewriter.
package domxml

import "strings"

// Pools tells pools from name spaces of VDIs.
type Pools interface {
	// NamespaceOfPool is the name space of a pool of ours; false if the pool is
	// not ours.
	NamespaceOfPool(pool string) (string, bool)
	// PoolOfNamespace is the pool of a name space, if there is one.
	PoolOfNamespace(namespace string) (string, bool)
}

// Rewriter rewrites disks. It is safe for concurrent use.
type Rewriter struct {
	Socket string // of the local gateway
	Pools  Pools
	// Reconnect is how many seconds QEMU waits for a gateway that restarts
	// before it reports errors; 0: libvirt's default. libvirt 9.0 ignores it.
	Reconnect int
}

// Disk is a disk of ours in a domain.
type Disk struct {
	Target string // its name in the guest, such as vda
	VDI    string
	Ours   bool // false: some other disk that can be written to
	// Apart: snapshots leave it out where they do not name it.
	Apart bool
}

// split parts a VDI name into name space and volume.
func split(vdi string) (namespace, volume string) {
	if space, volume, ok := strings.Cut(vdi, "/"); ok {
		return space, volume
	}
	return "", vdi
}

func join(namespace, volume string) string {
	if namespace == "" {
		return volume
	}
	return namespace + "/" + volume
}
