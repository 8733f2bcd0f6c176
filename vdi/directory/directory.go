// Package directory is what a cluster knows of its VDIs: names, snapshots,
// layers, families, coordinators and VDI ids. It is a deterministic state
// machine that every node runs: commands arrive in committed order through
// Apply, and equal commands make equal directories. It reads no clock, draws no
// random numbers and does no I/O; it holds no data and does not know where
// replicas are.
//
// The main types are Directory, the commands (Create, Snapshot, Clone, Delete,
// DeleteSnapshot, Rollback, Resize, Rename, SetAttr, Acquire, Release,
// MarkWritten, Prune, Reset, and of the rest SnapshotGroup, AlterPolicy, Flatten,
// SetTrash, Untrash, Purge, Expire) and what they make: VDI, Entry, Family, Layer.
//
// A family is a tree of layers, newest at the leaves. Reading a VDI means
// reading the Chain of its working layer, newest first, and below that the
// chain of BaseOf, which belongs to another family. A layer stays while a
// working VDI, a snapshot or the base of a clone names it or while it joins two
// or more layers above it. Otherwise it goes at once: it is dropped if nothing
// is above it, or absorbed by the one layer above it. An absorbed layer keeps
// its place in every chain until all members have merged its blocks and a Prune
// forgets it.
package directory

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"sheepdog"
)

// Directory is safe for concurrent use. Layer, Chain, Family, Listed, Logical
// and BaseOf are meant for the data path: they take no lock once a chain has
// been asked for. Each call sees one committed state; two calls may see two.
type Directory struct {
	// mu orders Apply against readers of what is not published atomically. What
	// it guards is in state.
	mu      sync.RWMutex
	state   atomic.Pointer[state]
	applied atomic.Uint64
	version atomic.Uint64 // odd while something changes
	watch   watch
}

// New makes an empty directory.
func New() *Directory {
	d := &Directory{}
	d.state.Store(newState())
	return d
}

// Apply runs the command committed at a Raft index, which must be higher than
// those before. It returns the encoded result (see Decode), or an error that
// wraps a sentinel of package sheepdog; then nothing has changed.
func (d *Directory) Apply(index uint64, kind string, body []byte) ([]byte, error) {
	defer d.watch.wake()
	d.lock()
	defer d.unlock()
	if last := d.applied.Load(); index <= last {
		return nil, conflict("command %s at index %d comes after index %d", kind, index, last)
	}
	d.applied.Store(index)
	cmd, err := parse(kind, body)
	if err != nil {
		return nil, err
	}
	s := d.state.Load()
	s.index = index
	result, err := cmd.apply(s)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", kind, err)
	}
	return encodeResult(result)
}

// replace puts another state in place of the present one; the caller holds mu.
func (d *Directory) replace(s *state) {
	s.changes = d.state.Load().changes
	s.changes.restart()
	d.state.Store(s)
}

// lock and unlock enclose every change.
func (d *Directory) lock() {
	d.mu.Lock()
	d.version.Add(1)
}

func (d *Directory) unlock() {
	d.version.Add(1)
	d.mu.Unlock()
}

// Version moves with every change. What was looked up between two calls that returned
// the same version, steady both times, is of one state; it holds for as long as calls
// return that version.
func (d *Directory) Version() (version uint64, steady bool) {
	version = d.version.Load()
	return version, version%2 == 0
}

// Applied is the index of the newest command that Apply has seen.
func (d *Directory) Applied() uint64 { return d.applied.Load() }

// state is everything that commands change. Directory.mu guards it, except that
// the tables and the atomic fields behind them may be read at any time.
type state struct {
	index      uint64 // of the command being applied
	layers     table[sheepdog.LayerID, layerNode]
	families   table[sheepdog.FamilyID, familyNode]
	names      map[string]*record
	vids       map[sheepdog.VID]holder
	used       *vidSet // ids in vids, and retired ones
	absorbing  map[sheepdog.LayerID]*layerNode
	coded      map[sheepdog.LayerID]*layerNode // those that AllCoded lists
	coding     map[sheepdog.LayerID]*layerNode // those that CodingWork lists
	changes    *changes
	lastLayer  sheepdog.LayerID
	lastFamily sheepdog.FamilyID
	lastToken  sheepdog.Token
	trashKeep  time.Duration // how long deleted VDIs are kept; 0: not at all
	// emptied are the families that lost their last layer in this command.
	emptied []*familyNode
}

func newState() *state {
	return &state{
		names:     make(map[string]*record),
		vids:      make(map[sheepdog.VID]holder),
		used:      new(vidSet),
		absorbing: make(map[sheepdog.LayerID]*layerNode),
		coded:     make(map[sheepdog.LayerID]*layerNode),
		coding:    make(map[sheepdog.LayerID]*layerNode),
		changes:   newChanges(),
	}
}
