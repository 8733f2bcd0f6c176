package cluster

import (
	"testing"
	"time"
)

// Bug: nodes that stand still for most of each second, as those of a starved cluster
// do, elected another leader every second or two without end.
func TestStarvedClusterKeepsItsLeader(t *testing.T) {
	for _, d := range []time.Duration{600 * time.Millisecond, 950 * time.Millisecond} {
		t.Run(d.String(), func(t *testing.T) {
			simulate(t, func(w *world) {
				w.formatted(3)
				term := func() uint64 { return w.nodes[1].consensus.Load().raft.CurrentTerm() }
				starve := func(seconds int) (terms uint64) {
					before := term()
					for range seconds {
						for _, n := range w.up() {
							w.net.starve(n.self.Addr, d)
							time.Sleep(time.Second / 3)
						}
					}
					return term() - before
				}
				t.Logf("%d terms in the first minute", starve(60))
				if got := starve(100); got > 15 {
					t.Errorf("%d terms in 100 seconds, at most 15 once nodes wait longer", got)
				}
				w.settle()
			})
		})
	}
}

// In calm times a silent leader is replaced as soon as ever, however long ago there
// was unrest, and whoever leads sends heartbeats as often as ever.
func TestUnrestEnds(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(3)
		for _, n := range w.up() {
			n.consensus.Load().unrest.stir(n.opts.Clock())
		}
		time.Sleep(time.Second)
		for _, n := range w.up() {
			want := n.opts.Timing.Heartbeat
			if n.office.Load() == nil {
				want <<= maxDoublings
			}
			if got := n.consensus.Load().raft.ReloadableConfig().HeartbeatTimeout; got != want {
				t.Errorf("node %d waits %v for heartbeats, want %v", n.n, got, want)
			}
		}
		for _, n := range w.up() {
			n.consensus.Load().unrest.age(maxDoublings * calm) // to sleep for as long takes long, too
		}
		time.Sleep(time.Second)
		l := w.leader()
		w.net.silence(l.self.Addr, true)
		if took := w.eventually(10*time.Second, "another leads", func() bool { return w.leaderBesides(l) != nil }); took > 1500*time.Millisecond {
			t.Errorf("took %v", took)
		}
		w.net.silence(l.self.Addr, false)
		w.settle()
	})
}

// A leader that is cut off steps down in times of unrest as well.
func TestUnrestDoesNotKeepALeaderThatIsCutOff(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(3)
		l := w.leader()
		l.consensus.Load().unrest.stir(l.opts.Clock())
		time.Sleep(time.Second)
		w.net.silence(l.self.Addr, true)
		w.eventually(l.opts.Timing.LeaderLease<<(maxDoublings+1), "it steps down", func() bool { return l.office.Load() == nil })
		w.eventually(10*time.Second, "another leads", func() bool { return w.leaderBesides(l) != nil })
		w.net.silence(l.self.Addr, false)
		w.settle()
	})
}

func TestUnrest(t *testing.T) {
	var u unrest
	now := time.Hour
	soon := 5 * time.Second
	want := func(at time.Duration, factor int, why string) {
		t.Helper()
		if got := u.factor(at); got != factor {
			t.Errorf("%d times the patience, want %d: %s", got, factor, why)
		}
	}
	u.see(2, now, soon)
	u.see(2, now, soon)
	want(now, 1, "the first leader")
	u.see(3, now+soon, soon)
	want(now+soon, 1, "later")
	for i, factor := range []int{1, 1, 2, 4, 8, 8} {
		now += soon - 1
		u.see(uint64(4+i), now+soon, soon)
		want(now+soon, factor, "at once")
	}
	want(now+soon+calm, 4, "one calm time")
	want(now+soon+9*calm, 1, "calm")
	u = unrest{}
	for term := uint64(1); term < 20; term += 2 {
		u.see(term, now, soon)
		u.see(term+1, now+1, soon)
		now += time.Minute
	}
	want(now, 1, "one election in a minute, of two tries")
}

// leaderBesides is who leads but for one.
func (w *world) leaderBesides(one *simNode) *simNode {
	for _, n := range w.besides(one) {
		if n.office.Load() != nil {
			return n
		}
	}
	return nil
}

// stir makes unrest as great as it gets.
func (u *unrest) stir(now time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.level, u.since = maxDoublings, now
}

// age has all been calm for so long.
func (u *unrest) age(d time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.since -= d
}
