package objectstore

import (
	"context"
	"sync"
	"time"

	"sheepdog"
)

// Writers are held back from easyLevel on, ever longer up to longHold for each call,
// and from tightLevel on until there is room. Level 1 is where all writers wait.
const (
	easyLevel  = 0.7
	tightLevel = 0.9
	longHold   = 20 * time.Millisecond
)

// shares says which families fill the log. One that has less than an even share of
// it never waits for room that another took: the others are held back before the
// log is full.
type shares struct {
	mu    sync.Mutex
	used  map[sheepdog.FamilyID]uint64 // blocks in live segments
	total uint64
	// open is what was charged and is not in used yet: the next is mostly alike.
	open struct {
		seg *segment
		f   sheepdog.FamilyID
		n   uint64
	}
}

// charge notes n blocks of a family in a segment.
func (s *shares) charge(seg *segment, f sheepdog.FamilyID, n uint64) {
	s.mu.Lock()
	if s.open.seg != seg || s.open.f != f {
		s.settle()
		s.open.seg, s.open.f = seg, f
	}
	s.open.n += n
	s.mu.Unlock()
}

// settle adds up what is open. The caller holds mu.
func (s *shares) settle() {
	seg, f, n := s.open.seg, s.open.f, s.open.n
	s.open.seg, s.open.n = nil, 0
	if n == 0 {
		return
	}
	if s.used == nil {
		s.used = make(map[sheepdog.FamilyID]uint64)
	}
	if seg.used == nil {
		seg.used = make(map[sheepdog.FamilyID]uint64)
	}
	s.used[f] += n
	seg.used[f] += n
	s.total += n
}

// release forgets what a segment had.
func (s *shares) release(seg *segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle()
	for f, n := range seg.used {
		if s.used[f] -= n; s.used[f] == 0 {
			delete(s.used, f)
		}
		s.total -= n
	}
	clear(seg.used)
}

// even reports whether a family has its even share, or more.
func (s *shares) even(f sheepdog.FamilyID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle()
	n := s.used[f]
	return n > 0 && n*uint64(len(s.used)) >= s.total
}

// level is how full the store is: of its log, of maps that the metadata store lacks,
// and of space that waits to be freed.
func (d *Disk) level() float64 {
	j := &d.journal
	usable := max(j.maxSegs-1, 1) // the last one is for structural records
	return max(float64(j.segments())/float64(usable), d.unsettled())
}

// unsettled is the part of level that only a destage of everything lowers.
func (d *Disk) unsettled() float64 {
	level := float64(d.dirtyBytes.Load()) / float64(d.maxDirtyBytes)
	if d.crowded(easyLevel) {
		level = max(level, d.ofBound(d.replaced.Load()))
	}
	return level
}

// holdFor is how long a call is held back at a level.
func holdFor(level float64) time.Duration {
	part := min(max((level-easyLevel)/(tightLevel-easyLevel), 0), 1)
	return time.Duration(part * part * float64(longHold))
}

// Crowded implements sheepdog.PacedEngine.
func (d *Disk) Crowded(f sheepdog.FamilyID) bool {
	return d.level() >= easyLevel && d.journal.shares.even(f)
}

// AwaitRoom implements sheepdog.PacedEngine. It ends also where waiting is in vain:
// the write then meets the error itself.
func (d *Disk) AwaitRoom(ctx context.Context, f sheepdog.FamilyID) {
	since := d.journal.ends()
	for !d.closing.Load() && d.journal.failed() == nil && d.Crowded(f) {
		level := d.level()
		if d.unsettled() >= easyLevel {
			d.wholly.Store(true)
		}
		d.kick()
		t := time.NewTimer(max(holdFor(level), time.Millisecond))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		if level < tightLevel || d.journal.failedSince(since) {
			return
		}
	}
}
