package node

import (
	"math/bits"
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

// load is what recovery gives way to: what guests do at this node and, through
// others, with its replicas.
func (s *stats) load() recovery.Load {
	var l recovery.Load
	for _, o := range []*op{&s.client.read, &s.client.write, &s.peer.read, &s.peer.write, &s.peer.remove} {
		n, spent := o.answered()
		l.Requests += n
		l.Spent += spent
	}
	return l
}

// counters is of requests of one origin.
type counters struct {
	active                            atomic.Int64
	read, write, remove, flush, other op
}

// op counts requests of one kind. A request touches the first fields and, mostly, the
// first of the buckets: what it costs is how many cache lines it wants.
type op struct {
	requests atomic.Uint64 // begun
	bytes    atomic.Uint64 // moved by those that succeeded
	nanos    atomic.Uint64 // over those in buckets, together
	errors   atomic.Uint64
	buckets  [latencyBuckets + 1]atomic.Uint64 // answered, by the time that took; the last has what took longer
}

// begin counts a request; the caller must call end.
func (c *counters) begin(o *op) {
	c.active.Add(1)
	o.requests.Add(1)
}

// end counts the outcome of a request that moved n bytes if it succeeded. One with the
// zero time is not timed.
func (c *counters) end(o *op, began time.Time, err error, n int) {
	if !began.IsZero() {
		o.time(began)
	}
	c.active.Add(-1)
	if err != nil {
		o.errors.Add(1)
	} else if n > 0 {
		o.bytes.Add(uint64(n))
	}
}

// serve counts a request that was answered at once.
func (o *op) serve(began time.Time, n int) {
	o.requests.Add(1)
	o.bytes.Add(uint64(n))
	o.time(began)
}

func (o *op) time(began time.Time) {
	took := time.Since(began)
	o.nanos.Add(uint64(took))
	o.buckets[bucketOf(took)].Add(1)
}

// answered counts the requests that were timed, and the time over them.
func (o *op) answered() (n uint64, spent time.Duration) {
	for i := range o.buckets {
		n += o.buckets[i].Load()
	}
	return n, time.Duration(o.nanos.Load())
}

// Bucket i of latencies is up to latencyBound(i), inclusive: 32 us, and twice as much
// for each after it, up to 8.4 s.
const (
	latencyFirst   = 5 // the logarithm of microseconds
	latencyBuckets = 19
)

func latencyBound(i int) time.Duration { return time.Microsecond << (latencyFirst + i) }

func bucketOf(took time.Duration) int {
	above := uint64(max(took-1, 0)) / uint64(time.Microsecond)
	return min(max(bits.Len64(above)-latencyFirst, 0), latencyBuckets)
}

func (c *counters) document() api.RequestStats {
	d := api.RequestStats{Active: uint64(max(c.active.Load(), 0)), Write: c.write.requests.Load(), Read: c.read.requests.Load(),
		Remove: c.remove.requests.Load(), Flush: c.flush.requests.Load(), WrittenBytes: c.write.bytes.Load(), ReadBytes: c.read.bytes.Load()}
	d.Total = d.Write + d.Read + d.Remove + d.Flush + c.other.requests.Load()
	return d
}
