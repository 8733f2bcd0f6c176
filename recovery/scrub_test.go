package recovery

import (
	"slices"
	"testing"
	"time"

	"sheepdog"
	"sheepdog/replica/replicatest"
)

// scrubbed is a cluster of three equal nodes with faults of every kind, in
// different slices.
func scrubbed(t *testing.T, edit func(*Config)) *cluster {
	c := newCluster(t, replicatest.NewView(10, nodes(1, 2, 3), nodes(1, 2, 3), nodes(1, 2, 3)), edit)
	for i := range 8 {
		for _, id := range nodes(1, 2, 3) {
			c.nodes[id].agent.scrub.state.Slices = 8
			if id != 2 || i != 1 {
				c.put(id, object(i), top, 1, 2, 1)
			}
		}
	}
	c.nodes[3].engine.Rot(object(2), top, 1)
	c.put(1, object(3), top, 1, 2, 5)
	return c
}

// In one period every object is verified and compared, by one node, and what is
// wrong is healed without anybody reading it.
func TestScrubHealsEverythingOnce(t *testing.T) {
	c := scrubbed(t, func(cfg *Config) { cfg.ScrubEvery = 200 * time.Millisecond })
	c.run(func() bool { return !c.nodes[1].agent.Scrub().Completed.IsZero() }, 1, 2, 3)
	c.sameAs(1, 2)
	c.sameAs(1, 3)
	got := c.nodes[1].agent.Scrub()
	if got.Healed != 4 || got.Missing != 1 || got.Bad != 1 || got.Differing != 2 || got.Unrepaired != 0 || got.Objects < 24 {
		t.Errorf("the first node of all partitions found %+v", got.Summary)
	}
	for _, id := range nodes(2, 3) {
		if s := c.nodes[id].agent.Scrub(); s.Objects != 0 {
			t.Errorf("node %d checked %d replicas that are not its to check", id, s.Objects)
		}
	}
}

// A restarted node goes on where it was; after a long stop it does not do
// everything at once.
func TestScrubGoesOnAfterARestart(t *testing.T) {
	var agent *Agent
	c := scrubbed(t, func(cfg *Config) { cfg.ScrubEvery = time.Hour })
	now := time.Unix(1000000, 0)
	restart := func() *scrubber {
		agent = New(c.nodes[1].agent.cfg)
		agent.scrub.now = func() time.Time { return now }
		agent.scrub.load()
		return agent.scrub
	}
	s := restart()
	for range 100 {
		now = now.Add(s.interval())
		s.advance()
	}
	due := s.state.Next.Truncate(time.Second)
	if s = restart(); s.state.Slice != 100 || !s.state.Next.Equal(due) {
		t.Errorf("after a restart slice %d is due at %v, want 100 at %v", s.state.Slice, s.state.Next, due)
	}
	now = now.Add(30 * 24 * time.Hour)
	s = restart()
	s.advance()
	if late := now.Sub(s.state.Next); late > s.interval() {
		t.Errorf("after a month the next slice is %v late: slices would come all at once", late)
	}
	now = now.Add(-10 * 365 * 24 * time.Hour)
	if wait := restart().state.Next.Sub(now); wait > s.interval() {
		t.Errorf("after the clock went back by years the scrub waits for %v", wait)
	}
}

// The scrub waits while something is to be recovered, and goes on after it.
func TestScrubWaitsForRecovery(t *testing.T) {
	c := scrubbed(t, func(cfg *Config) { cfg.ScrubEvery = 100 * time.Millisecond })
	v := c.views.View()
	c.step(sheepdog.Placement{Acting: nodes(1, 2), Target: nodes(1, 2, 3)})
	if complete(c.views.View()) || !complete(v) {
		t.Fatal("which view is complete is not seen")
	}
	end := time.Now().Add(300 * time.Millisecond)
	c.run(func() bool { return time.Now().After(end) }, 1)
	if s := c.nodes[1].agent.Scrub(); s.Objects != 0 {
		t.Errorf("%d replicas were checked while node 3 was to be filled", s.Objects)
	}
	c.run(func() bool { return !c.nodes[1].agent.Scrub().Completed.IsZero() }, 1, 3)
	if !slices.Equal(c.dump(1), c.dump(2)) {
		t.Error("nothing was healed after recovery")
	}
}

func TestLimiter(t *testing.T) {
	l := &limiter{rate: 1 << 20}
	began := time.Now()
	for range 4 {
		if err := l.wait(t.Context(), 1<<16); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took < 187*time.Millisecond {
		t.Errorf("256 KiB passed in %v at 1 MiB a second, the last 64 KiB not counted", took)
	}
}
