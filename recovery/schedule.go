package recovery

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"sheepdog"
)

// schedule is what an Agent is working on. It belongs to the goroutine of Run.
type schedule struct {
	agent   *Agent
	wg      sync.WaitGroup
	results chan *run
	runs    map[*run]struct{}
	seen    *sheepdog.View
	asking  *lookout
	// settled are partitions whose move was committed, until a view shows it.
	settled map[Place]sheepdog.Revision
	// held are partitions that wait: after a failure, or for a node that may come
	// back.
	held map[Place]time.Time
}

// run is one group being worked on in its own goroutine.
type run struct {
	group   Group
	backs   bool // a backfill, else a reconciliation
	view    *sheepdog.View
	cancel  context.CancelFunc
	settled []Item
	err     error
}

func newSchedule(a *Agent) *schedule {
	return &schedule{agent: a, asking: newAsking(a.cfg.Self), results: make(chan *run), runs: make(map[*run]struct{}),
		settled: make(map[Place]sheepdog.Revision), held: make(map[Place]time.Time)}
}

// stop cancels everything and waits for it.
func (s *schedule) stop() {
	for r := range s.runs {
		r.cancel()
	}
	for len(s.runs) > 0 {
		delete(s.runs, <-s.results)
	}
	s.wg.Wait()
}

// step brings the work in line with the view and tells how long nothing but a
// new view or a finished run needs another step.
func (s *schedule) step(ctx context.Context, v *sheepdog.View, now time.Time) time.Duration {
	const idle = time.Hour
	if v == nil || !s.agent.listed(v) {
		s.cancel(func(*run) bool { return true })
		s.agent.progress.plan(new(Plan))
		return idle
	}
	s.notice(v, now)
	s.cancel(func(r *run) bool { return !r.stands(v) || r.backs && v.Config.RecoveryDisabled })
	plan := planFrom(s.asking, v, s.agent.cfg.Self, s.skip(now))
	s.agent.progress.plan(plan)
	s.start(ctx, v, plan.Reconcile, false)
	if !v.Config.RecoveryDisabled {
		s.start(ctx, v, plan.Backfill, true)
	}
	return s.next(now, idle)
}

// listed reports whether this process is a member of v.
func (a *Agent) listed(v *sheepdog.View) bool {
	m, ok := v.Member(a.cfg.Self)
	return ok && m.Incarnation == a.cfg.Incarnation
}

// notice takes account of what a view changed.
func (s *schedule) notice(v *sheepdog.View, now time.Time) {
	if s.seen == v {
		return
	}
	if delay := s.agent.delay(s.seen, v); delay > 0 {
		for _, at := range Substitutes(s.seen, v, s.agent.cfg.Self) {
			s.held[at] = now.Add(delay)
		}
	}
	maps.DeleteFunc(s.settled, func(at Place, since sheepdog.Revision) bool {
		pl, ok := v.Placement(at.Policy, at.Partition)
		return !ok || pl.Since != since
	})
	maps.DeleteFunc(s.held, func(at Place, until time.Time) bool {
		pl, ok := v.Placement(at.Policy, at.Partition)
		return !ok || !pl.IsWriter(s.agent.cfg.Self) || !until.After(now) || blocked(v, at.Policy, pl)
	})
	s.seen = v
}

// delay is the wait for the members of prev that next lacks.
func (a *Agent) delay(prev, next *sheepdog.View) time.Duration {
	times := 1
	if a.cfg.Hooks.Flapping != nil && prev != nil {
		for _, m := range prev.Members {
			if _, ok := next.Member(m.ID); !ok {
				times = max(times, a.cfg.Hooks.Flapping(m.ID))
			}
		}
	}
	return time.Duration(times) * a.cfg.Delay
}

// blocked reports whether writes to a partition wait for another replica: then
// there is no time to see whether a lost node comes back.
func blocked(v *sheepdog.View, policy sheepdog.Policy, pl *sheepdog.Placement) bool {
	live, _ := v.ActingMembers(pl)
	return len(live) < v.MinCopies(policy)
}

func (s *schedule) cancel(which func(*run) bool) {
	for r := range s.runs {
		if which(r) {
			r.cancel()
		}
	}
}

// stands reports whether a run may go on in v: its sources live on, and some of
// its partitions have not moved.
func (r *run) stands(v *sheepdog.View) bool {
	for _, id := range r.group.Sources {
		was, _ := r.view.Member(id)
		is, ok := v.Member(id)
		if !ok || is.Incarnation != was.Incarnation {
			return false
		}
	}
	for _, item := range r.group.Items {
		if pl, ok := v.Placement(r.group.Policy, item.Partition); ok && pl.Since == item.Since {
			return true
		}
	}
	return false
}

// skip leaves out what is being worked on, what is done, and what waits.
func (s *schedule) skip(now time.Time) func(Place, sheepdog.Revision) bool {
	return func(at Place, since sheepdog.Revision) bool {
		if s.settled[at] == since || s.busy(at, since) {
			return true
		}
		until, held := s.held[at]
		return held && until.After(now)
	}
}

// busy reports whether a run works on a partition in this interval.
func (s *schedule) busy(at Place, since sheepdog.Revision) bool {
	for r := range s.runs {
		if r.group.Policy != at.Policy {
			continue
		}
		i, ok := slices.BinarySearchFunc(r.group.Items, at.Partition, func(item Item, p sheepdog.Partition) int {
			return cmp.Compare(item.Partition, p)
		})
		if ok && r.group.Items[i].Since == since {
			return true
		}
	}
	return false
}

func (s *schedule) start(ctx context.Context, v *sheepdog.View, groups []Group, backs bool) {
	for _, g := range groups {
		if len(s.runs) >= maxRuns {
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		r := &run{group: g, backs: backs, view: v, cancel: cancel}
		s.runs[r] = struct{}{}
		s.wg.Go(func() {
			defer cancel()
			if backs {
				r.err = s.agent.backfill(ctx, r)
			} else {
				r.err = s.agent.reconcile(ctx, r)
			}
			s.results <- r
		})
	}
}

// finish takes the outcome of a run. What it did not settle waits a while
// before it is tried again, unless its interval has ended.
func (s *schedule) finish(r *run, now time.Time) {
	delete(s.runs, r)
	for _, item := range r.settled {
		s.settled[Place{r.group.Policy, item.Partition}] = item.Since
	}
	if r.err != nil {
		s.agent.cfg.Log.Warn("recovery interrupted", "policy", r.group.Policy, "sources", r.group.Sources, "err", r.err)
	}
	for _, item := range r.group.Items {
		at := Place{r.group.Policy, item.Partition}
		pl, ok := s.agent.cfg.Views.View().Placement(at.Policy, at.Partition)
		if ok && pl.Since == item.Since && s.settled[at] != item.Since {
			s.held[at] = now.Add(s.agent.cfg.Retry)
		}
	}
}

// next is the time until the first held partition may go on.
func (s *schedule) next(now time.Time, idle time.Duration) time.Duration {
	wait := idle
	for _, until := range s.held {
		if d := until.Sub(now); d > 0 {
			wait = min(wait, d)
		}
	}
	return wait
}
