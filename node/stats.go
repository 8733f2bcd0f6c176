package node

import (
	"sync/atomic"
	"time"

	"sheepdog/api"
	"sheepdog/recovery"
)

// stats counts what a node serves, since its start.
type stats struct {
	client counters // NBD and the control API
	peer   counters // replicas, for other nodes
}

// counters is of requests of one origin.
type counters struct {
	active                            atomic.Int64
	total, write, read, remove, flush atomic.Uint64
	writtenBytes, readBytes           atomic.Uint64
	served, spent                     atomic.Uint64 // guests' reads and writes answered, and the nanoseconds over them
}

// serve notes that a read or write of a guest was answered.
func (c *counters) serve(began time.Time) {
	c.served.Add(1)
	c.spent.Add(uint64(time.Since(began)))
}

// load is what recovery gives way to: what guests do at this node and, through
// others, with its replicas.
func (s *stats) load() recovery.Load {
	return recovery.Load{Requests: s.client.served.Load() + s.peer.served.Load(), Spent: time.Duration(s.client.spent.Load() + s.peer.spent.Load())}
}

// begin counts a request whose kind is counted by kind, which may be nil; the
// caller must call end.
func (c *counters) begin(kind *atomic.Uint64) {
	c.active.Add(1)
	c.total.Add(1)
	if kind != nil {
		kind.Add(1)
	}
}

// end counts n bytes, moved successfully, into moved, which may be nil.
func (c *counters) end(err error, moved *atomic.Uint64, n uint64) {
	c.active.Add(-1)
	if err == nil && moved != nil {
		moved.Add(n)
	}
}

func (c *counters) document() api.RequestStats {
	return api.RequestStats{Active: uint64(max(c.active.Load(), 0)), Total: c.total.Load(), Write: c.write.Load(), Read: c.read.Load(),
		Remove: c.remove.Load(), Flush: c.flush.Load(), WrittenBytes: c.writtenBytes.Load(), ReadBytes: c.readBytes.Load()}
}
