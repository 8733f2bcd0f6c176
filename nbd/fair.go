package nbd

import (
	"sync"
	"sync/atomic"
	"time"
)

// Exports that are in use at a time share what a server has in flight, so that one
// that asks for much does not make another that asks for little wait behind it. An
// export alone has the limits of its connections.
const (
	// fairRequests and fairBytes of payload are for all busy exports together.
	fairRequests = 32
	fairBytes    = 4 << 20
	// besideModest is instead of fairRequests while one of them is modest, with
	// modestRequests or fewer in flight: it gains nothing from a share that is as
	// large as the others', only from fewer requests before its own.
	besideModest   = 16
	modestRequests = 2
	// leastRequests is what each connection has anyhow. So few in flight cost no
	// look at the others.
	leastRequests = 4
	// busyFor is how long an export counts as busy after a request.
	busyFor = 50 * time.Millisecond
	// recount is how often the busy exports are counted.
	recount = 5 * time.Millisecond
)

// fair knows which exports are busy.
type fair struct {
	now   func() time.Time
	start time.Time // before which nothing was used

	counted atomic.Int64 // when, by elapsed
	busy    atomic.Int64 // exports
	modest  atomic.Int64 // of those

	mu     sync.Mutex
	shares map[string]*share
}

// share is one export's part. All its connections have the same.
type share struct {
	fair  *fair
	name  string
	conns int          // guarded by fair.mu
	used  atomic.Int64 // the latest request, by elapsed
	most  atomic.Int64 // requests in flight on a connection, since the latest count
	among atomic.Int64 // conns, for those without the lock
}

func newFair(now func() time.Time) *fair {
	return &fair{now: now, start: now().Add(-time.Hour), shares: make(map[string]*share)}
}

// elapsed is a time in nanoseconds that no change of the wall clock touches.
func (f *fair) elapsed() int64 { return int64(f.now().Sub(f.start)) }

// join enters a connection of an export; leave ends that.
func (f *fair) join(name string) *share {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.shares[name]
	if s == nil {
		s = &share{fair: f, name: name}
		f.shares[name] = s
	}
	s.conns++
	s.among.Store(int64(s.conns))
	return s
}

func (s *share) leave() {
	f := s.fair
	f.mu.Lock()
	defer f.mu.Unlock()
	s.conns--
	s.among.Store(int64(s.conns))
	if s.conns == 0 {
		delete(f.shares, s.name)
	}
}

// full notes a request and reports whether a connection of the export, with so much
// in flight, has to wait for its own requests first, because others are busy.
func (s *share) full(requests int, bytes int64) bool {
	now := s.fair.elapsed()
	s.used.Store(now)
	if n := int64(requests) + 1; n > s.most.Load() {
		s.most.Store(n)
	}
	if requests < leastRequests && bytes < fairBytes/2 {
		return false
	}
	busy := s.fair.count(now)
	if busy <= 1 {
		return false
	}
	total := int64(fairRequests)
	if s.fair.modest.Load() > 0 {
		total = besideModest
	}
	parts := busy * max(s.among.Load(), 1)
	return int64(requests) >= max(total/parts, leastRequests) || requests > 0 && bytes >= fairBytes/parts
}

// count tells how many exports are busy, or were a moment ago.
func (f *fair) count(now int64) int64 {
	then := f.counted.Load()
	if now-then < int64(recount) || !f.counted.CompareAndSwap(then, now) {
		return f.busy.Load()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	busy, modest := int64(0), int64(0)
	for _, s := range f.shares {
		most := s.most.Swap(0)
		if now-s.used.Load() >= int64(busyFor) {
			continue
		}
		if busy++; most <= modestRequests {
			modest++
		}
	}
	f.busy.Store(busy)
	f.modest.Store(modest)
	return busy
}
