package api

import (
	"time"

	"sheepdog"
)

// ClusterState says what the cluster can do now.
type ClusterState string

// The states of a cluster.
const (
	StateUnformatted ClusterState = "unformatted" // waits for `dog cluster format`
	StateWaiting     ClusterState = "waiting"     // waits for nodes: no quorum, or a partition lacks its replicas
	StateRunning     ClusterState = "running"
	StateHalted      ClusterState = "halted" // too few zones for the configured copies; writes wait
	StateShutdown    ClusterState = "shutdown"
)

// Status describes the node that answers.
type Status struct {
	Version  int             `json:"version"`
	Software string          `json:"software"` // version of the program
	Node     Node            `json:"node"`
	Meta     string          `json:"meta,omitempty"` // directory of the node's own data, on its host
	State    ClusterState    `json:"state"`
	NBD      NBDEndpoints    `json:"nbd"`
	Started  time.Time       `json:"started"`
	Epoch    sheepdog.Epoch  `json:"epoch"` // 0 before the first view
	Revision uint64          `json:"revision"`
	Voter    bool            `json:"voter"`  // takes part in elections
	Leader   sheepdog.NodeID `json:"leader"` // of the Raft group; zero if unknown
	Scrub    Scrub           `json:"scrub"`
	// Defragment is of the node's disks.
	Defragment Defragment `json:"defragment"`
}

// Defragment is what was moved so that it lies in sequence since the node was started,
// because it was written at random and is read in sequence.
type Defragment struct {
	RateBytes    uint64 `json:"rateBytes"`    // a second, at most; 0: off
	MovedBytes   uint64 `json:"movedBytes"`   // since the start
	WaitingBytes uint64 `json:"waitingBytes"` // to be looked at, at most
}

// Scrub is how far the background check of this node's share of the replicas is,
// and what it found since the node was started.
type Scrub struct {
	EverySeconds  float64   `json:"everySeconds"` // in which each object is checked once; 0: off
	Percent       float64   `json:"percent"`      // of the present round
	Completed     time.Time `json:"completed,omitzero"`
	Objects       uint64    `json:"objects"` // replicas verified
	FoundBlocks   uint64    `json:"foundBlocks"`
	HealedBlocks  uint64    `json:"healedBlocks"`
	LostBlocks    uint64    `json:"lostBlocks"`    // no replica has good bytes of the newest version
	SkippedChecks int       `json:"skippedChecks"` // of partitions that kept moving; they come again
}

// NBDEndpoints are where a node serves NBD; empty where it does not.
type NBDEndpoints struct {
	TCP  string `json:"tcp,omitempty"`  // host:port
	Unix string `json:"unix,omitempty"` // path of a socket on that node
}

// Cluster describes the cluster as a whole.
type Cluster struct {
	Version  int                `json:"version"`
	State    ClusterState       `json:"state"`
	ID       sheepdog.ClusterID `json:"id"` // zeros before format
	Epoch    sheepdog.Epoch     `json:"epoch"`
	Revision sheepdog.Revision  `json:"revision"`
	Config   sheepdog.Config    `json:"config,omitzero"` // none before format, nor while waiting after a restart
	// History has one entry per epoch, newest first, possibly without the oldest.
	History []EpochRecord `json:"history"`
	// Warnings are for operators: nodes started with --nosync, full disks,
	// partitions that wait for a node.
	Warnings []string `json:"warnings,omitempty"`
}

// EpochRecord is the membership of one epoch.
type EpochRecord struct {
	Epoch   sheepdog.Epoch `json:"epoch"`
	Time    time.Time      `json:"time"`
	Members []EpochMember  `json:"members"`
}

// EpochMember is a node as an epoch lists it.
type EpochMember struct {
	Addr   string `json:"addr"`
	VNodes uint16 `json:"vnodes"`
}

// FormatRequest makes a new cluster.
type FormatRequest struct {
	Copies         sheepdog.Policy `json:"copies"`                   // default for new VDIs; required
	MinCopies      uint8           `json:"minCopies,omitempty"`      // 0: half of the copies, rounded up
	BlockSizeShift uint8           `json:"blockSizeShift,omitempty"` // 0: the default, 22
	SyncAlways     bool            `json:"syncAlways,omitempty"`
	Strict         bool            `json:"strict,omitempty"`
	Locking        bool            `json:"locking,omitempty"`
	FixedVNodes    bool            `json:"fixedVNodes,omitempty"`
	RecycleVIDs    bool            `json:"recycleVIDs,omitempty"`
	SkipFullDisks  bool            `json:"skipFullDisks,omitempty"`
	// Discard must be true if the cluster has VDIs; without it the request is
	// refused with code `busy`, so that nobody deletes data by mistake.
	Discard bool `json:"discard,omitempty"`
}

// RecoverySetting is the body of PUT /v1/cluster/recovery.
type RecoverySetting struct {
	Enabled *bool `json:"enabled"` // required
}
