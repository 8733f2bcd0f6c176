package cluster

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"sheepdog"
	"sheepdog/cluster/state"
)

// A new foundation. When most voters are lost for ever nothing can be committed
// any more, and Raft rightly does not know better. An operator who does has the
// nodes that are left found the cluster anew:
//
//  1. Every survivor leaves Raft and notes, durably, the id that the cluster is
//     going to have. From then on no leader of the former cluster can be elected
//     with its help.
//  2. The one whose log is the most advanced - by Raft's own measure, so that it
//     has everything that any survivor knows to be committed - makes itself the
//     only voter, applies its whole log, and takes the new id.
//  3. The others put their logs aside and follow it, as fresh nodes do. The new
//     leader commits the new id, and chooses voters.
//
// The id is the fence: gossip, Raft and the connections between nodes refuse
// another one. A node that was given up and comes back cannot act; one that
// meets a member of the new foundation stops taking part in its old one, for
// good, so that several of them cannot go on as the former cluster either.
// Survivors keep their incarnations: guests go on where they stood.

// refounding is what a node knows of foundations.
type refounding struct {
	former  atomic.Pointer[formerIDs]
	pending atomic.Pointer[foundation]         // this node has left Raft for it
	givenUp atomic.Pointer[sheepdog.ClusterID] // the cluster that went on without this node
	seen    atomic.Pointer[GossipMember]       // a member of another foundation of this cluster
}

// foundation is one attempt.
type foundation struct {
	id     sheepdog.ClusterID
	former formerIDs
}

// Position is where a log ends.
type Position struct {
	Index uint64    `json:"index"`
	Term  uint64    `json:"term"`
	Time  time.Time `json:"time,omitzero"` // when its last entry was written, by the leader's clock; zero: not known
}

// before compares as an election does.
func (p Position) before(q Position) bool {
	return p.Term < q.Term || p.Term == q.Term && p.Index < q.Index
}

// Standing is what a survivor says of itself.
type Standing struct {
	Member   sheepdog.Member   `json:"member"`
	Position Position          `json:"position"`
	Leader   string            `json:"leader,omitempty"` // whom it follows
	Voters   []sheepdog.NodeID `json:"voters,omitempty"` // as far as its Raft knows; none if it has left that
}

// Survey is who is left of a cluster.
type Survey struct {
	Survivors []Standing // by address
	Best      Standing   // the one with the most advanced log
	Quorum    bool       // they can elect a leader, or have one
}

// Survey asks the nodes that gossip has alive.
func (c *Cluster) Survey(ctx context.Context) (*Survey, error) {
	ctx, leave, err := c.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	id := c.clusterID()
	switch {
	case id.IsZero():
		return nil, fmt.Errorf("survey: %w", sheepdog.ErrNotFormatted)
	case c.GivenUp() != nil:
		return nil, c.GivenUp()
	case c.seen.Load() != nil:
		return nil, fmt.Errorf("survey: %w: the cluster was founded anew as %v, which this node is going to join", sheepdog.ErrBusy, c.seen.Load().Cluster)
	}
	s := new(Survey)
	for _, g := range c.Alive() {
		if g.Cluster != id {
			continue
		}
		r, err := c.call(ctx, g.Addr, methodStanding, message{Cluster: id})
		if refused(err) {
			continue // it died, which gossip will know in a moment
		}
		if err != nil {
			return nil, fmt.Errorf("node %v at %s is alive, but does not answer: %w", g.ID, g.Addr, err)
		}
		if r.Standing == nil {
			return nil, fmt.Errorf("node %v at %s: %w: answer without a standing", g.ID, g.Addr, sheepdog.ErrInvalid)
		}
		s.Survivors = append(s.Survivors, *r.Standing)
	}
	s.conclude()
	return s, nil
}

// conclude finds the best log, and whether it takes force at all.
func (s *Survey) conclude() {
	slices.SortFunc(s.Survivors, func(a, b Standing) int { return cmp.Compare(a.Member.Addr, b.Member.Addr) })
	for i, st := range s.Survivors {
		if i == 0 || s.Best.Position.before(st.Position) {
			s.Best = st
		}
		s.Quorum = s.Quorum || st.Leader != ""
	}
	votes := 0
	for _, st := range s.Survivors {
		if len(st.Voters) > 0 && slices.Contains(s.Best.Voters, st.Member.ID) {
			votes++
		}
	}
	s.Quorum = s.Quorum || votes > len(s.Best.Voters)/2
}

// Refound founds the cluster anew with the survivors. It returns when this node
// is in a view of the new foundation. After an error it may be tried again.
func (c *Cluster) Refound(ctx context.Context, s *Survey) error {
	ctx, leave, err := c.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if s.Quorum {
		return fmt.Errorf("found anew: %w: the nodes that are here can elect a leader", sheepdog.ErrBusy)
	}
	f := foundation{former: c.formerIDs().after(c.clusterID())}
	if p := c.pending.Load(); p != nil {
		f.former = f.former.after(p.id) // an attempt that came to nothing, or whose founder is lost
	}
	if _, err := rand.Read(f.id[:]); err != nil {
		return err
	}
	m := message{Cluster: c.clusterID(), Next: f.id, Former: f.former[:]}
	for _, st := range s.Survivors {
		if _, err := c.call(ctx, st.Member.Addr, methodPrepare, m); err != nil {
			c.cancelAll(s, m)
			return fmt.Errorf("found anew: node %v at %s: %w", st.Member.ID, st.Member.Addr, err)
		}
	}
	// From here on only forward: the founder may be done when its answer is lost.
	if _, err := c.call(ctx, s.Best.Member.Addr, methodReform, m); err != nil {
		return fmt.Errorf("found anew: node %v at %s: %w; try again", s.Best.Member.ID, s.Best.Member.Addr, err)
	}
	for _, st := range s.Survivors {
		if _, err := c.call(ctx, st.Member.Addr, methodFollow, m); err != nil {
			c.opts.Logger.Warn("node does not follow the new foundation yet", "node", st.Member.ID, "addr", st.Member.Addr, "err", err)
		}
	}
	err = c.pub.until(ctx, func(p *snapshotOfState) bool {
		return p.view != nil && p.view.Cluster == f.id && listed(p.view, c.selfRef())
	})
	if err != nil {
		return fmt.Errorf("found anew: wait for the first view: %w", err)
	}
	return nil
}

// cancelAll lets the survivors go on as before.
func (c *Cluster) cancelAll(s *Survey, m message) {
	ctx, cancel := context.WithTimeout(c.ctx, c.opts.Timing.Call)
	defer cancel()
	for _, st := range s.Survivors {
		if _, err := c.call(ctx, st.Member.Addr, methodCancel, m); err != nil {
			c.opts.Logger.Warn("node was not told that the cluster is not founded anew", "node", st.Member.ID, "err", err)
		}
	}
}

func (c *Cluster) refoundHandler(method string) func(context.Context, message) (any, error) {
	switch method {
	case methodStanding:
		return c.handleStanding
	case methodPrepare:
		return c.handlePrepare
	case methodCancel:
		return c.handleCancel
	case methodReform:
		return c.handleReform
	case methodFollow:
		return c.handleFollow
	}
	return nil
}

func (c *Cluster) handleStanding(context.Context, message) (any, error) {
	if f := c.fatal.Load(); f != nil {
		return nil, fmt.Errorf("this node cannot follow the cluster any more: %w", *f)
	}
	if addr := c.twin.Load(); addr != nil {
		return nil, c.twinError(*addr)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	at, err := c.storage.position()
	if err != nil {
		return nil, err
	}
	st := &Standing{Member: c.opts.Self, Position: at}
	cons := c.consensus.Load()
	if cons == nil {
		return reply{Standing: st}, nil
	}
	st.Leader, _ = cons.leader()
	servers, err := cons.servers()
	if err != nil {
		return nil, err
	}
	for _, s := range servers {
		if id, _, err := splitRaftAddress(s.Address); err == nil && s.Suffrage == raft.Voter {
			st.Voters = append(st.Voters, id)
		}
	}
	return reply{Standing: st}, nil
}

// handlePrepare leaves Raft, unless it has a leader now.
func (c *Cluster) handlePrepare(_ context.Context, m message) (any, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Next.IsZero() || c.closed || c.GivenUp() != nil {
		return nil, fmt.Errorf("%w: not now", sheepdog.ErrInvalid)
	}
	if cons := c.consensus.Load(); cons != nil {
		if addr, _ := cons.leader(); addr != "" {
			return nil, fmt.Errorf("%w: node %v follows the leader at %s", sheepdog.ErrBusy, c.opts.Self.ID, addr)
		}
	}
	f := &foundation{id: m.Next, former: fitFormer(m.Former)}
	if err := c.storage.set(pendingKey, append(f.id[:], f.former.encode()...)); err != nil {
		return nil, err
	}
	c.pending.Store(f)
	c.opts.Logger.Warn("this node left Raft: the cluster is going to be founded anew", "as", f.id)
	return reply{}, c.stopConsensus()
}

func fitFormer(ids []sheepdog.ClusterID) (f formerIDs) {
	copy(f[:], ids)
	return f
}

// stopConsensus ends Raft here; c.mu is held.
func (c *Cluster) stopConsensus() error {
	cons := c.consensus.Load()
	if cons == nil {
		return nil
	}
	err := cons.close()
	c.consensus.Store(nil)
	c.setOffice(nil)
	return err
}

// prepared is the foundation that a request is about; c.mu is held.
func (c *Cluster) prepared(m message) (*foundation, error) {
	f := c.pending.Load()
	if c.closed || f == nil || f.id != m.Next {
		return nil, fmt.Errorf("%w: this node is not prepared for foundation %v", sheepdog.ErrConflict, m.Next)
	}
	return f, nil
}

func (c *Cluster) handleCancel(_ context.Context, m message) (any, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.prepared(m); err != nil {
		return nil, err
	}
	if err := c.storage.set(pendingKey, nil); err != nil {
		return nil, err
	}
	c.pending.Store(nil)
	return reply{}, c.startConsensus(c.clusterID(), 0)
}

// handleReform makes this node the first voter of the new foundation.
func (c *Cluster) handleReform(_ context.Context, m message) (any, error) {
	defer c.gossip.refresh()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.clusterID() == m.Next {
		return reply{}, nil
	}
	f, err := c.prepared(m)
	if err != nil {
		return nil, err
	}
	self := raft.Server{ID: raft.ServerID(c.opts.Self.ID.String()), Address: raftAddress(c.opts.Self.ID, c.opts.Self.Addr)}
	conf := raft.DefaultConfig()
	conf.LocalID, conf.Logger, conf.NoLegacyTelemetry = self.ID, &raftLogger{log: c.opts.Logger}, true
	_, idle := raft.NewInmemTransport(self.Address)
	err = raft.RecoverCluster(conf, scratch(c.opts.NewMachine()), c.storage.logs, c.storage.stable, c.storage.snaps, idle,
		raft.Configuration{Servers: []raft.Server{self}})
	if err != nil {
		return nil, fmt.Errorf("make this node the only voter: %w", err)
	}
	if err := c.storage.found(f.id, f.former); err != nil {
		return nil, err
	}
	return reply{}, c.enterFoundation(f)
}

// handleFollow takes part in a foundation that another node made.
func (c *Cluster) handleFollow(_ context.Context, m message) (any, error) {
	defer c.gossip.refresh()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.clusterID() == m.Next {
		return reply{}, nil
	}
	f, err := c.prepared(m)
	if err != nil {
		return nil, err
	}
	if err := c.storage.renew(f.id, f.former); err != nil {
		c.fail(fmt.Errorf("put the former log aside: %w", err))
		return nil, err
	}
	return reply{}, c.enterFoundation(f)
}

// enterFoundation starts Raft under the new id; c.mu is held.
func (c *Cluster) enterFoundation(f *foundation) error {
	c.former.Store(&f.former)
	c.pending.Store(nil)
	c.opts.Logger.Warn("the cluster was founded anew without the nodes that were lost", "cluster", f.id, "former", f.former[0])
	return c.startConsensus(f.id, 0)
}

// commitFoundation is the first act of its leader.
func (c *Cluster) commitFoundation(former sheepdog.ClusterID) error {
	_, err := c.commitState(state.Command{Refound: &state.Refound{Former: former, Cluster: c.clusterID(), Time: c.opts.Now().UTC()}})
	return err
}

// resume starts Raft, unless this node has left it; c.mu is held.
func (c *Cluster) resume(id sheepdog.ClusterID) error {
	b, err := c.storage.get(formerKey)
	if err != nil {
		return err
	}
	former := decodeFormer(b)
	c.former.Store(&former)
	by, err := c.storage.id(givenUpKey)
	if err != nil {
		return err
	}
	pending, err := c.storage.get(pendingKey)
	if err != nil {
		return err
	}
	switch {
	case !by.IsZero():
		c.id.Store(&id)
		c.givenUp.Store(&by)
		c.opts.Logger.Error("this node takes no part", "err", c.givenUpError())
		return nil
	case len(pending) >= 16:
		c.id.Store(&id)
		c.pending.Store(&foundation{id: sheepdog.ClusterID(pending[:16]), former: decodeFormer(pending[16:])})
		c.opts.Logger.Warn("the founding anew of the cluster was interrupted; this node waits for it", "as", c.pending.Load().id)
		return nil
	}
	return c.startConsensus(id, 0)
}

func (c *Cluster) formerIDs() (f formerIDs) {
	if p := c.former.Load(); p != nil {
		f = *p
	}
	return f
}

// formerInSight are the former ids of a cluster that this node is to join.
func (c *Cluster) formerInSight(id sheepdog.ClusterID) (f formerIDs) {
	if c.gossip == nil {
		return f
	}
	for _, g := range c.gossip.members() {
		if g.Cluster == id && g.Former != f {
			return g.Former
		}
	}
	return f
}

// successor is told by gossip of a member of a foundation that came after the
// cluster of this node. It must not block.
func (c *Cluster) successor(g GossipMember) bool {
	c.seen.Store(&g)
	c.kickRegister()
	p := c.pending.Load()
	return p != nil && p.id == g.Cluster
}

// meetSuccessor joins the foundation that was seen if this node was prepared
// for it. Otherwise the cluster went on without this node.
func (c *Cluster) meetSuccessor() {
	g := c.seen.Swap(nil)
	if g == nil || c.clusterID() == g.Cluster || c.givenUp.Load() != nil {
		return
	}
	if p := c.pending.Load(); p != nil && p.id == g.Cluster {
		if _, err := c.handleFollow(c.ctx, message{Next: p.id}); err != nil {
			c.opts.Logger.Error("cannot follow the new foundation", "cluster", p.id, "err", err)
		}
		return
	}
	if err := c.giveUp(g.Cluster); err != nil {
		c.fail(err)
	}
}

// giveUp takes no part in the former cluster any more, for good.
func (c *Cluster) giveUp(by sheepdog.ClusterID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || !c.formerOf(by) {
		return nil
	}
	if err := c.storage.set(givenUpKey, by[:]); err != nil {
		return err
	}
	c.givenUp.Store(&by)
	c.lease.drop()
	err := c.stopConsensus()
	c.opts.Logger.Error("this node stops taking part", "err", c.givenUpError())
	return err
}

// formerOf guards against a race with a join of the very cluster.
func (c *Cluster) formerOf(by sheepdog.ClusterID) bool { return c.clusterID() != by }

func (c *Cluster) givenUpError() error {
	return fmt.Errorf("%w: an operator had the cluster go on as %v without this node (dog cluster recover force); what is here is of before. "+
		"Keep its directory if something is to be saved from it; to join again start the node with an empty one", sheepdog.ErrWrongCluster, *c.givenUp.Load())
}

// GivenUp is why this node takes no part any more; nil if it does.
func (c *Cluster) GivenUp() error {
	if c.givenUp.Load() != nil {
		return c.givenUpError()
	}
	if addr := c.twin.Load(); addr != nil {
		return c.twinError(*addr)
	}
	return nil
}
