// Package vdi opens virtual disks. A Volume is what a frontend reads and writes;
// the Manager of a node knows the volumes open here, coordinates the families
// that the cluster appointed this node for, forwards to the coordinators of
// others, and runs the operations on VDIs (create, snapshot, clone, rollback,
// delete) as commits to the directory.
//
// It does not know how one object is replicated (gateway), who holds what
// (cluster), nor any frontend's protocol (nbd, api).
//
// The rules of ordering, leases and hand-over are in docs/protocol.md; the
// numbers in comments are its rules.
package vdi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// Objects replicates the reads and writes of single objects (package gateway).
type Objects interface {
	Write(ctx context.Context, req *sheepdog.WriteRequest) error
	// Start is Write for several requests, without waiting: done is called once for
	// each, from any goroutine.
	Start(ctx context.Context, reqs []*sheepdog.WriteRequest, done func(i int, err error))
	Read(ctx context.Context, req *sheepdog.ReadRequest) error
	// TryRead is Read if the bytes are at hand; else it returns false.
	TryRead(req *sheepdog.ReadRequest) bool
	Records(ctx context.Context, s sheepdog.Scope, obj sheepdog.ObjectID, layers []sheepdog.LayerID, start sheepdog.BlockNo, count uint32) ([]sheepdog.Record, error)
	Flush(ctx context.Context, s sheepdog.Scope, parts []sheepdog.Partition, flushed uint64) error
	Settled(ctx context.Context, s sheepdog.Scope, flushed uint64) error
	Takeover(ctx context.Context, s sheepdog.Scope) (sheepdog.Succession, error)
	// Origins lists the forwarded writes that were applied in a family.
	Origins(ctx context.Context, s sheepdog.Scope) ([]sheepdog.Origin, error)
	// WaitsForSpace is why a write of the family waits for space, nil if none does.
	WaitsForSpace(family sheepdog.FamilyID) error
	LayerIndexes(ctx context.Context, s sheepdog.Scope, layer sheepdog.LayerID, visit func(sheepdog.Index)) error
}

// Chunk names a part of a frozen layer, seen through its chain and bases. Layer ids
// are never reused, so what it holds never changes.
type Chunk struct {
	Layer sheepdog.LayerID
	Index sheepdog.Index
	No    uint32 // in units of ChunkBytes from the object's begin
}

// ChunkBytes is the size of a chunk.
const ChunkBytes = chunkBlocks * sheepdog.BlockSize

// Shelf keeps chunks that came from other nodes, on this node, beside what is in
// memory. It may forget any.
type Shelf interface {
	Get(Chunk) []byte // nil: it is not there
	Put(Chunk, []byte)
}

// Cluster decides: commits to the directory, views, and this node's lease.
type Cluster interface {
	sheepdog.Views
	// Propose commits a directory command and returns when this node has applied
	// it.
	Propose(ctx context.Context, kind string, body []byte) ([]byte, error)
	// Barrier returns when this node has applied everything that was committed
	// before the call.
	Barrier(ctx context.Context) error
	// LeaseValid reports whether this node may coordinate right now.
	LeaseValid() bool
}

// Peers reaches other nodes.
type Peers interface {
	Forwarder(m sheepdog.Member) sheepdog.Forwarder
	Call(ctx context.Context, m sheepdog.Member, method string, body []byte) ([]byte, error)
}

// Options of a Manager. Sizes are in bytes.
type Options struct {
	Self        sheepdog.NodeID
	Incarnation sheepdog.Incarnation
	Directory   *directory.Directory
	Objects     Objects
	Cluster     Cluster
	Peers       Peers
	BaseCache   int              // memory for data of frozen layers
	Shelf       Shelf            // for those of them that came from other nodes; nil: none
	FlushEvery  time.Duration    // how often a coordinator flushes by itself (rule 11)
	Coder       Coder            // nil: nothing is encoded here
	Recode      RecodeTiming     // of the Coder
	Now         func() time.Time // the wall clock; nil: time.Now
	Logger      *slog.Logger
}

// errMoved is returned when a request must be routed again. Over the wire it is
// ErrNotCoordinator: whoever forwarded the request routes it again then.
var errMoved = fmt.Errorf("coordinator has moved: %w", sheepdog.ErrNotCoordinator)

// rerouted reports whether a request that failed with err should look for the
// coordinator again.
func rerouted(err error) bool {
	for _, e := range []error{sheepdog.ErrNotCoordinator, sheepdog.ErrFenced, sheepdog.ErrUnreachable,
		sheepdog.ErrClosed, sheepdog.ErrBehind, sheepdog.ErrBusy, sheepdog.ErrConflict, sheepdog.ErrNoQuorum, sheepdog.ErrStale} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
