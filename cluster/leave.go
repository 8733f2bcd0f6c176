package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"sheepdog"
)

// Leave takes this node out of the view and of Raft's configuration, moving the
// leadership first if it has it. It takes at most Timing.Leave; after an error
// the others find out as from a crash. The last member just stops: no epoch.
// The node does not come back before it is started again.
func (c *Cluster) Leave(ctx context.Context) error {
	ctx, leave, err := c.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timing.Leave)
	defer cancel()
	c.leaving.Store(true)
	c.kickRegister()
	view := c.pub.view()
	if !listed(view, c.selfRef()) || len(view.Members) == 1 {
		c.gossip.leave(c.opts.Timing.Gossip)
		return nil
	}
	err = c.retry(ctx, func() error {
		c.handOver()
		_, err := c.askLeader(ctx, methodLeave, message{Ref: c.selfRef()})
		return err
	})
	if err != nil {
		return fmt.Errorf("leave the cluster: %w", err)
	}
	c.lease.drop()
	c.gossip.leave(2 * c.opts.Timing.Gossip)
	return nil
}

// handOver moves the leadership to another voter if this node has it. An error
// is not one of the caller: it will be tried again.
func (c *Cluster) handOver() {
	cons := c.consensus.Load()
	if cons == nil || c.office.Load() == nil {
		return
	}
	if err := cons.raft.LeadershipTransfer().Error(); err != nil {
		c.opts.Logger.Info("leadership was not handed over", "err", err)
		return
	}
	// The successor's first heartbeat tells its address.
	for range 20 {
		if addr, self := cons.leader(); addr != "" && !self {
			return
		}
		if sleep(c.ctx, 5*time.Millisecond) != nil {
			return
		}
	}
}

// handleLeave is the leader's side. It answers when the node is out of the view
// and its vote is gone, so that the node may stop without being missed.
func (c *Cluster) handleLeave(ctx context.Context, m message) (any, error) {
	off, cons := c.office.Load(), c.consensus.Load()
	if off == nil || cons == nil {
		return nil, errNotLeader
	}
	if m.Ref == c.selfRef() {
		return nil, fmt.Errorf("%w: the leader hands over before it leaves", sheepdog.ErrNoQuorum)
	}
	off.pending.leave(m.Ref)
	c.kickMembership()
	err := c.pub.until(ctx, func(s *snapshotOfState) bool { return !listed(s.view, m.Ref) })
	if err != nil {
		return nil, err
	}
	id := raft.ServerID(m.Ref.ID.String())
	if err := cons.raft.RemoveServer(id, 0, applyTimeout).Error(); err != nil {
		if errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipLost) {
			return nil, fmt.Errorf("%w: %w", errNotLeader, err)
		}
		return nil, fmt.Errorf("take the vote of node %v: %w", m.Ref.ID, err)
	}
	return reply{}, nil
}
