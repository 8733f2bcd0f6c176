package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"sheepdog"
	"sheepdog/cluster/state"
	"sheepdog/internal/pause"
)

// founderKey marks, in the stable store, the node that bootstrapped Raft: only
// there may an interrupted format go on.
const founderKey = "founder"

// reservation keeps an unformatted node still while another one formats, so
// that of two formats at the same moment at most one succeeds.
type reservation struct {
	mu    sync.Mutex
	by    sheepdog.ClusterID // the id that the cluster is going to have
	until time.Duration
}

// take gives the reservation to id; false if another one has it.
func (r *reservation) take(id sheepdog.ClusterID, now, length time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now < r.until && r.by != id {
		return false
	}
	r.by, r.until = id, now+length
	return true
}

func (r *reservation) release(id sheepdog.ClusterID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.by == id {
		r.until = 0
	}
}

func (r *reservation) held(now time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return now < r.until
}

// Format makes a cluster of this node and all that gossip shows alive and
// unformatted, and returns when each of them is in the view and as many vote as
// should. On a node of a formatted cluster it empties that cluster instead. It
// fails with ErrConflict if another cluster is in sight or another format is under
// way.
func (c *Cluster) Format(ctx context.Context, config sheepdog.Config) error {
	ctx, leave, err := c.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	switch {
	case c.pub.view() != nil:
		err = c.formatAgain(ctx, config)
	case c.clusterID().IsZero():
		err = c.formatFresh(ctx, config)
	default:
		err = c.formatFounded(ctx, config)
	}
	if err != nil {
		return fmt.Errorf("format: %w", err)
	}
	return nil
}

// formatAgain empties the cluster; its id stays, its generation rises.
func (c *Cluster) formatAgain(ctx context.Context, config sheepdog.Config) error {
	view := c.pub.view()
	members := slices.Clone(view.Members)
	for i := range members {
		members[i].Incomplete = false // nothing is there that could be lacking
	}
	f := state.Format{Cluster: view.Cluster, Config: config, Members: members, Time: c.opts.Now().UTC()}
	_, err := c.ProposeState(ctx, state.Command{Format: &f})
	return err
}

// formatFounded goes on where a format was interrupted after its bootstrap.
func (c *Cluster) formatFounded(ctx context.Context, config sheepdog.Config) error {
	mark, err := c.storage.stable.Get([]byte(founderKey))
	if err != nil || len(mark) == 0 {
		return fmt.Errorf("%w: this node belongs to cluster %v and waits for its other nodes", sheepdog.ErrBusy, c.clusterID())
	}
	if err := c.consensus.Load().bootstrap(); err != nil {
		return err
	}
	return c.found(ctx, config, c.clusterID())
}

func (c *Cluster) formatFresh(ctx context.Context, config sheepdog.Config) error {
	if other, err := c.clusterInSight(); err == nil || errors.Is(err, sheepdog.ErrWrongCluster) {
		return fmt.Errorf("%w: cluster %v is in sight; this node is going to join it", sheepdog.ErrConflict, other)
	}
	var id sheepdog.ClusterID
	if _, err := rand.Read(id[:]); err != nil {
		return err
	}
	return c.found(ctx, config, id)
}

// found reserves the others, bootstraps Raft here, commits the format, and has
// the others adopt it.
func (c *Cluster) found(ctx context.Context, config sheepdog.Config, id sheepdog.ClusterID) error {
	members, err := c.reserveAll(ctx, id)
	if err == nil {
		err = c.tryFormat(config, id, members)
	}
	if err == nil {
		err = c.bootstrap(id)
	}
	if err != nil {
		c.releaseAll(id, members)
		return err
	}
	if err := c.Barrier(ctx); err != nil {
		return err
	}
	if c.pub.view() != nil {
		return fmt.Errorf("%w: this node's log holds a formatted cluster; format again to empty it", sheepdog.ErrConflict)
	}
	f := state.Format{Cluster: id, Config: config, Members: members, Time: c.opts.Now().UTC()}
	if _, err := c.ProposeState(ctx, state.Command{Format: &f}); err != nil {
		return err
	}
	c.gossip.refresh()
	c.kickMembership()
	if err := c.adoptAll(ctx, id, members); err != nil {
		return err
	}
	c.awaitVoters(ctx, wantedVoters(len(members)))
	return nil
}

// awaitVoters waits until so many nodes vote: before, the death of the founder
// would stop the cluster. The format holds whatever comes of it, so that this ends
// after a while, or when another node leads.
func (c *Cluster) awaitVoters(ctx context.Context, want int) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timing.FormatCalls)
	defer cancel()
	voters := 0
	for cons := c.consensus.Load(); c.office.Load() != nil; {
		servers, err := cons.servers()
		if err != nil {
			return
		}
		voters = 0
		for _, s := range servers {
			if s.Suffrage == raft.Voter {
				voters++
			}
		}
		if voters >= want {
			_ = c.Barrier(ctx) // the last change of Raft's configuration is committed
			return
		}
		c.kickMembership()
		if pause.For(ctx, votersPoll) != nil {
			break
		}
	}
	c.opts.Logger.Warn("not all nodes that should vote do so yet", "voters", voters, "wanted", want)
}

// votersPoll is the pause between looks at the voters of a new cluster.
const votersPoll = 10 * time.Millisecond

// tryFormat runs the command on an empty state, so that one that is invalid
// leaves no trace.
func (c *Cluster) tryFormat(config sheepdog.Config, id sheepdog.ClusterID, members []sheepdog.Member) error {
	f := state.Format{Cluster: id, Config: config, Members: members, Time: c.opts.Now().UTC()}
	_, err := state.New().Apply(state.Command{Format: &f})
	return err
}

func (c *Cluster) bootstrap(id sheepdog.ClusterID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.storage.stable.Set([]byte(founderKey), []byte{1}); err != nil {
		return fmt.Errorf("mark the founder: %w", err)
	}
	if err := c.adoptLocked(id); err != nil {
		return err
	}
	return c.consensus.Load().bootstrap()
}

// reserveAll asks every unformatted node in sight to hold still, this one
// first, and returns what they say of themselves. Each must agree.
func (c *Cluster) reserveAll(ctx context.Context, id sheepdog.ClusterID) ([]sheepdog.Member, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timing.FormatCalls)
	defer cancel()
	if !c.reservation.take(id, c.opts.Clock(), 2*c.opts.Timing.FormatCalls) {
		return nil, fmt.Errorf("%w: another format is under way", sheepdog.ErrConflict)
	}
	members := []sheepdog.Member{c.opts.Self}
	for _, g := range c.gossip.members() {
		if g.State != GossipAlive || g.Addr == c.opts.Self.Addr {
			continue
		}
		if !g.Cluster.IsZero() && g.Cluster != id {
			return members, fmt.Errorf("%w: node %v at %s belongs to cluster %v already", sheepdog.ErrConflict, g.ID, g.Addr, g.Cluster)
		}
		r, err := c.call(ctx, g.Addr, methodReserve, message{Cluster: id})
		if err != nil && g.ID == c.opts.Self.ID {
			continue // most likely the life of this node before it moved
		}
		if err != nil {
			return members, fmt.Errorf("node %v at %s does not agree; stop it or try again: %w", g.ID, g.Addr, err)
		}
		for _, m := range members {
			if m.ID == r.Member.ID {
				return members, fmt.Errorf("%w: sheep at %s and %s have one node id, %v. %s", sheepdog.ErrBusy, m.Addr, r.Member.Addr, m.ID, twinRemedy)
			}
		}
		members = append(members, r.Member)
	}
	return members, nil
}

// releaseAll undoes reserveAll as far as it can; what it misses times out.
func (c *Cluster) releaseAll(id sheepdog.ClusterID, members []sheepdog.Member) {
	ctx, cancel := context.WithTimeout(c.ctx, c.timing(0).Confirm)
	defer cancel()
	for _, m := range members {
		if _, err := c.call(ctx, m.Addr, methodRelease, message{Cluster: id}); err != nil {
			c.opts.Logger.Debug("reservation was not released", "node", m.ID, "err", err)
		}
	}
	c.reservation.release(id)
}

// adoptAll has the members take over the cluster id. The format is committed:
// who does not answer now learns of it through gossip, and is removed if dead.
func (c *Cluster) adoptAll(ctx context.Context, id sheepdog.ClusterID, members []sheepdog.Member) error {
	for _, m := range members {
		if m.ID == c.opts.Self.ID {
			continue
		}
		call, cancel := context.WithTimeout(ctx, c.opts.Timing.Call)
		_, err := c.call(call, m.Addr, methodAdopt, message{Cluster: id})
		cancel()
		if err != nil {
			c.opts.Logger.Warn("node did not hear of the format yet", "node", m.ID, "addr", m.Addr, "err", err)
		}
	}
	return ctx.Err()
}

func (c *Cluster) handleReserve(_ context.Context, m message) (any, error) {
	if m.Cluster.IsZero() {
		return nil, fmt.Errorf("%w: reservation without an id", sheepdog.ErrInvalid)
	}
	own := c.clusterID()
	if own.IsZero() && !c.reservation.take(m.Cluster, c.opts.Clock(), 2*c.opts.Timing.FormatCalls) {
		return nil, fmt.Errorf("%w: another format is under way", sheepdog.ErrConflict)
	}
	return reply{Member: c.opts.Self}, nil
}

func (c *Cluster) handleRelease(_ context.Context, m message) (any, error) {
	c.reservation.release(m.Cluster)
	return reply{}, nil
}

func (c *Cluster) handleAdopt(_ context.Context, m message) (any, error) {
	if m.Cluster.IsZero() {
		return nil, fmt.Errorf("%w: adoption without an id", sheepdog.ErrInvalid)
	}
	if err := c.adopt(m.Cluster); err != nil {
		return nil, err
	}
	return reply{}, nil
}
