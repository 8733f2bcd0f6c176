package cluster

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// unrest is how many times longer than usual the leader, its followers and candidates
// wait for each other. It doubles while terms follow each other at once, as they do
// where processors are starved, and calm halves it. Every node finds out for itself:
// elections are safe with any time limits.
type unrest struct {
	mu    sync.Mutex
	term  uint64
	began time.Duration // on this node's clock
	brief int           // terms in a row that were over at once
	level int           // how often the time limits were doubled
	since time.Duration // when that was so
}

const (
	// soonOver times Timing.Heartbeat after its beginning a term is over whose leader
	// died, or was taken for dead, or was never elected.
	soonOver = 10
	// freeTerms in a row may be over at once before there is unrest: a leader may die soon
	// after another, and two candidates may get in each other's way.
	freeTerms = 2
	// maxDoublings of the time limits.
	maxDoublings = 3
)

// see looks at the term and reports whether unrest has grown.
func (u *unrest) see(term uint64, now, soon time.Duration) (grown bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if term == u.term {
		return false
	}
	u.brief++
	if u.term == 0 || now-u.began >= soon {
		u.brief = 0
	}
	u.term, u.began = term, now
	if u.brief <= freeTerms {
		return false
	}
	before := u.left(now)
	u.level, u.since = min(before+1, maxDoublings), now
	return u.level > before
}

// left is what calm has left; u.mu is held.
func (u *unrest) left(now time.Duration) int { return max(0, u.level-int((now-u.since)/calm)) }

// factor is 1 in calm times.
func (u *unrest) factor(now time.Duration) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return 1 << u.left(now)
}

// tune has Raft wait for heartbeats as long as suits. A leader sends them as often as
// ever: the library derives that from the same number.
func (c *consensus) tune() error {
	c.tuning.Lock()
	defer c.tuning.Unlock()
	times := time.Duration(c.unrest.factor(c.clock()))
	if c.raft.State() == raft.Leader {
		times = 1
	}
	conf := c.raft.ReloadableConfig()
	if conf.HeartbeatTimeout == times*c.timing.Heartbeat {
		return nil
	}
	conf.HeartbeatTimeout, conf.ElectionTimeout = times*c.timing.Heartbeat, times*c.timing.Election
	if err := c.raft.ReloadConfig(conf); err != nil {
		return fmt.Errorf("have raft wait %v for heartbeats: %w", conf.HeartbeatTimeout, err)
	}
	return nil
}

// followUnrest keeps Raft's time limits what they should be.
func (c *consensus) followUnrest(ctx context.Context) {
	tick := time.NewTicker(c.timing.Heartbeat)
	defer tick.Stop()
	for {
		now, term := c.clock(), c.raft.CurrentTerm()
		if c.unrest.see(term, now, soonOver*c.timing.Heartbeat) {
			c.log.Warn("elections follow each other at once: processors or the network are overloaded; nodes wait longer for each other",
				"term", term, "heartbeat", time.Duration(c.unrest.factor(now))*c.timing.Heartbeat)
		}
		if err := c.tune(); err != nil {
			c.log.Warn("time limits stay as they are", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// answersCount is for how long a leader counts an answer to a heartbeat; 0: until it
// asks again, as Raft has it.
func (c *consensus) answersCount() time.Duration {
	if times := c.unrest.factor(c.clock()); times > 1 {
		return time.Duration(times) * c.timing.LeaderLease
	}
	return 0
}

// Unrest is how many times longer than usual this node waits for a leader or, as
// leader, for others, because elections followed each other at once; 1 in calm times.
func (c *Cluster) Unrest() int {
	cons := c.consensus.Load()
	if cons == nil {
		return 1
	}
	return cons.unrest.factor(c.opts.Clock())
}
