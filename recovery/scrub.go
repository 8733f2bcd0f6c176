package recovery

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"sheepdog"
	"sheepdog/internal/pause"
)

// The scrub reads, verifies and compares all replicas in the background, each
// partition by the first of its live acting nodes, a slice of the partitions at
// a time, so that in one period every object had its turn. It remembers where it
// is over restarts. It stands back while anything is recovering and, up to a
// slice's time, while guests are busy here, and it never reads faster than its
// rate. What it finds it heals, as a check does.
const (
	// DefaultScrubEvery is the period in which every object is checked once.
	DefaultScrubEvery = 14 * 24 * time.Hour
	scrubSlices       = 256
	// scrubRate bounds what a scrub reads, in bytes a second of one replica.
	scrubRate = 32 << 20
	// BusyRate is from how many guests' requests a second what need not be done now
	// waits, or takes its time.
	BusyRate  = 200
	scrubLook = 10 * time.Second // between looks whether the node is free
	scrubFact = "scrub"          // where the store keeps the state
)

// ScrubState is how far the scrub of one node is, and what it found since the
// node was started.
type ScrubState struct {
	Every     time.Duration // negative: off
	Slice     int           // the next one, of Slices
	Slices    int
	Next      time.Time // when that is due
	Completed time.Time // when all slices had been checked last; zero: never yet
	Summary
}

type scrubber struct {
	*Agent
	now func() time.Time

	mu    sync.Mutex
	state ScrubState
}

func newScrubber(a *Agent) *scrubber {
	return &scrubber{Agent: a, now: time.Now, state: ScrubState{Every: a.cfg.ScrubEvery, Slices: scrubSlices}}
}

// Scrub tells how far the background check is.
func (a *Agent) Scrub() ScrubState {
	a.scrub.mu.Lock()
	defer a.scrub.mu.Unlock()
	return a.scrub.state
}

// run works until the context ends.
func (s *scrubber) run(ctx context.Context) {
	if s.cfg.ScrubEvery < 0 {
		return
	}
	s.load()
	for {
		at := s.Agent.Scrub()
		if pause.For(ctx, at.Next.Sub(s.now())) != nil || s.awaitFree(ctx, at.Next) != nil {
			return
		}
		if err := s.slice(ctx, at.Slice); err != nil {
			if ctx.Err() != nil {
				return
			}
			s.cfg.Log.Warn("scrub was interrupted and goes on later", "slice", at.Slice, "err", err)
			if pause.For(ctx, scrubLook) != nil {
				return
			}
			continue
		}
		s.advance()
	}
}

// interval is the time between two slices.
func (s *scrubber) interval() time.Duration { return s.cfg.ScrubEvery / time.Duration(s.state.Slices) }

// load goes on where an earlier life was: next slice 8 | its time 8 | time of
// completion 8, as Unix seconds.
func (s *scrubber) load() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Next = s.now().Add(s.interval())
	b, err := s.cfg.Store.Get(scrubFact)
	if err != nil || len(b) != 24 {
		return // the scrub begins anew
	}
	s.state.Slice = int(binary.LittleEndian.Uint64(b) % uint64(s.state.Slices))
	// A clock that was wrong, or will be, must not put it off for years: from now on
	// the wait is by a clock that does not jump.
	if wait := unix(b[8:]).Sub(s.now()); wait < s.interval() {
		s.state.Next = s.now().Add(wait)
	}
	s.state.Completed = unix(b[16:])
}

func unix(b []byte) time.Time {
	n := int64(binary.LittleEndian.Uint64(b))
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(n, 0)
}

// advance notes that a slice is done.
func (s *scrubber) advance() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	s.state.Slice = (s.state.Slice + 1) % s.state.Slices
	// After a long stop slices do not come all at once.
	s.state.Next = s.state.Next.Add(s.interval())
	if late := now.Add(-s.interval()); s.state.Next.Before(late) {
		s.state.Next = late
	}
	var completed int64
	if s.state.Slice == 0 {
		s.state.Completed = now
	}
	if !s.state.Completed.IsZero() {
		completed = s.state.Completed.Unix()
	}
	b := binary.LittleEndian.AppendUint64(nil, uint64(s.state.Slice))
	b = binary.LittleEndian.AppendUint64(b, uint64(s.state.Next.Unix()))
	b = binary.LittleEndian.AppendUint64(b, uint64(completed))
	if err := s.cfg.Store.Put(scrubFact, b); err != nil {
		s.cfg.Log.Warn("how far the scrub is could not be noted", "err", err)
	}
}

// awaitFree waits while the cluster recovers, and while guests are busy, but for
// them not longer than a slice may take.
func (s *scrubber) awaitFree(ctx context.Context, due time.Time) error {
	look := min(scrubLook, s.interval())
	for {
		v := s.cfg.Views.View()
		rate, _ := s.pace.Busy()
		if v != nil && complete(v) && (rate < BusyRate || s.now().Sub(due) > s.interval()) {
			return nil
		}
		if err := pause.For(ctx, max(look, time.Millisecond)); err != nil {
			return err
		}
	}
}

// complete reports whether nothing is to be recovered anywhere.
func complete(v *sheepdog.View) bool {
	for _, table := range v.Tables {
		var last *sheepdog.Placement // rows are shared
		for _, pl := range table {
			if pl != last && !pl.Complete() {
				return false
			}
			last = pl
		}
	}
	return true
}

// slice checks those partitions of a slice that are this node's to check.
func (s *scrubber) slice(ctx context.Context, n int) error {
	v := s.cfg.Views.View()
	if v == nil {
		return sheepdog.ErrNotFormatted
	}
	size := sheepdog.Partitions / s.state.Slices // which do not change
	for policy := range v.Tables {
		var mine []sheepdog.Partition
		for p := n * size; p < (n+1)*size; p++ {
			pl, ok := v.Placement(policy, sheepdog.Partition(p))
			if !ok {
				continue
			}
			if ids := liveActing(v, pl); len(ids) > 0 && ids[0] == s.cfg.Self {
				mine = append(mine, sheepdog.Partition(p))
			}
		}
		if len(mine) == 0 {
			continue
		}
		sum, err := s.checkPaced(ctx, CheckRequest{Policy: policy, Partitions: mine}, scrubRate)
		s.count(sum)
		if err != nil {
			return err
		}
	}
	if s.cfg.ScrubMore == nil {
		return nil
	}
	rate := &limiter{rate: scrubRate}
	sum, err := s.cfg.ScrubMore(ctx, func(p sheepdog.Partition) bool { return int(p)/size == n }, rate.wait)
	s.count(sum)
	return err
}

// count adds what a slice found, and tells of what is not as it should be.
func (s *scrubber) count(sum Summary) {
	s.mu.Lock()
	s.state.add(sum)
	s.mu.Unlock()
	if sum.Healed+sum.Unrepaired > 0 {
		s.cfg.Log.Warn("scrub found faulty blocks", "missing", sum.Missing, "bad", sum.Bad, "differing", sum.Differing,
			"healed", sum.Healed, "lost", sum.Lost, "unrepaired", sum.Unrepaired)
	}
}

func (s *Summary) add(t Summary) {
	s.Objects += t.Objects
	s.Blocks += t.Blocks
	s.Missing += t.Missing
	s.Bad += t.Bad
	s.Differing += t.Differing
	s.Healed += t.Healed
	s.Lost += t.Lost
	s.Unrepaired += t.Unrepaired
	s.Skipped += t.Skipped
}

// limiter lets so many bytes a second pass, with no burst to speak of; nil lets
// everything pass.
type limiter struct {
	rate uint64

	mu   sync.Mutex
	free time.Time // when what was let pass is through
}

// wait returns when n bytes may pass.
func (l *limiter) wait(ctx context.Context, n uint64) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	now := time.Now()
	if l.free.Before(now) {
		l.free = now
	}
	at := l.free
	l.free = l.free.Add(time.Duration(float64(n) / float64(l.rate) * float64(time.Second)))
	l.mu.Unlock()
	return pause.For(ctx, at.Sub(now))
}
