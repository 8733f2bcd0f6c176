package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"sheepdog"
)

// Stream is what a connection opened through Options.Dial is for. The node's
// port tells them apart by the preamble that Dial writes.
type Stream string

const (
	StreamRaft   Stream = "raft"
	StreamGossip Stream = "gossip"
)

// Caller sends a control request to another node and returns its answer. Errors
// keep the sentinels of the root package; an error of the local network stack
// (connection refused, reset) stays in the chain.
type Caller interface {
	Call(ctx context.Context, addr string, method string, body []byte) ([]byte, error)
	// Redial tells that the node at addr was heard of: calls to it must not fail
	// for an earlier attempt to reach it that did.
	Redial(addr string)
}

// Machine is a state machine that shares the Raft log with the membership: the
// VDI directory. Apply, Snapshot, Restore and Reset are called from one
// goroutine, in the order of the log, on every node; they must be deterministic.
type Machine interface {
	// Apply runs one command. Its error is an answer to the proposer like any
	// other and is kept as code and text.
	Apply(index uint64, kind string, body []byte) ([]byte, error)
	// Snapshot is for what Restore reads. Apply waits for it, but not for encode, which
	// is called once at most, beside Apply, and is to give the state at the time of the
	// call of Snapshot.
	Snapshot() (encode func() ([]byte, error))
	Restore(snapshot []byte) error
	// Reset forgets everything: the cluster was formatted.
	Reset()
	// Skip says that commits may be lost which gave out numbers: those given from
	// now on must be higher.
	Skip()
}

// Hints are what a node tells through gossip without a promise.
type Hints struct {
	Version  string // of the software, at most 32 bytes
	Capacity uint64 // bytes of all disks
	Used     uint64 // bytes
	Space    Space
	Waiting  uint32 // writes of guests at this node that wait for space
	BadDisks uint8  // disks that failed
}

// Space is how full a node's disks are, by its own thresholds.
type Space uint8

// The classes of space; later software may have more.
const (
	SpaceEnough Space = iota
	SpaceNearFull
	SpaceFull
)

// Options say who a node is and what it is joined to. Zero fields of Timing
// get defaults; Logger, Clock, Now, Seeds, Info, Gate and OnGeneration may be nil.
type Options struct {
	Self    sheepdog.Member  // Incarnation must be new for this process
	Network sheepdog.Network // packets of gossip and probes of a suspect's port
	// Bind is where gossip listens for packets; Self.Addr if empty.
	Bind string
	// RaftConns and GossipConns accept streams of the two kinds.
	RaftConns   net.Listener
	GossipConns net.Listener
	// Dial opens a stream of the given kind and writes its preamble.
	Dial   func(ctx context.Context, kind Stream, addr string) (net.Conn, error)
	Caller Caller
	// Dir holds log, votes, snapshots and cluster id. If empty, they are in
	// Memory, which then outlives the Cluster as a disk would.
	Dir     string
	Memory  *Memory
	Machine Machine
	// NewMachine makes an empty one beside it, on which the log can be replayed.
	NewMachine func() Machine
	// Gate runs on the leader before a Machine command is proposed; its error
	// goes to the proposer. It may wait, for a lease for example. It is run
	// again if the epoch changed before the command was committed.
	Gate func(ctx context.Context, kind string, body []byte) error
	// Seeds are addresses of nodes that may be there.
	Seeds func() []string
	// Newcomer is asked before a node that belongs to no cluster looks for one; its error
	// is that of Start. May be nil.
	Newcomer func() error
	Timing   Timing
	// Clock is a monotonic time that runs through suspend.
	Clock func() time.Duration
	// Now is the wall clock, which is for dates only.
	Now  func() time.Time
	Info func() Hints
	// OnGeneration is called before a view of a newly formatted cluster is
	// published. Generations rise with every format; at start the log is
	// replayed, so that older ones come again and must be ignored.
	OnGeneration func(generation uint64) error
	// OnFailed is told once why Dir failed: the node follows the log no more, and
	// has to end. It must not block. May be nil.
	OnFailed func(error)
	Logger   *slog.Logger
}

// check refuses options with which a node cannot run.
func (o *Options) check() error {
	switch {
	case o.Self.ID == 0:
		return errors.New("cluster: node id is zero")
	case o.Self.Incarnation == 0:
		return errors.New("cluster: incarnation is zero")
	case o.Network == nil || o.RaftConns == nil || o.GossipConns == nil || o.Dial == nil || o.Caller == nil:
		return errors.New("cluster: network, listeners, dial function and caller are needed")
	case o.Machine == nil || o.NewMachine == nil:
		return errors.New("cluster: no machine")
	}
	if len(o.Self.Addr) > maxAddr {
		return fmt.Errorf("cluster: address %q is longer than %d bytes", o.Self.Addr, maxAddr)
	}
	host, _, err := net.SplitHostPort(o.Self.Addr)
	if err != nil {
		return fmt.Errorf("cluster: advertised address %q: %w", o.Self.Addr, err)
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		return fmt.Errorf("cluster: advertised address %q: want an IP address and port that other nodes can reach", o.Self.Addr)
	}
	return o.Timing.check()
}

// fill puts defaults into what may be left out.
func (o *Options) fill() {
	if o.Bind == "" {
		o.Bind = o.Self.Addr
	}
	if o.Memory == nil && o.Dir == "" {
		o.Memory = NewMemory()
	}
	if o.OnFailed == nil {
		o.OnFailed = func(error) {}
	}
	if o.Gate == nil {
		o.Gate = func(context.Context, string, []byte) error { return nil }
	}
	if o.Seeds == nil {
		o.Seeds = func() []string { return nil }
	}
	if o.Clock == nil {
		o.Clock = boottime
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Newcomer == nil {
		o.Newcomer = func() error { return nil }
	}
	if o.Info == nil {
		o.Info = func() Hints { return Hints{} }
	}
	if o.OnGeneration == nil {
		o.OnGeneration = func(uint64) error { return nil }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Timing.fill()
}
