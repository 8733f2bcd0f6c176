// Package storage is a storage driver in libvirt's sense over the virtual disks
// (VDIs) of a cluster: pools, which are name spaces of VDIs, and volumes, which
// are VDIs. It keeps libvirt's rules about what may be done to which pool in
// which state, its error codes, its XML and its events. It speaks no protocol:
// that is package server's, and it reaches the cluster only through the
// interfaces Store and Definitions.
//
// A pool is defined once for the whole cluster, but started per host, as with
// every other shared storage in libvirt.
//
// Main types: Driver, Store, Definitions, Pool, Volume.
package storage

import (
	"context"
	"io"
	"time"

	"sheepdog/libvirtpool/rpc"
)

// Store is the cluster's VDIs. Names are full VDI names. Errors wrap the
// sentinels of package sheepdog.
type Store interface {
	// List is all working VDIs, in any order, in one request.
	List(ctx context.Context) ([]VDI, error)
	// Find is one working VDI, or sheepdog.ErrNotFound.
	Find(ctx context.Context, name string) (VDI, error)
	// Allocated is how many bytes a VDI, and no older one, holds, or
	// sheepdog.ErrNotFound.
	Allocated(ctx context.Context, name string) (uint64, error)
	Create(ctx context.Context, name string, size uint64) error
	// Clone makes a VDI of at least size bytes that shares what source holds
	// now, and returns its size. It leaves nothing else behind, also when it
	// fails. It is sheepdog.ErrNotFound if there is no source.
	Clone(ctx context.Context, source, name string, size uint64) (uint64, error)
	// PlaceFor is the name under which a VDI is to be filled that is going to be
	// called name: no pool shows it. It is sheepdog.ErrExists if there is one. Where
	// snapshots of the name are left it is the name itself.
	PlaceFor(ctx context.Context, name string) (string, error)
	Rename(ctx context.Context, name, newName string) error
	// Delete removes the working VDI with all its snapshots.
	Delete(ctx context.Context, name string) error
	// Resize makes the VDI larger.
	Resize(ctx context.Context, name string, size uint64) error
	Capacity(ctx context.Context) (Capacity, error)
	Data
}

// Data moves the bytes of VDIs.
type Data interface {
	// Read writes n bytes from off on to w.
	Read(ctx context.Context, name string, off, n uint64, w io.Writer) error
	// Write writes all of r at off and returns when it is durable.
	Write(ctx context.Context, name string, off uint64, r io.Reader) error
}

// VDI is a working VDI.
type VDI struct {
	Name      string
	Size      uint64   // bytes
	Snapshots []string // tags, or numbers where there is no tag
}

// Capacity is the space of the cluster as a user of its default number of
// copies sees it, in bytes.
type Capacity struct{ Total, Used, Free uint64 }

// Definitions is where persistent pools are written down, the same for all
// hosts.
type Definitions interface {
	Load(ctx context.Context) ([]Definition, error)
	// Add fails with sheepdog.ErrExists if the name is taken, atomically in the
	// whole cluster.
	Add(ctx context.Context, d Definition) error
	// Replace fails with sheepdog.ErrNotFound if there is none of that name.
	Replace(ctx context.Context, d Definition) error
	Remove(ctx context.Context, name string) error
}

// Definition is a pool as it was defined.
type Definition struct {
	Name string   `json:"name"`
	UUID rpc.UUID `json:"uuid"`
	// Namespace is the first part of the names of the pool's VDIs,
	// NAMESPACE/VOLUME; empty: the VDIs without a slash.
	Namespace string `json:"namespace"`
	Host      string `json:"host,omitempty"` // host[:port] of the XML, only shown again
	Autostart bool   `json:"autostart"`
}

// Pool is a pool and its state on this host.
type Pool struct {
	Definition
	Active     bool
	Persistent bool
}

// Volume is a VDI as a volume of a pool.
type Volume struct {
	Pool string
	Name string
	VDI  VDI
}

// Key identifies the volume in the cluster; it is the VDI's name. The path is the
// same.
func (v Volume) Key() string { return v.VDI.Name }

// Limits and times.
const (
	maxPools = rpc.MaxList
	// definitionsAge is how long definitions may be used before they are loaded
	// again, so that every host sees what another one defined.
	definitionsAge = time.Second
	// missedAge is how long a cluster that did not answer is not asked again by
	// those who can do with what was known last.
	missedAge = 10 * time.Second
	// knownPatience is how long those wait for the cluster's answer.
	knownPatience = 2 * time.Second
	// turnPatience is how long a change of pools waits for another one.
	turnPatience = 30 * time.Second
)
