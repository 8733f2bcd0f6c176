package nbd

import (
	"context"
	"net"
)

// Device is one export as one connection sees it. Offsets and lengths are in
// bytes, need no alignment, lie within Size as it was when the request came,
// and lengths are not 0. Methods are called concurrently; overlapping requests
// may be in flight together. Where the server advertises several connections,
// a completed Flush covers completed writes of all connections to the export.
// Errors choose the errno the client gets: see the sentinels of this package.
type Device interface {
	// Size is in bytes and may grow. It must be cheap: every request asks.
	Size() uint64
	ReadOnly() bool
	// PreferredBlock is the size of requests that suit the device best.
	PreferredBlock() uint32
	// ReadAt fills p completely or fails.
	ReadAt(ctx context.Context, p []byte, off uint64) error
	// WriteAt writes all of p or fails; with fua it is durable on return. It must
	// not keep p.
	WriteAt(ctx context.Context, p []byte, off uint64, fua bool) error
	// Flush makes every write that ended before the call durable.
	Flush(ctx context.Context) error
	// Trim says that n bytes at off are not needed; what is read there afterwards
	// is either the old bytes or zeros.
	Trim(ctx context.Context, off, n uint64, fua bool) error
	WriteZeroes(ctx context.Context, off, n uint64, flags ZeroFlags) error
	// Cache hints that n bytes at off will be read soon.
	Cache(ctx context.Context, off, n uint64) error
	// Status describes n bytes at off in at most max extents, in order and without
	// gaps, from off on; it may stop early, after at least one extent.
	Status(ctx context.Context, off, n uint64, max int) ([]Extent, error)
	// Close detaches. It is called once, after all requests have ended.
	Close() error
}

// Prompt is a Device that can tell at once whether it has something at hand.
type Prompt interface {
	// TryReadAt fills p and returns true if that takes neither I/O nor waiting;
	// else it returns false, and p holds anything. It spares such reads a goroutine.
	TryReadAt(p []byte, off uint64) bool
}

// Starter is a Device that can begin writes without waiting for them.
type Starter interface {
	// StartWrites begins what it can of the writes at once, sets begun[i] for those,
	// and returns soon. Of each of them Done is called once, with what WriteAt would
	// return, from any goroutine, possibly before StartWrites returns. The others are
	// left to WriteAt.
	StartWrites(ctx context.Context, ws []Write, begun []bool)
}

// Write is a write that a Starter is asked to begin.
type Write struct {
	Data []byte // in use until Done
	Off  uint64
	Done func(error)
}

// Described is a Device with a text for people.
type Described interface {
	// Description is valid UTF-8 of at most 4096 bytes.
	Description() string
}

// ZeroFlags say how zeros are to be written.
type ZeroFlags uint8

const (
	// ZeroFUA: durable on return.
	ZeroFUA ZeroFlags = 1 << iota
	// NoHole: space stays allocated, so that later writes do not run out of it.
	NoHole
	// FastZero: return ErrNotSupported at once if it would not be much faster than
	// writing zeros.
	FastZero
)

// ExtentFlags are those of the metadata context base:allocation.
type ExtentFlags uint32

const (
	// Hole: no space is allocated.
	Hole ExtentFlags = 1 << iota
	// Zero: reads as zeros.
	Zero
)

// Extent is a range with one status. Length is in bytes and not 0.
type Extent struct {
	Length uint64
	Flags  ExtentFlags
}

// Info is what is known of a connection when it asks for an export.
type Info struct {
	Local  net.Addr
	Remote net.Addr
}

// Exports is what a server serves.
type Exports interface {
	// Open attaches to an export. It may wait, but not beyond ctx, which ends
	// after Config.OpenTimeout, when the client hangs up and when the server stops.
	// It is also called for clients that only ask about an export. See the
	// sentinels of this package for errors.
	Open(ctx context.Context, name string, conn Info) (Device, error)
	// List names what Open would open, as far as it is to be told.
	List(ctx context.Context) ([]string, error)
}
