package gateway

import (
	"errors"
	"sync"
	"time"

	"sheepdog"
)

// stallLogEvery is how often the log repeats that writes wait for space.
const stallLogEvery = 30 * time.Second

// stalls are the writes that wait because a store has no space for them.
type stalls struct {
	mu       sync.Mutex
	families map[sheepdog.FamilyID]int
	total    int
	since    time.Time // of the first of those that wait now
	logged   time.Time
	why      error
}

// Stalled describes the writes of this gateway that wait for space.
type Stalled struct {
	Writes int
	Since  time.Time // when the first of them began to wait
	Why    error     // what a replica answered last
}

// Stalled tells of the writes that wait for space; Writes is 0 if none does.
func (g *Gateway) Stalled() Stalled {
	s := &g.stalls
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stalled{Writes: s.total, Since: s.since, Why: s.why}
}

// WaitsForSpace is why a write of the family waits for space; nil if none does.
// It wraps sheepdog.ErrNoSpace.
func (g *Gateway) WaitsForSpace(family sheepdog.FamilyID) error {
	s := &g.stalls
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.families[family] == 0 {
		return nil
	}
	return s.why
}

// stall is one write that may come to wait for space.
type stall struct {
	g      *Gateway
	family sheepdog.FamilyID
	waits  bool
}

// met notes the outcome of an attempt.
func (w *stall) met(err error) {
	if err == nil || !errors.Is(err, sheepdog.ErrNoSpace) {
		w.ended() // it waits for something else, or for nothing
		return
	}
	now, s := time.Now(), &w.g.stalls
	s.mu.Lock()
	s.why = err
	if !w.waits {
		w.waits = true
		if s.families == nil {
			s.families = make(map[sheepdog.FamilyID]int)
		}
		s.families[w.family]++
		if s.total++; s.total == 1 {
			s.since = now
		}
	}
	tell := now.Sub(s.logged) >= stallLogEvery
	if tell {
		s.logged = now
	}
	writes, waited := s.total, now.Sub(s.since)
	s.mu.Unlock()
	if tell {
		w.g.log.Error("writes wait for space; delete VDIs or snapshots, or add nodes or disks",
			"writes", writes, "waited", waited.Round(time.Second), "err", err)
	}
}

// ended takes the write off the list; more than once does no harm.
func (w *stall) ended() {
	if !w.waits {
		return
	}
	w.waits = false
	s := &w.g.stalls
	s.mu.Lock()
	if s.families[w.family]--; s.families[w.family] == 0 {
		delete(s.families, w.family)
	}
	s.total--
	over := s.total == 0
	waited := time.Since(s.since)
	if over {
		s.logged = time.Time{}
	}
	s.mu.Unlock()
	if over {
		w.g.log.Info("no write waits for space any more", "waited", waited.Round(time.Millisecond))
	}
}
