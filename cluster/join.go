package cluster

import (
	"math/rand/v2"
	"time"
)

// Bounds of the attempts to find other nodes.
const (
	joinFirst  = 200 * time.Millisecond
	joinMost   = 3 * time.Second
	maxTargets = 16 // addresses tried in one round
)

// joinLoop keeps gossip together: a node that is alone tries its seeds and
// whatever addresses the committed view and Raft's configuration have, more and
// more slowly; one that has company looks now and then for members that gossip
// has lost, because memberlist forgets nodes after a long outage.
func (c *Cluster) joinLoop() {
	pause := joinFirst
	for c.ctx.Err() == nil {
		targets := c.joinTargets()
		if err := c.gossip.join(targets); err != nil {
			c.opts.Logger.Debug("found nobody in gossip", "addrs", targets, "err", err)
		}
		c.looked()
		switch have := c.company(); {
		case len(have) > 1:
			c.wait(nil, jitter(c.opts.Timing.Rejoin))
			pause = joinFirst
		default:
			c.wait(nil, jitter(pause))
			pause = min(2*pause, joinMost)
		}
	}
}

// looked notes that every known address has been tried once.
func (c *Cluster) looked() { c.lookedOnce.Do(func() { close(c.lookedDone) }) }

// Looked is closed once the node has tried every address that it knew at its
// start: those that are there know it now.
func (c *Cluster) Looked() <-chan struct{} { return c.lookedDone }

// company are the addresses of this node and of those that gossip has alive.
func (c *Cluster) company() map[string]bool {
	have := map[string]bool{c.opts.Self.Addr: true}
	for _, g := range c.gossip.members() {
		if g.State == GossipAlive && g.ID != c.opts.Self.ID {
			have[g.Addr] = true
		}
	}
	return have
}

// joinTargets are addresses of nodes that gossip does not have alive.
func (c *Cluster) joinTargets() (addrs []string) {
	have := c.company()
	add := func(addr string) {
		if !have[addr] {
			have[addr] = true
			addrs = append(addrs, addr)
		}
	}
	for _, s := range c.opts.Seeds() {
		add(gossipPort(s))
	}
	for _, m := range c.rememberedMembers() {
		add(m)
	}
	rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
	return addrs[:min(len(addrs), maxTargets)]
}

// rememberedMembers are the addresses in the view and in Raft's configuration,
// which is known before the first leader is.
func (c *Cluster) rememberedMembers() (addrs []string) {
	if v := c.pub.view(); v != nil {
		for _, m := range v.Members {
			addrs = append(addrs, m.Addr)
		}
	}
	cons := c.consensus.Load()
	if cons == nil {
		return addrs
	}
	servers, err := cons.servers()
	if err != nil {
		return addrs
	}
	for _, s := range servers {
		if _, addr, err := splitRaftAddress(s.Address); err == nil {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}
