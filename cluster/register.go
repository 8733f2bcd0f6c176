package cluster

import (
	"context"
	"errors"
	"fmt"

	"sheepdog"
	"sheepdog/cluster/state"
)

// selfRef names this process.
func (c *Cluster) selfRef() state.MemberRef {
	return state.MemberRef{ID: c.opts.Self.ID, Incarnation: c.opts.Self.Incarnation}
}

// registerLoop asks to be put into the view whenever the view does not list
// this process, whatever the reason: it was just started, it was taken for dead
// and removed, or the cluster was formatted while it looked elsewhere.
func (c *Cluster) registerLoop() {
	var warned string
	for c.ctx.Err() == nil {
		c.meetSuccessor()
		view := c.pub.view()
		if c.settled(view) {
			c.waitEither(c.pub.changed(view), c.registerKick, c.opts.Timing.Rejoin)
			continue
		}
		err := c.register()
		if text := fmt.Sprint(err); err != nil && text != warned && !errors.Is(err, sheepdog.ErrNotFormatted) {
			c.opts.Logger.Info("waiting to join the cluster", "err", err)
			warned = text
		}
		c.wait(c.pub.changed(view), jitter(c.opts.Timing.Register))
	}
}

// settled reports whether there is nothing to register for.
func (c *Cluster) settled(view *sheepdog.View) bool {
	if c.leaving.Load() || c.GivenUp() != nil {
		return true
	}
	return listed(view, c.selfRef()) && !c.expelled.Load()
}

// register asks the leader once. A node that is not formatted adopts the one
// cluster that gossip shows after that cluster's leader has agreed.
func (c *Cluster) register() error {
	ctx, cancel := context.WithTimeout(c.ctx, c.opts.Timing.Call)
	defer cancel()
	id := c.clusterID()
	fresh := id.IsZero()
	if fresh {
		var err error
		if id, err = c.clusterInSight(); err != nil {
			return err
		}
	}
	var addr string
	var err error
	if fresh {
		addr, err = c.searchLeader(ctx, id, nil)
	} else {
		addr, err = c.findLeader(ctx)
	}
	if err != nil {
		return err
	}
	r, err := c.call(ctx, addr, methodRegister, message{Cluster: id, Member: c.opts.Self})
	if err != nil {
		return err
	}
	if r.Addr != "" {
		return c.yield(r.Addr)
	}
	c.expelled.Store(false)
	if fresh {
		return c.adopt(id)
	}
	return nil
}

// clusterInSight is the cluster that a fresh node would join.
func (c *Cluster) clusterInSight() (found sheepdog.ClusterID, err error) {
	if c.reservation.held(c.opts.Clock()) {
		return found, fmt.Errorf("%w: a format is under way", sheepdog.ErrNotFormatted)
	}
	for _, g := range c.gossip.members() {
		if g.Cluster.IsZero() || g.State != GossipAlive {
			continue
		}
		if !found.IsZero() && g.Cluster != found {
			return found, fmt.Errorf("%w: gossip shows %v and %v; start this node with seeds of one of them only", sheepdog.ErrWrongCluster, found, g.Cluster)
		}
		found = g.Cluster
	}
	if found.IsZero() {
		return found, sheepdog.ErrNotFormatted
	}
	return found, nil
}

// joined waits until this node belongs to a cluster, as long as gossip shows one that it
// will join; sheepdog.ErrNotFormatted if there is none.
func (c *Cluster) joined(ctx context.Context) error {
	for c.clusterID().IsZero() {
		if _, err := c.clusterInSight(); err != nil {
			return err
		}
		if err := errors.Join(context.Cause(ctx), context.Cause(c.ctx)); err != nil {
			return fmt.Errorf("join the cluster: %w", err)
		}
		c.waitEither(c.pub.changed(nil), ctx.Done(), c.opts.Timing.Register)
	}
	return nil
}

// adopt makes this node part of a cluster for good and starts Raft.
func (c *Cluster) adopt(id sheepdog.ClusterID) error {
	defer c.gossip.refresh()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.adoptLocked(id)
}

func (c *Cluster) adoptLocked(id sheepdog.ClusterID) error {
	if own := c.clusterID(); !own.IsZero() {
		if own == id {
			return nil
		}
		return fmt.Errorf("adopt %v: %w: this node is of %v", id, sheepdog.ErrWrongCluster, own)
	}
	former := c.formerInSight(id)
	if err := c.storage.set(formerKey, former.encode()); err != nil {
		return err
	}
	if err := c.storage.setCluster(id); err != nil {
		return err
	}
	c.former.Store(&former)
	c.opts.Logger.Info("this node belongs to a cluster now", "cluster", id)
	return c.startConsensus(id, len(c.Alive()))
}

// handleRegister is the leader's side: the node is put into the next batch, and
// asks again until it sees itself in a view. The answer has an address if another
// process of the node is there, which stays.
func (c *Cluster) handleRegister(ctx context.Context, m message) (any, error) {
	off := c.office.Load()
	if off == nil {
		return nil, errNotLeader
	}
	if m.Member.ID == 0 || m.Member.Incarnation == 0 || m.Member.Addr == "" {
		return nil, fmt.Errorf("%w: registration without id, incarnation or address", sheepdog.ErrInvalid)
	}
	view := c.pub.view()
	if view == nil {
		return nil, sheepdog.ErrNotFormatted
	}
	if addr := c.otherLife(ctx, view, m.Member); addr != "" {
		c.opts.Logger.Error("refused a second process of a node", "node", m.Member.ID, "addr", m.Member.Addr, "listed", addr, "remedy", twinRemedy)
		return reply{Addr: addr}, nil
	}
	// Until gossip finds it again, the node is in doubt as soon as it has joined, and
	// must then be reached.
	c.opts.Caller.Redial(m.Member.Addr)
	if !off.pending.join(m.Member) {
		return nil, fmt.Errorf("%w: too many nodes register at once", sheepdog.ErrBusy)
	}
	c.kickMembership()
	return reply{}, nil
}
