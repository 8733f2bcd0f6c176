package cluster

import (
	"sync"
	"time"

	"sheepdog"
	"sheepdog/cluster/state"
)

// patience tells how long to wait for the last word of a member that fell silent. It
// grows for members that were removed and came back at once: they lived, and were
// starved of their processor or their network, as they will be again. Every node
// keeps account, for any of them may lead next; nobody needs to agree, for whoever
// waits longer only removes later.
type patience struct {
	mu      sync.Mutex
	epoch   sheepdog.Epoch // the newest that was looked at
	members map[state.MemberRef]bool
	removed map[state.MemberRef]time.Duration // when, on this node's clock
	flaps   map[sheepdog.NodeID]flap
	total   uint64
}

// flap is how often a member was removed in vain, less what calm has undone since.
type flap struct {
	times int
	since time.Duration // when that was so
}

const (
	// cameBack is how soon after its removal a process is back that should have been
	// waited for. One that was stopped or unplugged for longer was rightly removed.
	cameBack = 3 * time.Second
	// calm is without a removal in vain; then one is forgotten.
	calm = 10 * time.Minute
	// maxFlaps bounds the patience, which doubles with each.
	maxFlaps = 3
)

func newPatience() *patience {
	return &patience{removed: make(map[state.MemberRef]time.Duration), flaps: make(map[sheepdog.NodeID]flap)}
}

// follow takes account of the epochs since the last call, and returns the members
// that have come back. What was removed and came back in between was not seen to
// come back soon.
func (p *patience) follow(history []state.EpochRecord, now time.Duration) (back []sheepdog.NodeID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(history) == 0 || history[len(history)-1].Epoch == p.epoch {
		return nil
	}
	last := history[len(history)-1]
	before := p.members
	p.epoch, p.members = last.Epoch, make(map[state.MemberRef]bool, len(last.Members))
	for _, m := range last.Members {
		ref := state.MemberRef{ID: m.ID, Incarnation: m.Incarnation}
		p.members[ref] = true
		if at, was := p.removed[ref]; was && now-at <= cameBack {
			p.count(ref.ID, now)
			back = append(back, ref.ID)
		}
	}
	for ref := range before {
		if !p.members[ref] {
			p.removed[ref] = now
		}
	}
	for ref, at := range p.removed {
		if now-at > cameBack || p.members[ref] {
			delete(p.removed, ref)
		}
	}
	return back
}

// count notes a removal in vain; p.mu is held.
func (p *patience) count(id sheepdog.NodeID, now time.Duration) {
	p.total++
	p.flaps[id] = flap{times: min(p.left(id, now)+1, maxFlaps), since: now}
}

// left is what calm has left of a member's flaps; p.mu is held.
func (p *patience) left(id sheepdog.NodeID, now time.Duration) int {
	f := p.flaps[id]
	return max(0, f.times-int((now-f.since)/calm))
}

// factor is how many times longer than usual a member is waited for.
func (p *patience) factor(id sheepdog.NodeID, now time.Duration) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return 1 << p.left(id, now)
}

// patienceLoop follows the epochs once the view lists this process: before, it may be
// going through those of long ago.
func (c *Cluster) patienceLoop() {
	for c.ctx.Err() == nil {
		s := c.pub.current.Load()
		if listed(s.view, c.selfRef()) {
			for _, id := range c.patience.follow(s.history, c.opts.Clock()) {
				c.opts.Logger.Warn("a member was removed and came back at once: its processor or its network is overloaded; it is given more time to answer",
					"node", id, "patience", c.patienceWith(id))
			}
		}
		select {
		case <-c.pub.changed(s.view):
		case <-c.ctx.Done():
		}
	}
}

// patienceWith is how long a member in doubt may take to confirm that it lives.
func (c *Cluster) patienceWith(id sheepdog.NodeID) time.Duration {
	t := c.timing(0)
	return max(t.Patience*time.Duration(c.Flapping(id)), t.Confirm)
}

// Flapping is how many times longer than usual a node is waited for, because it was
// removed and came back at once; 1 if it was not, or all has been calm since.
func (c *Cluster) Flapping(id sheepdog.NodeID) int { return c.patience.factor(id, c.opts.Clock()) }

// RemovedInVain counts the members that were removed and came back at once, as far as
// this process has followed.
func (c *Cluster) RemovedInVain() uint64 {
	c.patience.mu.Lock()
	defer c.patience.mu.Unlock()
	return c.patience.total
}
