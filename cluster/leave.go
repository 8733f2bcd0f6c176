package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"sheepdog"
	"sheepdog/cluster/state"
	"sheepdog/internal/pause"
)

// Leave takes this node out of the view and of Raft's configuration, moving the
// leadership first if it has it. It takes at most Timing.Leave; after an error
// the others find out as from a crash. The last member just stops: no epoch.
// The node does not come back before it is started again. last are the partitions, under
// whatever policy, that it is still listed for, because nobody else has all of them: they
// wait for it.
func (c *Cluster) Leave(ctx context.Context) (last state.PartitionList, err error) {
	ctx, leave, err := c.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timing.Leave)
	defer cancel()
	c.leaving.Store(true)
	c.kickRegister()
	view := c.pub.view()
	if !listed(view, c.selfRef()) || len(view.Members) == 1 {
		c.gossip.leave(c.opts.Timing.Gossip)
		return nil, nil
	}
	err = c.retry(ctx, func() error {
		c.handOver()
		r, err := c.askLeader(ctx, methodLeave, message{Ref: c.selfRef()})
		last = r.Last
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("leave the cluster: %w", err)
	}
	c.lease.drop()
	c.gossip.leave(2 * c.opts.Timing.Gossip)
	return last, nil
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
		if pause.For(c.ctx, 5*time.Millisecond) != nil {
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
	if err := c.takeVote(cons, off, m.Ref.ID); err != nil {
		if errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipLost) {
			return nil, fmt.Errorf("%w: %w", errNotLeader, err)
		}
		return nil, fmt.Errorf("take the vote of node %v: %w", m.Ref.ID, err)
	}
	return reply{Last: waitingFor(c.pub.view(), m.Ref.ID)}, nil
}

// waitingFor lists the partitions of a view that list a node which is no member any
// more: nobody else was known to have all of them.
func waitingFor(v *sheepdog.View, id sheepdog.NodeID) (out state.PartitionList) {
	for p := range sheepdog.Partitions {
		for _, t := range v.Tables {
			if t[p].IsActing(id) {
				out = append(out, sheepdog.Partition(p))
				break
			}
		}
	}
	return out
}

// takeVote takes a node that leaves out of Raft's configuration, and before it those
// that died as far as the majority needs it.
func (c *Cluster) takeVote(cons *consensus, off *office, id sheepdog.NodeID) error {
	view := c.pub.view()
	for {
		servers, err := c.serversNow(cons, view, off)
		if err != nil {
			return err
		}
		c.askWhoLives(view, servers)
		step := leaveStep(servers, id)
		if step.Kind == stepNone {
			c.opts.Logger.Warn("a node that leaves keeps its vote: too few of the others answer", "node", id)
			return nil
		}
		if err := cons.raft.RemoveServer(raft.ServerID(step.ID.String()), 0, applyTimeout).Error(); err != nil {
			return err
		}
		if step.ID == id {
			return nil
		}
		c.opts.Logger.Info("raft configuration changed", "step", step.Kind, "node", step.ID)
	}
}

// leaveStep is the next change on the way to a configuration without the node that
// leaves; stepNone if it has to stay in it. A change is made by a majority of those
// whom it leaves a vote. Where too few of them live for that, voters that died and are
// no members go first, by the votes of the others and of the one that leaves: they may
// never come back, and nobody could take their votes any more.
func leaveStep(servers []server, id sheepdog.NodeID) voterStep {
	votes, alive := 0, 0
	step := voterStep{Kind: stepRemove, ID: id}
	var dead voterStep
	for _, s := range servers {
		switch {
		case s.ID == id:
			if !s.Voter {
				return step
			}
		case s.Voter:
			votes++
			if s.Member && s.Alive {
				alive++
			}
			if !s.Member {
				dead = voterStep{Kind: stepRemove, ID: s.ID}
			}
		}
	}
	if alive >= majority(votes) {
		return step
	}
	return dead
}
