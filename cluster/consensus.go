package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"sheepdog"
	"sheepdog/internal/pause"
)

// consensus is this node's part of Raft. It exists once the node belongs to a
// cluster.
type consensus struct {
	cluster   sheepdog.ClusterID
	self      raft.Server
	raft      *raft.Raft
	streams   *raftStreams
	transport *patientTransport
	logs      raft.LogStore
	herald    *herald
	timing    Timing
	clock     func() time.Duration
	log       *slog.Logger
	wg        sync.WaitGroup
	cancel    context.CancelFunc
	// office is called with what a new leader works with, and nil when it ends.
	office func(*office)
	ready  chan struct{} // closed when the owner holds this consensus

	unrest unrest
	tuning sync.Mutex // over Raft's time limits

	mu    sync.Mutex
	moved chan struct{} // closed and replaced when another leader is known
}

const (
	raftTimeout     = 2 * time.Second // of one exchange
	raftPool        = 3               // idle streams kept per node
	applyTimeout    = time.Second     // to get a command into Raft's queue
	snapshotEvery   = time.Minute     // between looks whether the log is long
	snapshotEntries = 8192            // since the last snapshot
	trailingEntries = 4096            // kept for followers that are a little behind
)

// errNotLeader is returned by a node that is not the leader, or ceased to be
// one before the command was committed; whether it will be is not known.
var errNotLeader = fmt.Errorf("not the leader: %w", sheepdog.ErrNoQuorum)

// configWatcher adds to the state machine what the transport wants to know,
// and wakes those who tell others what is committed.
type configWatcher struct {
	*fsm
	configured func(raft.Configuration)
	committed  func()
}

func (w configWatcher) ApplyBatch(logs []*raft.Log) []any {
	out := w.fsm.ApplyBatch(logs)
	for _, l := range logs {
		if l.Type == raft.LogConfiguration {
			w.configured(raft.DecodeConfiguration(l.Data))
		}
	}
	w.committed()
	return out
}

func (w configWatcher) StoreConfiguration(index uint64, c raft.Configuration) {
	w.fsm.StoreConfiguration(index, c)
	w.configured(c)
	w.committed()
}

// noPipeline has Raft wait for the answer to each batch before it sends the next.
// With its pipeline, a leader that loses its office in the answer to one request
// may wait for ever to send another, and heartbeats in its old term go on.
const noPipeline = 1

// surroundings are what Raft asks of the rest of the node, and tells it. All of
// them may be called at once, and before newConsensus returns.
type surroundings struct {
	locate  func(id sheepdog.NodeID, configured string) string
	suspect func(id sheepdog.NodeID, err error)
	office  func(*office)
}

// newConsensus starts Raft. Its FSM is called before this returns.
func newConsensus(o *Options, id sheepdog.ClusterID, st *storage, f *fsm, env surroundings) (*consensus, error) {
	ctx, cancel := context.WithCancel(context.Background())
	c := &consensus{
		cluster: id, timing: o.Timing, logs: st.logs, herald: newHerald(), clock: o.Clock, log: o.Logger, cancel: cancel, office: env.office, ready: make(chan struct{}), moved: make(chan struct{}),
		self: raft.Server{ID: raft.ServerID(o.Self.ID.String()), Address: raftAddress(o.Self.ID, o.Self.Addr)},
	}
	logger := &raftLogger{log: o.Logger}
	c.streams = newRaftStreams(o, id, env)
	c.transport = newPatientTransport(ctx, raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: c.streams, MaxPool: raftPool, Timeout: raftTimeout, Logger: logger, MsgpackUseNewTimeFormat: true,
		MaxRPCsInFlight: noPipeline,
	}), c.streams, o.Timing.Reconcile, c.answersCount)
	notify := make(chan bool, 16)
	r, err := raft.NewRaft(c.config(notify, logger), configWatcher{f, c.transport.configured, func() { kick(c.herald.wake) }}, st.logs, st.stable, st.snaps, c.transport)
	if err != nil {
		cancel()
		c.closeTransport()
		return nil, fmt.Errorf("start raft: %w", err)
	}
	c.raft = r
	observed := make(chan raft.Observation, 16)
	r.RegisterObserver(raft.NewObserver(observed, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	}))
	c.wg.Go(func() { c.watch(ctx, notify) })
	c.wg.Go(func() { c.announce(ctx) })
	c.wg.Go(func() { c.watchLeader(ctx, observed) })
	c.wg.Go(func() { c.followUnrest(ctx) })
	return c, nil
}

func (c *consensus) config(notify chan<- bool, logger *raftLogger) *raft.Config {
	conf := raft.DefaultConfig()
	conf.LocalID = c.self.ID
	conf.HeartbeatTimeout = c.timing.Heartbeat
	conf.ElectionTimeout = c.timing.Election
	conf.LeaderLeaseTimeout = c.timing.LeaderLease
	conf.CommitTimeout = c.timing.CommitTimeout
	conf.SnapshotInterval = snapshotEvery
	conf.SnapshotThreshold = snapshotEntries
	conf.TrailingLogs = trailingEntries
	conf.ShutdownOnRemove = false
	conf.NoLegacyTelemetry = true
	conf.NotifyCh = notify
	conf.Logger = logger
	return conf
}

// bootstrap makes this node the first voter, and leader at once: there is no other
// whose heartbeats it could wait for. Nothing if it is the first voter already.
func (c *consensus) bootstrap() error {
	err := c.raft.BootstrapCluster(raft.Configuration{Servers: []raft.Server{c.self}}).Error()
	if errors.Is(err, raft.ErrCantBootstrap) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("bootstrap raft: %w", err)
	}
	if err := c.campaign(); err != nil {
		c.log.Info("the founder waits for a heartbeat before it leads", "err", err)
	}
	return nil
}

// watch follows this node's leadership.
func (c *consensus) watch(ctx context.Context, notify <-chan bool) {
	select {
	case <-c.ready:
	case <-ctx.Done():
		return
	}
	for {
		select {
		case leads := <-notify:
			if err := c.tune(); err != nil {
				c.log.Warn("time limits stay as they are", "err", err)
			}
			c.transport.release()
			c.office(nil)
			if leads {
				c.takeOffice(ctx)
			}
		case <-ctx.Done():
			return
		}
	}
}

// watchLeader wakes those who wait for a leader that may be gone.
func (c *consensus) watchLeader(ctx context.Context, observed <-chan raft.Observation) {
	for {
		select {
		case <-observed:
			c.mu.Lock()
			close(c.moved)
			c.moved = make(chan struct{})
			c.mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

// leaderMoved is closed when this node knows of another leader, or of none.
func (c *consensus) leaderMoved() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.moved
}

// takeOffice commits the first entry of this leader's term. After it, every
// entry of earlier terms is applied here, and every later index of this term
// passes through the state machine.
func (c *consensus) takeOffice(ctx context.Context) {
	first, err := (&entry{Type: entryLead}).encode()
	if err != nil {
		panic("first entry: " + err.Error())
	}
	for term := c.raft.CurrentTerm(); c.leads(term) && ctx.Err() == nil; {
		err := c.raft.Apply(first, applyTimeout).Error()
		if err == nil && c.leads(term) {
			c.log.Info("this node leads the cluster", "term", term)
			c.office(newOffice(term, c.clock()))
			return
		}
		c.log.Debug("elected, but the first entry is not committed yet", "err", err)
		if pause.For(ctx, retryFirst) != nil {
			return
		}
	}
}

// leads reports whether this node is the leader of the term right now.
func (c *consensus) leads(term uint64) bool {
	// The term cannot change while a node leads, and it only grows: with the same
	// number on both sides, the state in between was that of this term.
	return c.raft.CurrentTerm() == term && c.raft.State() == raft.Leader && c.raft.CurrentTerm() == term
}

// leader is the leader's address as far as this node knows, "" if not.
func (c *consensus) leader() (addr string, self bool) {
	address, id := c.raft.LeaderWithID()
	if id == "" {
		return "", false
	}
	_, addr, err := splitRaftAddress(address)
	if err != nil {
		return "", false
	}
	return addr, id == c.self.ID
}

// servers is Raft's newest configuration, committed or not.
func (c *consensus) servers() ([]raft.Server, error) {
	future := c.raft.GetConfiguration()
	if err := future.Error(); err != nil {
		return nil, fmt.Errorf("read raft configuration: %w", err)
	}
	return future.Configuration().Servers, nil
}

// apply commits an encoded entry on the leader.
func (c *consensus) apply(b []byte) (outcome, error) {
	future := c.raft.Apply(b, applyTimeout)
	if err := future.Error(); err != nil {
		return outcome{}, fmt.Errorf("%w: %w", errNotLeader, err)
	}
	o, ok := future.Response().(outcome)
	if !ok {
		panic(fmt.Sprintf("state machine answered %T", future.Response()))
	}
	return o, nil
}

// admit adds a server as non-voter or corrects its address; its vote stays.
func (c *consensus) admit(id sheepdog.NodeID, addr string) error {
	servers, err := c.servers()
	if err != nil {
		return err
	}
	want := raftAddress(id, addr)
	for _, s := range servers {
		if s.ID == raft.ServerID(id.String()) && s.Address == want {
			return nil
		}
	}
	return c.raft.AddNonvoter(raft.ServerID(id.String()), want, 0, applyTimeout).Error()
}

func (c *consensus) close() error {
	c.cancel()
	done := c.raft.Shutdown()
	c.closeTransport() // so that exchanges with silent nodes end now
	c.wg.Wait()
	err := done.Error()
	c.transport.beats.wg.Wait()
	return err
}

func (c *consensus) closeTransport() {
	if err := c.transport.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		c.log.Debug("close raft streams", "err", err)
	}
	c.transport.CloseStreams()
}
