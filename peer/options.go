package peer

import (
	"log/slog"
	"time"

	"sheepdog"
)

// Options is what one node says of itself to its peers, and the times and
// limits of its connections. Zero values mean the defaults.
type Options struct {
	Node        sheepdog.NodeID
	Incarnation sheepdog.Incarnation
	// Cluster is the id of the node's cluster, zero while it has none. It is
	// asked at every connection and request: it changes when the cluster is formatted
	// or founded anew.
	Cluster func() sheepdog.ClusterID

	Heartbeat        time.Duration // how often an idle connection says something; 500 ms
	DeadAfter        time.Duration // silence after which a peer is given up; 2 s
	StallAfter       time.Duration // how long a peer may leave our bytes unread; 10 s
	HandshakeTimeout time.Duration // for dialling and the greeting; 2 s
	MinBackoff       time.Duration // between failed dials; 50 ms, doubling up to
	MaxBackoff       time.Duration // 1 s
	MaxSessions      int           // connections that a server accepts; 4096

	// OnBroken is told of every connection that was refused or broke, but not of
	// those that this node closed. It must not block.
	OnBroken func(*BrokenError)
	Logger   *slog.Logger
}

const (
	// bulkSize is from how many bytes on a request goes over the bulk
	// connection, and its bytes are not copied before they are sent.
	bulkSize = 64 << 10
	// maxQueued bounds the bytes waiting to be sent on a connection; one frame
	// may exceed it.
	maxQueued = 8 << 20
	// maxWaiting bounds the requests that wait for a connection to be made.
	maxWaiting = 1024
	// idleTicks is after how many heartbeats without use the connections to an
	// address that is not known as a node are closed.
	idleTicks = 60
	// meshNodes is how many nodes and addresses a node keeps idle connections to:
	// those tell at once that a process is gone. With more of them, which all talk to
	// each other once and then to few, heartbeats would be most of what is sent; then
	// idle connections are closed as above.
	meshNodes = 16
)

func (o Options) withDefaults() Options {
	setDefault(&o.Heartbeat, 500*time.Millisecond)
	setDefault(&o.DeadAfter, 2*time.Second)
	setDefault(&o.StallAfter, 10*time.Second)
	setDefault(&o.HandshakeTimeout, 2*time.Second)
	setDefault(&o.MinBackoff, 50*time.Millisecond)
	setDefault(&o.MaxBackoff, time.Second)
	setDefault(&o.MaxSessions, 4096)
	if o.Cluster == nil {
		o.Cluster = func() sheepdog.ClusterID { return sheepdog.ClusterID{} }
	}
	if o.OnBroken == nil {
		o.OnBroken = func(*BrokenError) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

func setDefault[T time.Duration | int](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// ticks is how many heartbeat periods d lasts, at least two: the first may end
// at any moment.
func (o *Options) ticks(d time.Duration) int {
	return max(int((d+o.Heartbeat-1)/o.Heartbeat), 2)
}
