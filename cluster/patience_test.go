package cluster

import (
	"testing"
	"time"

	"sheepdog"
	"sheepdog/cluster/state"
)

// Bug: members that are silent for two to four seconds again and again, as a process
// with little of a processor is, were removed and came back each time.
func TestStarvedMembersDoNotFlap(t *testing.T) {
	for _, d := range []time.Duration{2500 * time.Millisecond, 4 * time.Second} {
		t.Run(d.String(), func(t *testing.T) {
			simulate(t, func(w *world) {
				w.formatted(4)
				w.net.giveUp = 500 * time.Millisecond
				l := w.leader()
				epoch := l.epoch()
				for range 8 {
					for _, n := range w.besides(l) {
						w.net.starve(n.self.Addr, d)
						time.Sleep(d + 2*time.Second)
					}
				}
				if w.leader() != l {
					t.Fatal("the leader changed: this test does not play any more")
				}
				// Removed and back are two epochs.
				if got, most := l.epoch()-epoch, sheepdog.Epoch(3*2*maxFlaps); got > most {
					t.Errorf("%d epochs, at most %d until three members are waited for", got, most)
				}
				w.settle()
			})
		})
	}
}

// Who is waited for longer is forgotten when all is calm.
func TestPatienceEnds(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(4)
		victim := w.follower()
		for range 4 {
			w.net.starve(victim.self.Addr, 2500*time.Millisecond)
			time.Sleep(5 * time.Second)
		}
		l := w.leader()
		if l.Flapping(victim.self.ID) == 1 {
			t.Fatal("nobody was removed in vain: this test does not play any more")
		}
		l.patience.mu.Lock()
		f := l.patience.flaps[victim.self.ID]
		f.since -= maxFlaps * calm // to sleep for as long takes long, too
		l.patience.flaps[victim.self.ID] = f
		l.patience.mu.Unlock()
		w.net.silence(victim.self.Addr, true)
		if took := w.eventually(10*time.Second, "removed", func() bool { return len(l.members()) == 3 }); took > 2*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// A process that is killed is known by its port: patience does not hold that up.
func TestPatienceDoesNotHoldUpTheRemovalOfTheDead(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(4)
		victim, l := w.follower(), w.leader()
		for range maxFlaps {
			l.patience.mu.Lock()
			l.patience.count(victim.self.ID, l.opts.Clock())
			l.patience.mu.Unlock()
		}
		victim.kill()
		if took := w.eventually(10*time.Second, "removed", func() bool { return len(l.members()) == 3 }); took > time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestPatience(t *testing.T) {
	p := newPatience()
	epoch := sheepdog.Epoch(0)
	at := func(now time.Duration, incarnations ...sheepdog.Incarnation) {
		epoch++
		r := state.EpochRecord{Epoch: epoch}
		for i, inc := range incarnations {
			if inc != 0 {
				r.Members = append(r.Members, sheepdog.Member{ID: sheepdog.NodeID(i + 1), Incarnation: inc})
			}
		}
		p.follow([]state.EpochRecord{r}, now)
	}
	want := func(now time.Duration, factor int, why string) {
		t.Helper()
		if got := p.factor(2, now); got != factor {
			t.Errorf("%d times the patience, want %d: %s", got, factor, why)
		}
	}
	now := time.Hour
	at(now, 1, 1)
	at(now, 1)
	at(now+cameBack+1, 1, 1)
	want(now, 1, "it was away for long")
	at(now, 1)
	at(now+time.Second, 1, 2)
	want(now, 1, "it was started anew")
	for i := range 5 {
		now += time.Minute
		at(now, 1)
		at(now+time.Second, 1, 2)
		want(now+time.Second, min(2<<i, 1<<maxFlaps), "it came back at once")
	}
	want(now+time.Second+calm, 4, "one calm time passed")
	want(now+time.Second+9*calm, 1, "all was calm")
	if p.total != 5 {
		t.Errorf("%d removals in vain", p.total)
	}
}
