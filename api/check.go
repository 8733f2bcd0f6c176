package api

// CheckRequest selects what is checked. A check reads every replica.
type CheckRequest struct {
	// DryRun changes nothing; differences are only reported.
	DryRun   bool     `json:"dryRun,omitempty"`
	VDI      string   `json:"vdi,omitempty"`      // empty: all VDIs and snapshots
	Snapshot Selector `json:"snapshot,omitempty"` // with VDI: one snapshot; empty: the working VDI
}

// FindingKind says what is wrong with an object.
type FindingKind string

// What a check can find.
const (
	FindingMissing   FindingKind = "missing"   // a replica does not exist
	FindingDifferent FindingKind = "different" // a replica is not equal to the others
	FindingCorrupt   FindingKind = "corrupt"   // bytes of a replica fail their checksum
	FindingLost      FindingKind = "lost"      // no good replica is left
	FindingOrphan    FindingKind = "orphan"    // a replica that no VDI can reach
)

// CheckEvent is one line of the stream that POST /v1/check answers: exactly one
// member is present. The last line has summary or error; a stream without one
// was cut off.
type CheckEvent struct {
	Begin    *CheckVDI      `json:"begin,omitempty"`    // a VDI or snapshot is checked next
	End      *CheckVDI      `json:"end,omitempty"`      // it was checked
	Finding  *Finding       `json:"finding,omitempty"`  // something is wrong
	Progress *CheckProgress `json:"progress,omitempty"` // now and then
	Summary  *CheckSummary  `json:"summary,omitempty"`  // sent by the server
	Error    *Error         `json:"error,omitempty"`    // sent by the server
}

// CheckVDI names what is being checked.
type CheckVDI struct {
	Name       string `json:"name"`
	SnapshotID uint32 `json:"snapshotID"` // 0 for a working VDI
	Tag        string `json:"tag,omitempty"`
}

// Finding is one thing wrong.
type Finding struct {
	Kind     FindingKind `json:"kind"`
	Object   string      `json:"object"`         // name of the object, for the log
	Node     string      `json:"node,omitempty"` // address of the node with the bad replica
	Repaired bool        `json:"repaired"`
	Detail   string      `json:"detail,omitempty"`
}

// CheckProgress counts objects.
type CheckProgress struct {
	FinishedObjects uint64 `json:"finishedObjects"`
	TotalObjects    uint64 `json:"totalObjects"`
}

// CheckSummary is the result of a check. Found counts findings; what is not
// Repaired is still wrong. Lost objects can never be repaired.
type CheckSummary struct {
	Version  int    `json:"version"`
	Objects  uint64 `json:"objects"` // that were checked
	Found    uint64 `json:"found"`
	Repaired uint64 `json:"repaired"`
	Lost     uint64 `json:"lost"`
}
