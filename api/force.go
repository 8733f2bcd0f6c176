package api

import (
	"time"

	"sheepdog"
)

// ForceRequest has a cluster that waits for nodes lost for ever go on without
// them. A dry run only tells what that costs. Otherwise GiveUp must name exactly
// the nodes that are not here, so that nobody gives up more than he has read of.
type ForceRequest struct {
	DryRun bool              `json:"dryRun,omitempty"`
	GiveUp []sheepdog.NodeID `json:"giveUp,omitempty"`
}

// ForceReport says what is given up, and what that loses.
type ForceReport struct {
	Version   int    `json:"version"`
	Done      bool   `json:"done"`      // false: only a dry run
	Survivors []Node `json:"survivors"` // ordered by address, then port
	Lost      []Node `json:"lost"`      // members that are not here, in the same order
	// Log is where the log ends with which the survivors go on, if they have no
	// quorum: what was committed after it is lost.
	Log *LogEnd `json:"log,omitempty"`
	// Partitions of which every last acting replica is lost: newest writes are
	// gone, also flushed ones. Empty counts those of them of which the survivors
	// have nothing at all.
	Partitions      int `json:"partitions"`
	EmptyPartitions int `json:"emptyPartitions"`
	TotalPartitions int `json:"totalPartitions"` // of all redundancy policies in use
	// VDIs and snapshots with data in those partitions.
	VDIs []DamagedVDI `json:"vdis"`
	// Stuck are the policies D:P of coded objects of which too few strips are left:
	// reads of them fail once the cluster was forced.
	Stuck []sheepdog.Policy `json:"stuck,omitempty"`
}

// LogEnd is the last entry of a node's log.
type LogEnd struct {
	Node  string    `json:"node"` // address
	Index uint64    `json:"index"`
	Term  uint64    `json:"term"`
	Time  time.Time `json:"time,omitzero"` // when it was written, by the leader's clock then; zero: not known
}

// DamagedVDI is a VDI or snapshot that may have lost data, and where.
type DamagedVDI struct {
	Name       string        `json:"name"`
	SnapshotID uint32        `json:"snapshotID,omitempty"` // 0: the working VDI
	Tag        string        `json:"tag,omitempty"`
	VID        VID           `json:"vid"`
	Bytes      uint64        `json:"bytes"` // in all ranges
	Ranges     []DamagedPart `json:"ranges"`
	MoreRanges int           `json:"moreRanges,omitempty"` // left out of the list
}

// DamagedPart is a range of bytes that may have lost data.
type DamagedPart struct {
	Offset uint64 `json:"offset"`
	Length uint64 `json:"length"`
	// Old says that survivors have something of it: an older or incomplete state.
	// Otherwise it reads as zeros.
	Old bool `json:"old"`
	// Fails says that of erasure coded data too few strips are left: what needs the
	// others cannot be read (sheepdog.ErrIO).
	Fails bool `json:"fails,omitempty"`
}

func force(r *ForceReport, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	r.Version, r.Survivors, r.Lost, r.VDIs = Version, list(r.Survivors), list(r.Lost), list(r.VDIs)
	sortByAddr(r.Survivors, func(n *Node) string { return n.Addr })
	sortByAddr(r.Lost, func(n *Node) string { return n.Addr })
	for i := range r.VDIs {
		r.VDIs[i].Ranges = list(r.VDIs[i].Ranges)
	}
	return r, nil
}
