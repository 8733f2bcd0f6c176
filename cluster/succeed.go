package cluster

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"sheepdog"
	"sheepdog/cluster/state"
)

// Raft finds out that its leader is gone when heartbeats are missed, one to two
// timeouts later. A process that was killed is known at once: its port refuses.
// When two nodes find that of the leader, a voter stands for election without
// waiting; with whatever log, for Raft itself judges the candidate. One observer
// alone does not count: two nodes between which a firewall answers would depose
// each other for ever.

// stagger is what each further voter waits for those before it to be elected,
// which takes a few syncs of their disks. Two candidates at once cost an election
// time-out.
const stagger = 200 * time.Millisecond

// succeed has another leader elected if the present one is certainly gone.
func (c *Cluster) succeed(ctx context.Context, cons *consensus, gone state.MemberRef) error {
	if cons.leaderID() != gone.ID {
		return nil
	}
	view := c.pub.view()
	m, ok := view.Member(gone.ID)
	if !ok {
		return nil
	}
	if err := c.observe(ctx, m); err != nil {
		return err
	}
	if err := c.othersObserve(ctx, view, m); err != nil {
		return err
	}
	rank, err := cons.rank(gone.ID)
	if err != nil {
		return err
	}
	if found, err := cons.successor(ctx, gone.ID, time.Duration(rank)*stagger); found || err != nil {
		return err
	}
	c.opts.Logger.Info("two nodes found the leader gone; standing for election", "leader", gone.ID)
	return cons.campaign()
}

// successor waits for another leader than the one that is gone. A candidate that
// makes this node forget the former is none yet: its log may be too short to win.
func (c *consensus) successor(ctx context.Context, gone sheepdog.NodeID, wait time.Duration) (found bool, err error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		moved := c.leaderMoved()
		if id := c.leaderID(); id != 0 && id != gone {
			return true, nil
		}
		select {
		case <-moved:
		case <-timer.C:
			return false, nil
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// leaderID is the leader as far as this node knows, 0 if not.
func (c *consensus) leaderID() sheepdog.NodeID {
	address, _ := c.raft.LeaderWithID()
	id, _, err := splitRaftAddress(address)
	if err != nil {
		return 0
	}
	return id
}

// rank is this node's place among the voters that could succeed a leader.
func (c *consensus) rank(leader sheepdog.NodeID) (int, error) {
	servers, err := c.servers()
	if err != nil {
		return 0, err
	}
	servers = slices.DeleteFunc(slices.Clone(servers), func(s raft.Server) bool {
		return s.Suffrage != raft.Voter || s.ID == raft.ServerID(leader.String())
	})
	slices.SortFunc(servers, func(a, b raft.Server) int { return cmp.Compare(a.ID, b.ID) })
	rank := slices.IndexFunc(servers, func(s raft.Server) bool { return s.ID == c.self.ID })
	if rank < 0 {
		return 0, fmt.Errorf("succeed leader %v: %w: this node has no vote", leader, sheepdog.ErrNotActing)
	}
	return rank, nil
}

// campaign makes this node a candidate, by the message with which a leader asks
// for that when it hands over.
func (c *consensus) campaign() error {
	req := raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(c.self.ID), Addr: []byte(c.self.Address)}}
	if err := c.transport.TimeoutNow(c.self.ID, c.self.Address, &req, new(raft.TimeoutNowResponse)); err != nil {
		return fmt.Errorf("stand for election: %w", err)
	}
	return nil
}
