package replica

import (
	"math/bits"
	"sync"
	"sync/atomic"

	"sheepdog"
)

// shardCount splits the partitions so that adopting a view in one waits only for
// the writes of that one.
const shardCount = 256

// shard is the gate of the partitions p with p % shardCount equal to its number.
//
// Writes hold the gate shared from before they are checked until they are
// applied, and are checked against the view that the shard has adopted; a view
// is adopted, and local replicas are dropped, with the gate held alone. Hence
// when a view is adopted every write admitted under an older one is finished,
// and every later one is checked against the newer view. All that the Server
// answers for a partition in revision R it answers after the shard has adopted
// R or newer, so the answer holds all that was ever accepted in older intervals
// (docs/protocol.md rules 1, 7 and 9).
//
// Gates are taken in ascending order of shards and before every other lock.
type shard struct {
	gate sync.RWMutex
	// view is the adopted view; stored with the gate held alone.
	view atomic.Pointer[sheepdog.View]

	// mu guards the maps; it is the innermost lock.
	mu sync.Mutex
	// untrusted has the intervals in which this node is a target that does not
	// act, made when a block is first touched.
	untrusted map[place]*interval
	// lost is when this node last ceased to act; dirty marks made in earlier
	// intervals are void.
	lost map[place]sheepdog.Revision

	_ [8]byte // so that each is on one line of the processor's cache
}

// place is one partition under one policy.
type place struct {
	policy    sheepdog.Policy
	partition sheepdog.Partition
}

func (sh *shard) init() {
	sh.untrusted = make(map[place]*interval)
	sh.lost = make(map[place]sheepdog.Revision)
}

func shardOf(p sheepdog.Partition) int { return int(p) % shardCount }

// adopt brings the shard to v, unless it has a newer view, after all writes
// admitted before are finished.
func (s *Server) adopt(i int, v *sheepdog.View) {
	sh := &s.shards[i]
	if old := sh.view.Load(); old != nil && old.Revision >= v.Revision {
		return
	}
	sh.gate.Lock()
	defer sh.gate.Unlock()
	s.adoptLocked(i, v)
}

func (s *Server) adoptLocked(i int, v *sheepdog.View) {
	sh := &s.shards[i]
	old := sh.view.Load()
	if old != nil && old.Revision >= v.Revision {
		return
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for policy, table := range v.Tables {
		var before sheepdog.Table
		if old != nil {
			before = old.Tables[policy]
		}
		for p := i; p < len(table); p += shardCount {
			if p < len(before) && (before[p] == table[p] || before[p].Since == table[p].Since) {
				continue
			}
			sh.enter(place{policy, sheepdog.Partition(p)}, table[p], s.cfg.Self, old == nil)
			if p < len(before) && before[p].IsWriter(s.cfg.Self) && !table[p].IsActing(s.cfg.Self) {
				raise(&s.ceased, uint64(table[p].Since))
			}
		}
	}
	sh.view.Store(v)
}

// enter begins a new interval of a partition.
func (sh *shard) enter(at place, pl *sheepdog.Placement, self sheepdog.NodeID, first bool) {
	delete(sh.untrusted, at)
	if !first && !pl.IsActing(self) {
		sh.lost[at] = pl.Since
	}
}

// raise makes a number at least n.
func raise(to *atomic.Uint64, n uint64) {
	for old := to.Load(); old < n && !to.CompareAndSwap(old, n); old = to.Load() {
	}
}

// drain waits until every write admitted before the call is finished.
func (s *Server) drain(v *sheepdog.View) {
	for i := range s.shards {
		s.shards[i].gate.Lock()
		s.adoptLocked(i, v)
		s.shards[i].gate.Unlock()
	}
}

// valid reports whether marks made in the interval born still count.
func (s *Server) valid(at place, born sheepdog.Revision) bool {
	sh := &s.shards[shardOf(at.partition)]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return born >= sh.lost[at]
}

// shardSet is a set of shards.
type shardSet [shardCount / 64]uint64

func (m *shardSet) add(i int) { m[i/64] |= 1 << (i % 64) }

func (m *shardSet) each(visit func(i int)) {
	for w, word := range m {
		for word != 0 {
			visit(w*64 + bits.TrailingZeros64(word))
			word &= word - 1
		}
	}
}

// enterShards takes the gates of a batch, each having adopted v or newer.
// Adoption comes first, so that no gate is held while another is drained.
func (s *Server) enterShards(set *shardSet, v *sheepdog.View) {
	set.each(func(i int) { s.adopt(i, v) })
	set.each(func(i int) { s.shards[i].gate.RLock() })
}

func (s *Server) leaveShards(set *shardSet) {
	set.each(func(i int) { s.shards[i].gate.RUnlock() })
}
