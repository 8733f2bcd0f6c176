// Package cluster decides who is in the cluster and carries the log on which
// everybody agrees. Gossip (hashicorp/memberlist) finds nodes and suspects
// them; Raft (hashicorp/raft) decides: the membership and placement of package
// state, and the commands of a Machine, in one log that every node follows.
// The voters choose themselves; users see neither them nor the leader.
//
// It moves no data, knows nothing of disks and VDIs, and opens no port: streams
// come in through listeners of the node's one port, control requests through
// HandleControl.
//
// Main types: Cluster, made by Start; Options; Machine; GossipMember. The
// argument for leases is in lease.go, for proofs of leadership in proof.go.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"sheepdog"
	"sheepdog/cluster/state"
)

// Cluster is one node's membership.
type Cluster struct {
	opts    Options
	storage *storage
	fsm     *fsm
	pub     *published
	gossip  *gossip
	heard   atomic.Pointer[gossip] // gossip, for Raft, which starts before it

	door      *door
	consensus atomic.Pointer[consensus] // nil until the node belongs to a cluster
	id        atomic.Pointer[sheepdog.ClusterID]
	refounding
	office atomic.Pointer[office] // not nil while this node leads

	lease       lease
	patience    *patience
	reservation reservation
	proposals   *proposals
	searches    searches
	leaving     atomic.Bool
	lossy       atomic.Bool // see Doubt
	expelled    atomic.Bool // the leader said that the view does not list this process
	fatal       atomic.Pointer[error]
	twin        atomic.Pointer[string] // where another process with this node's id lives, which stays

	suspicions     chan suspicion
	membershipKick chan struct{}
	registerKick   chan struct{}
	lookedOnce     sync.Once
	lookedDone     chan struct{}

	mu     sync.Mutex // over adoption, start of Raft and shutdown
	closed bool       // no new calls
	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
}

var _ sheepdog.Views = (*Cluster)(nil)

// Start joins the gossip and, if the node belongs to a cluster, its Raft group.
// The listeners belong to the Cluster from then on, also after an error.
func Start(opts Options) (*Cluster, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	opts.fill()
	st, err := openStorage(&opts)
	if err != nil {
		return nil, err
	}
	c := newCluster(opts, st)
	if err := c.start(); err != nil {
		return nil, errors.Join(err, c.Shutdown())
	}
	return c, nil
}

func newCluster(opts Options, st *storage) *Cluster {
	c := &Cluster{
		opts: opts, storage: st, pub: newPublished(), proposals: newProposals(), patience: newPatience(),
		suspicions:     make(chan suspicion, maxSuspicions),
		membershipKick: make(chan struct{}, 1),
		registerKick:   make(chan struct{}, 1),
		lookedDone:     make(chan struct{}),
	}
	c.door = newDoor(c.opts.RaftConns)
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.fsm = &fsm{
		state: state.New(), machine: opts.Machine, requests: newRequests(), pub: c.pub,
		onGeneration: opts.OnGeneration, failed: c.fail, log: opts.Logger,
	}
	return c
}

func (c *Cluster) start() error {
	id, err := c.storage.cluster()
	if err != nil {
		return err
	}
	c.wg.Go(c.door.run)
	if id.IsZero() {
		if err := c.opts.Newcomer(); err != nil {
			return err
		}
	} else {
		c.mu.Lock()
		err := c.resume(id)
		c.mu.Unlock()
		if err != nil {
			return err
		}
	}
	if f := c.fatal.Load(); f != nil {
		return *f
	}
	if c.gossip, err = newGossip(&c.opts, c); err != nil {
		return err
	}
	c.heard.Store(c.gossip)
	for _, loop := range []func(){c.joinLoop, c.registerLoop, c.renewLoop, c.membershipLoop, c.suspectLoop, c.patienceLoop} {
		c.wg.Go(loop)
	}
	return nil
}

// timing is what suits the size of the cluster that the view tells of, or a cluster
// of so many nodes at least.
func (c *Cluster) timing(atLeast int) Timing {
	if v := c.pub.view(); v != nil {
		atLeast = max(atLeast, len(v.Members))
	}
	return c.opts.Timing.ofSize(atLeast)
}

// startConsensus starts Raft with the timing of the cluster as it is, or was when
// this node stopped, or of so many nodes at least, which it keeps while it runs; c.mu
// is held.
func (c *Cluster) startConsensus(id sheepdog.ClusterID, atLeast int) error {
	if c.closed {
		return sheepdog.ErrClosed
	}
	size, err := c.storage.size()
	if err != nil {
		return err
	}
	c.id.Store(&id)
	opts := c.opts
	opts.Timing, opts.RaftConns = c.timing(max(atLeast, size)), c.door.open()
	cons, err := newConsensus(&opts, id, c.storage, c.fsm, surroundings{locate: c.locate, suspect: c.suspectStream, office: c.setOffice})
	if err != nil {
		return err
	}
	c.consensus.Store(cons)
	close(cons.ready)
	return nil
}

// locate is where gossip has a node alive: at the configured address if it is
// there, or if nothing is known.
func (c *Cluster) locate(id sheepdog.NodeID, configured string) string {
	g := c.heard.Load()
	if g == nil {
		return configured
	}
	addr := configured
	for _, m := range g.members() {
		if m.ID != id || m.State != GossipAlive {
			continue
		}
		if m.Addr == configured {
			return configured
		}
		addr = m.Addr
	}
	return addr
}

// setOffice is called by the consensus when this node begins and ceases to
// lead.
func (c *Cluster) setOffice(off *office) {
	if off != nil {
		cons, term := c.consensus.Load(), off.term
		var ctx context.Context
		ctx, off.end = context.WithCancel(c.ctx)
		off.prover = &prover{ctx: ctx, spawn: c.wg.Go, prove: func(ctx context.Context) error { return c.prove(ctx, cons, term) }}
	}
	if old := c.office.Swap(off); old != nil {
		old.end()
	}
	c.kickMembership()
}

// describe is what gossip tells of this node.
func (c *Cluster) describe() GossipMember {
	g := GossipMember{Member: c.opts.Self, Cluster: c.clusterID(), Hints: c.opts.Info()}
	if f := c.former.Load(); f != nil {
		g.Former = *f
	}
	return g
}

func (c *Cluster) clusterID() (id sheepdog.ClusterID) {
	if p := c.id.Load(); p != nil {
		id = *p
	}
	return id
}

// fail is called when the state machine cannot go on. The node keeps quiet: it
// loses its lease and confirms nothing.
func (c *Cluster) fail(err error) {
	c.fatal.Store(&err)
	c.lease.drop()
}

// enter counts a call from outside; ctx then ends with the cluster.
func (c *Cluster) enter(ctx context.Context) (context.Context, func(), error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, fmt.Errorf("cluster: %w", sheepdog.ErrClosed)
	}
	c.wg.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.ctx, func() { cancel(sheepdog.ErrClosed) })
	return ctx, func() {
		stop()
		cancel(nil)
		c.wg.Done()
	}, nil
}

// View is the newest committed view that this node has applied; nil before the
// first.
func (c *Cluster) View() *sheepdog.View { return c.pub.view() }

// Changed is closed when a view newer than v is published.
func (c *Cluster) Changed(v *sheepdog.View) <-chan struct{} { return c.pub.changed(v) }

// History lists the epochs since the format, newest last. Do not change it.
func (c *Cluster) History() []state.EpochRecord { return c.pub.current.Load().history }

// Alive lists the nodes that gossip has alive, this one included: hints.
func (c *Cluster) Alive() []GossipMember {
	var out []GossipMember
	for _, g := range c.gossip.members() {
		if g.State == GossipAlive {
			out = append(out, g)
		}
	}
	return out
}

// Leader is the address of the leader, "" if this node knows of none.
func (c *Cluster) Leader() (addr string, self bool) {
	cons := c.consensus.Load()
	if cons == nil {
		return "", false
	}
	return cons.leader()
}

// Status is what `cluster info` says first.
type Status string

const (
	StatusUnformatted Status = "waiting for format"
	StatusWaiting     Status = "waiting for other nodes"
	StatusRunning     Status = "running"
	StatusStopping    Status = "shutting down"
	StatusFailed      Status = "failed" // see the log; upgrade or repair the node
)

// Status says how this node stands. Running means that the view lists it and
// that it has heard from a leader.
func (c *Cluster) Status() Status {
	view := c.pub.view()
	leader, _ := c.Leader()
	switch {
	case c.fatal.Load() != nil, c.GivenUp() != nil:
		return StatusFailed
	case c.leaving.Load() || c.ctx.Err() != nil:
		return StatusStopping
	case c.clusterID().IsZero():
		if _, err := c.clusterInSight(); !errors.Is(err, sheepdog.ErrNotFormatted) {
			return StatusWaiting
		}
		return StatusUnformatted
	case leader == "" || !listed(view, c.selfRef()) || c.expelled.Load():
		return StatusWaiting
	}
	return StatusRunning
}

// Shutdown stops everything at once, as a crash would look to the others, and
// waits for it. Call Leave before for a graceful end.
func (c *Cluster) Shutdown() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	c.mu.Unlock()
	c.cancel(sheepdog.ErrClosed)
	var errs []error
	if c.gossip != nil {
		errs = append(errs, c.gossip.close())
	} else {
		errs = append(errs, c.opts.GossipConns.Close())
	}
	if cons := c.consensus.Load(); cons != nil {
		errs = append(errs, cons.close())
	}
	errs = append(errs, c.opts.RaftConns.Close())
	c.wg.Wait()
	c.lease.drop()
	errs = append(errs, c.storage.close())
	return errors.Join(errs...)
}
