package api

import (
	"fmt"
	"strconv"
	"time"

	"sheepdog"
)

// VID is a VDI id; JSON has it as users see it, in hex digits.
type VID sheepdog.VID

func (v VID) String() string { return sheepdog.VID(v).String() }

// MarshalText writes hex digits without leading zeros.
func (v VID) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads up to six hex digits.
func (v *VID) UnmarshalText(b []byte) error {
	n, err := strconv.ParseUint(string(b), 16, 24)
	if err != nil {
		return fmt.Errorf("VDI id %q: want up to six hex digits", b)
	}
	*v = VID(n)
	return nil
}

// VDI is a working VDI or one of its snapshots.
type VDI struct {
	Name       string `json:"name"`
	ID         VID    `json:"id"`
	Snapshot   bool   `json:"snapshot"`
	SnapshotID uint32 `json:"snapshotID"` // 0 for a working VDI
	Tag        string `json:"tag,omitempty"`
	// Description is what people said of a snapshot when they took it.
	Description string `json:"description,omitempty"`
	// Clone: a working VDI that lies directly on a snapshot of another name.
	Clone bool `json:"clone"`
	// ParentID is the snapshot that this one lies on, of the same or (for a
	// clone) another name; 0 if there is none.
	ParentID       VID             `json:"parentID"`
	SizeBytes      uint64          `json:"sizeBytes"`
	Created        time.Time       `json:"created"`
	Copies         sheepdog.Policy `json:"copies"`
	BlockSizeShift uint8           `json:"blockSizeShift"`
	// Expires is when a snapshot is deleted; absent: never.
	Expires time.Time `json:"expires,omitzero"`
	// RevertedAt is when the VDI was last rolled back, RevertedFrom the number of
	// the snapshot.
	RevertedAt   time.Time `json:"revertedAt,omitzero"`
	RevertedFrom uint32    `json:"revertedFrom,omitempty"`
	// Origin is the identity of the VDI: it stays through snapshots, rollbacks and
	// renames, and its snapshots have the same.
	Origin uint64 `json:"origin,omitempty"`
	// Moving: its data are being copied to another redundancy.
	Moving bool `json:"moving,omitempty"`
	// OwnObjects counts objects written since the last snapshot, SharedObjects
	// those inherited.
	OwnObjects    uint64 `json:"ownObjects"`
	SharedObjects uint64 `json:"sharedObjects"`
	// UsedBytes and SharedBytes are objects times object size, not space on
	// disks. The server fills them in.
	UsedBytes   uint64 `json:"usedBytes"`
	SharedBytes uint64 `json:"sharedBytes"`
	// HeldBytes are the objects times object size that it reads and no older VDI
	// does: each is counted with one VDI and its snapshots. The server fills it in.
	HeldBytes uint64 `json:"heldBytes,omitempty"`
	// Space on all disks together, all replicas counted, as it was at most a minute
	// ago: null unless asked for. PhysicalBytes is what was written since the last
	// snapshot; ExclusiveBytes what would be free if this VDI or snapshot were
	// deleted; SharedPhysicalBytes what it reads besides and others need too.
	PhysicalBytes       *uint64 `json:"physicalBytes,omitempty"`
	ExclusiveBytes      *uint64 `json:"exclusiveBytes,omitempty"`
	SharedPhysicalBytes *uint64 `json:"sharedPhysicalBytes,omitempty"`
}

// complete fills in what follows from other fields.
func (v *VDI) complete() {
	v.UsedBytes = v.OwnObjects << v.BlockSizeShift
	v.SharedBytes = v.SharedObjects << v.BlockSizeShift
}

// VDIQuery selects what VDIs lists.
type VDIQuery struct {
	Name     string    // empty: all
	Brief    bool      // leave out objects and bytes, which every node is asked for
	Physical bool      // fill PhysicalBytes, which asks every node
	Object   *ObjectID // only those that read this object; nil: all
}

// VDIList is the answer of GET /v1/vdis, in ascending order of ids.
type VDIList struct {
	Version int   `json:"version"`
	VDIs    []VDI `json:"vdis"`
}

// VDIReply is the answer of requests that make or change one VDI.
type VDIReply struct {
	Version int `json:"version"`
	VDI     VDI `json:"vdi"`
}

// CreateRequest makes a VDI.
type CreateRequest struct {
	Name           string           `json:"name"`
	SizeBytes      uint64           `json:"sizeBytes"`
	Copies         *sheepdog.Policy `json:"copies,omitempty"`         // nil: the cluster's default
	BlockSizeShift uint8            `json:"blockSizeShift,omitempty"` // 0: the cluster's default
	Preallocate    bool             `json:"preallocate,omitempty"`
}

// MaxDescription is the length of a snapshot's description in bytes.
const MaxDescription = 4096

// SnapshotRequest freezes the working VDI.
type SnapshotRequest struct {
	Name string `json:"name"`
	Tag  string `json:"tag,omitempty"` // optional; unique per name, not a number
	// Description is free text of at most MaxDescription bytes.
	Description string `json:"description,omitempty"`
	// Expires is when the snapshot is deleted; absent: never.
	Expires time.Time `json:"expires,omitzero"`
	// OnlyIfChanged makes no snapshot if nothing was written since the last one.
	OnlyIfChanged bool `json:"onlyIfChanged,omitempty"`
}

// SnapshotResult is the outcome of a SnapshotRequest.
type SnapshotResult struct {
	Version  int  `json:"version"`
	Created  bool `json:"created"`            // false: nothing had changed
	Snapshot *VDI `json:"snapshot,omitempty"` // has the id that was the working VDI's
	Working  *VDI `json:"working,omitempty"`  // has a new id
}

// Selector names a snapshot: its tag, or its number in decimal digits. Tags are
// never numbers. Empty means the working VDI.
type Selector string

// Number is the snapshot number that s stands for; false if s is a tag.
func (s Selector) Number() (uint32, bool) {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(string(s), 10, 32)
	return uint32(n), err == nil
}

// Matches reports whether the VDI is the snapshot that s names, or, for an
// empty s, a working VDI.
func (s Selector) Matches(v *VDI) bool {
	if s == "" || !v.Snapshot {
		return s == "" && !v.Snapshot
	}
	if n, ok := s.Number(); ok {
		return v.SnapshotID == n
	}
	return v.Tag == string(s)
}

// CloneRequest makes a new VDI on a snapshot of another, or of what that holds now.
type CloneRequest struct {
	Source   string   `json:"source"`
	Snapshot Selector `json:"snapshot,omitempty"` // empty: the working VDI, which is not copied then
	Name     string   `json:"name"`               // of the new VDI
	// SizeBytes is that of the new VDI, at least that of the snapshot; 0: the same.
	// Of a working VDI it may be less: then it is the same.
	SizeBytes uint64 `json:"sizeBytes,omitempty"`
	// Preallocate copies shared objects and allocates the others.
	Preallocate bool `json:"preallocate,omitempty"`
	// NoShare copies all data, so that the result has no parent.
	NoShare bool `json:"noShare,omitempty"`
}

// DeleteRequest deletes the working VDI, or the one snapshot.
type DeleteRequest struct {
	Name     string
	Snapshot Selector
	Purge    bool // not into the trash, also if it is on
}

// RollbackRequest throws the working VDI away and makes one on the snapshot.
type RollbackRequest struct {
	Name     string   `json:"name"`
	Snapshot Selector `json:"snapshot"` // required
	// SaveTag takes a snapshot with this tag first, of what is thrown away; empty:
	// none.
	SaveTag string `json:"saveTag,omitempty"`
}

// ResizeRequest grows the working VDI.
type ResizeRequest struct {
	Name      string `json:"name"`
	SizeBytes uint64 `json:"sizeBytes"`
}

// VDICopiesRequest is the body of PUT /v1/vdis/copies: the snapshot, and the
// policy D:P that its data are to have. VDIs and copies are refused: their
// redundancy cannot change in place.
type VDICopiesRequest struct {
	Name     string          `json:"name"`
	Snapshot Selector        `json:"snapshot"`
	Copies   sheepdog.Policy `json:"copies"`
}

// RenameRequest gives a VDI and its snapshots another name.
type RenameRequest struct {
	Name    string `json:"name"`
	NewName string `json:"newName"`
}

// ToEnd as a length means up to the end of the VDI.
const ToEnd int64 = -1

// ReadRequest reads bytes of a VDI or snapshot.
type ReadRequest struct {
	Name     string
	Snapshot Selector
	Offset   uint64
	Length   int64 // ToEnd: to the end of the VDI
}

// WriteRequest writes bytes to the working VDI.
type WriteRequest struct {
	Name   string
	Offset uint64
	Length int64 // of the data that follow; negative if not known
}

// WriteReply is the answer of PUT /v1/vdis/data.
type WriteReply struct {
	Version int   `json:"version"`
	Written int64 `json:"written"` // bytes
}
