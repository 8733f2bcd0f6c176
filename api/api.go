// Package api is the control API of a node: HTTP and JSON, versioned by its
// path, described by the OpenAPI document that it serves itself, and usable
// with curl. It has three parts: the documents (Cluster, Node, VDI, ...), the
// Server that turns requests into calls of a Backend, and the Client that Go
// programs such as dog use.
//
// It is not the data plane: guests reach their disks by NBD. Reading and
// writing a VDI through it exists for tools, at any byte offset.
//
// Every JSON answer is an object with a `version` member. A new member may
// appear at any time; the meaning of one that exists does not change within a
// version. Sizes are in bytes, times in RFC 3339. VDI names may contain slashes,
// blanks and any UTF-8, so they stand in JSON bodies and query parameters, never
// in paths.
package api

import (
	"context"
	"io"
)

// Version is the version of the documents and the first element of every path.
const Version = 1

// Backend is what a node must answer. Methods are called concurrently, must
// respect ctx, and return errors that wrap the sentinels of package sheepdog
// where one fits: the server maps those to HTTP states and stable codes
// (see ErrorCode). Names, sizes and tags have been checked for form before a
// method is called; whether they exist has not.
type Backend interface {
	ClusterBackend
	NodeBackend
	VDIBackend
	DataBackend
	AttributeBackend
	LimitsBackend
	LockBackend
	ObjectBackend
	CopyBackend
	LifecycleBackend
	MaintainBackend
}

// ClusterBackend answers for the cluster as a whole.
type ClusterBackend interface {
	// Status describes the node that answers. It never blocks on the cluster.
	Status(ctx context.Context) (*Status, error)
	// Cluster describes the cluster, also before it is formatted.
	Cluster(ctx context.Context) (*Cluster, error)
	// Format makes a new cluster of the nodes alive now, deleting all data of
	// every one. It returns when VDIs can be created.
	Format(ctx context.Context, req *FormatRequest) (*Cluster, error)
	// Shutdown stops all nodes. It may return before they are gone; the reply is
	// sent before this one is.
	Shutdown(ctx context.Context) error
	// SetRecovery lets data move after a change of membership, or pauses it.
	SetRecovery(ctx context.Context, enabled bool) error
	// Force has a cluster that waits for nodes lost for ever go on without them. It
	// is ErrBusy while the cluster does not need it, ErrConflict if the nodes to
	// give up are others than those named.
	Force(ctx context.Context, req *ForceRequest) (*ForceReport, error)
	// Check compares all replicas and, but for DryRun, heals what differs. It
	// calls report, one call at a time, for everything it finds and for progress;
	// an error of report ends the check and is returned.
	Check(ctx context.Context, req *CheckRequest, report func(*CheckEvent) error) (*CheckSummary, error)
}

// NodeBackend answers for the nodes.
type NodeBackend interface {
	// Nodes lists the nodes, in any order: before format and while the cluster
	// waits what gossip knows, afterwards the members of the committed view.
	Nodes(ctx context.Context) ([]Node, error)
	// Capacities asks every node for its space. A node that does not answer is
	// listed with Error set.
	Capacities(ctx context.Context) (*Capacities, error)
	// KillNode makes a node leave gracefully. It is ErrNotFound if no member has
	// that id, and ErrBusy, unless forced, if only that one has all of some data.
	KillNode(ctx context.Context, ref NodeRef) error
	// Recovery lists the nodes that are not complete. A node appears here in the
	// same moment as in the view.
	Recovery(ctx context.Context) ([]NodeRecovery, error)
}

// VDIBackend answers for virtual disks and their snapshots.
type VDIBackend interface {
	// VDIs lists working VDIs and snapshots, in any order. A name that nobody has
	// gives an empty list.
	VDIs(ctx context.Context, q *VDIQuery) ([]VDI, error)
	CreateVDI(ctx context.Context, req *CreateRequest) (*VDI, error)
	SnapshotVDI(ctx context.Context, req *SnapshotRequest) (*SnapshotResult, error)
	CloneVDI(ctx context.Context, req *CloneRequest) (*VDI, error)
	// DeleteVDI deletes the working VDI or the one snapshot. It is ErrNotFound if
	// there is none.
	DeleteVDI(ctx context.Context, req *DeleteRequest) error
	// RollbackVDI replaces the working VDI by a new one on the snapshot.
	RollbackVDI(ctx context.Context, req *RollbackRequest) (*VDI, error)
	ResizeVDI(ctx context.Context, req *ResizeRequest) (*VDI, error)
	// RenameVDI gives a VDI and its snapshots another name; ids stay.
	RenameVDI(ctx context.Context, req *RenameRequest) error
	// SetVDICopies has the data of a snapshot erasure coded in the background.
	SetVDICopies(ctx context.Context, req *VDICopiesRequest) error
}

// DataBackend moves the bytes of VDIs.
type DataBackend interface {
	// ReadVDI writes bytes of a VDI or snapshot to w, holes as zeros. It is
	// ErrInvalid when the offset or the end is beyond the end of the VDI. Errors
	// found before the first byte are returned without writing any.
	ReadVDI(ctx context.Context, req *ReadRequest, w io.Writer) error
	// WriteVDI writes what r has, until its end, to the working VDI and returns
	// when it is durable. It returns the number of bytes written, also with an
	// error. An r that has more bytes than the VDI has room for is ErrInvalid.
	WriteVDI(ctx context.Context, req *WriteRequest, r io.Reader) (int64, error)
}
