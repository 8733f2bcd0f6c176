package api

import (
	"context"
	"net/http"
	"strings"

	"sheepdog"
)

// MaintainBackend is what operators change on a running cluster and look at on
// one of its nodes.
type MaintainBackend interface {
	// SetCopies changes the default redundancy of VDIs created later.
	SetCopies(ctx context.Context, req *CopiesRequest) error
	// Reweight sets the weight of every node to its share of the space. It is
	// ErrInvalid in a cluster with weights set by hand.
	Reweight(ctx context.Context) error
	// SetVNodes sets the weight of this node. It is ErrInvalid in a cluster whose
	// weights follow the space, and on a gateway.
	SetVNodes(ctx context.Context, req *VNodesRequest) error
	// Throttle and SetThrottle bound the recovery of this node.
	Throttle(ctx context.Context) (*Throttle, error)
	SetThrottle(ctx context.Context, t *Throttle) error
	// LogLevel and SetLogLevel are of this node.
	LogLevel(ctx context.Context) (*LogLevel, error)
	SetLogLevel(ctx context.Context, l *LogLevel) error
	// Stats counts what this node has served since it was started.
	Stats(ctx context.Context) (*Stats, error)
	// Metrics is what this node, and the cluster as it knows it, tell Prometheus, in the
	// text exposition format.
	Metrics(ctx context.Context) ([]byte, error)
	// Disks lists the disks of this node, or of all nodes.
	Disks(ctx context.Context, all bool) (*DiskList, error)
	// PlugDisks adds empty disks to this node; ErrExists if it has one already.
	PlugDisks(ctx context.Context, req *DisksRequest) error
	// UnplugDisks moves what disks hold to the other disks of this node and takes
	// them out. ErrNoSpace if those have no room, ErrNotFound for a disk that the
	// node does not have, ErrInvalid for its last one. It takes as long as moving
	// does, and goes on if the client leaves.
	UnplugDisks(ctx context.Context, req *DisksRequest) error
}

// CopiesRequest is the body of PUT /v1/cluster/copies.
type CopiesRequest struct {
	Copies sheepdog.Policy `json:"copies"`
}

func (r *CopiesRequest) check() error {
	if r.Copies.Copies == 0 {
		return invalidf("no number of copies given")
	}
	return nil
}

// VNodesRequest is the body of PUT /v1/nodes/self/vnodes.
type VNodesRequest struct {
	VNodes uint16 `json:"vnodes"`
}

func (r *VNodesRequest) check() error {
	if r.VNodes == 0 {
		return invalidf("number of vnodes 0: want 1 to 65535")
	}
	return nil
}

// Throttle lets at most MaxObjects be recovered per interval; both 0: no bound.
type Throttle struct {
	Version              int    `json:"version,omitempty"`
	MaxObjects           uint32 `json:"maxObjects"`
	IntervalMilliseconds uint64 `json:"intervalMilliseconds"`
}

// maxInterval is a year.
const maxInterval = 366 * 24 * 3600 * 1000

func (t *Throttle) check() error {
	switch {
	case (t.MaxObjects == 0) != (t.IntervalMilliseconds == 0):
		return invalidf("throttle of %d objects per %d ms: both must be zero, or neither", t.MaxObjects, t.IntervalMilliseconds)
	case t.IntervalMilliseconds > maxInterval:
		return invalidf("throttle interval %d ms: want at most %d, a year", t.IntervalMilliseconds, uint64(maxInterval))
	}
	return nil
}

// LogLevels are the names of the levels of a log, as syslog numbers them.
func LogLevels() []string {
	return []string{"emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"}
}

// LogLevel is how much a node logs: a name of LogLevels. Its own messages are of
// the levels err, warning, info and debug.
type LogLevel struct {
	Version int    `json:"version,omitempty"`
	Level   string `json:"level"`
}

func (l *LogLevel) check() error {
	for _, name := range LogLevels() {
		if l.Level == name {
			return nil
		}
	}
	return invalidf("log level %q: want one of %v", l.Level, LogLevels())
}

// Stats counts requests of a node since its start.
type Stats struct {
	Version int          `json:"version"`
	Client  RequestStats `json:"client"` // of NBD clients and of this API
	Peer    RequestStats `json:"peer"`   // of other nodes, for replicas kept here
}

// RequestStats counts requests of one origin; Total is of all kinds, finished or
// not.
type RequestStats struct {
	Active       uint64 `json:"active"`
	Total        uint64 `json:"total"`
	Write        uint64 `json:"write"`
	Read         uint64 `json:"read"`
	Remove       uint64 `json:"remove"` // zeroed or trimmed ranges
	Flush        uint64 `json:"flush"`
	WrittenBytes uint64 `json:"writtenBytes"`
	ReadBytes    uint64 `json:"readBytes"`
}

// DiskList is the answer of GET /v1/nodes/disks.
type DiskList struct {
	Version int         `json:"version"`
	Nodes   []NodeDisks `json:"nodes"` // ordered by address, then port
}

// NodeDisks are the disks of one node.
type NodeDisks struct {
	Node
	Disks []Disk `json:"disks"`
	Error string `json:"error,omitempty"` // why the node did not answer
}

// Disk is one directory in which a node keeps replicas.
type Disk struct {
	Path      string `json:"path"`
	UsedBytes uint64 `json:"usedBytes"`
	FreeBytes uint64 `json:"freeBytes"`
	State     string `json:"state"` // ok, failed, missing since the start, or leaving while it is emptied
}

// DisksRequest names disks of a node by their directories, absolute paths.
type DisksRequest struct {
	Paths []string `json:"paths"`
}

// maxDisksRequest bounds the disks of one request.
const maxDisksRequest = 64

func (r *DisksRequest) check() error {
	if n := len(r.Paths); n == 0 || n > maxDisksRequest {
		return invalidf("%d disks named: want 1 to %d", n, maxDisksRequest)
	}
	for _, p := range r.Paths {
		if !strings.HasPrefix(p, "/") || len(p) > 4096 {
			return invalidf("disk %q: want an absolute path", p)
		}
	}
	return nil
}

func (s *Server) disks(w http.ResponseWriter, r *http.Request) error {
	q, err := params(r, "all")
	if err != nil {
		return err
	}
	all, err := boolean(q, "all")
	if err != nil {
		return err
	}
	out, err := s.backend.Disks(r.Context(), all)
	if err != nil {
		return err
	}
	out.Version, out.Nodes = Version, list(out.Nodes)
	sortByAddr(out.Nodes, func(n *NodeDisks) string { return n.Addr })
	for i := range out.Nodes {
		out.Nodes[i].Disks = list(out.Nodes[i].Disks)
	}
	return reply(w, out, nil)
}

// metricsType is the text exposition format of Prometheus.
const metricsType = "text/plain; version=0.0.4; charset=utf-8"

// metrics answers Prometheus.
func (s *Server) metrics(w http.ResponseWriter, r *http.Request) error {
	text, err := s.backend.Metrics(r.Context())
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", metricsType)
	w.Header().Set("Cache-Control", "no-store")
	_, err = w.Write(text)
	return err
}

func throttle(t *Throttle, err error) (any, error) {
	if err == nil {
		t.Version = Version
	}
	return t, err
}

func logLevel(l *LogLevel, err error) (any, error) {
	if err == nil {
		l.Version = Version
	}
	return l, err
}

func stats(s *Stats, err error) (any, error) {
	if err == nil {
		s.Version = Version
	}
	return s, err
}
