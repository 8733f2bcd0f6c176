// Package world runs clusters of real nodes on a simulated network, simulated
// disks and simulated time, breaks them, and proves that nothing was lost. It
// is for tests, which run in a testing/synctest bubble.
//
// A World holds the nodes and the faults. A Ledger remembers what clients wrote
// and read and checks that it makes sense: reads are linearizable per 512
// bytes, snapshots are points in time, what was flushed is never lost. Audit
// compares the disks of all nodes after everything has healed. Play lets a seed
// decide all of it; what a seed does not decide is the order in which the
// goroutines of a bubble run at one moment of simulated time, and the chances
// that libraries take by themselves.
package world

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/cluster"
	"sheepdog/internal/sim"
	"sheepdog/node"
	"sheepdog/vdi"
)

// Options of a World. Zero values mean the defaults.
type Options struct {
	Nodes  int // 3
	Copies int // 3, at most the nodes
	// Coded is the policy of all VDIs instead of Copies; zero: none.
	Coded   sheepdog.Policy
	Gateway int  // number of a host that stores nothing; 0: none
	Sync    bool // writes are durable when they are acknowledged
	// MinCopies a write must have; 0: the default.
	MinCopies int
	// RecoveryDelay and ScrubEvery as in node.Config; 0: the defaults.
	RecoveryDelay, ScrubEvery time.Duration

	Seed     uint64
	Network  sim.NetOptions
	Log      slog.Handler  // of all nodes; nil: none
	Patience time.Duration // how long replicas may differ after everything has healed; 60 s
	// Break is called before a node starts and may put faults into it, for tests
	// of the tests.
	Break func(h *Host, cfg *node.Config)
}

// source is for several goroutines.
type source struct {
	mu  sync.Mutex
	pcg *rand.PCG
}

// Uint64 implements rand.Source.
func (s *source) Uint64() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pcg.Uint64()
}

// objectShift makes objects of 1 MiB, the smallest.
const objectShift = sheepdog.MinBlockSizeShift

// World is a cluster of simulated hosts. Its methods may be called by several
// goroutines, but for those of one Host that begin and end a life.
type World struct {
	t     testing.TB
	opt   Options
	rng   *rand.Rand
	net   *sim.Net
	start time.Time

	mu    sync.Mutex
	hosts []*Host
	trace []string
}

// Host is one machine: it keeps its disk, its Raft log and its name while nodes
// come and go.
type Host struct {
	Number int
	Name   string // an IP address
	Disk   *Disk
	Faults DiskFaults

	world *World
	raft  *cluster.Memory
	pace  pace
	clock clock
	wall  wall
	lives int
	boots int // how often the machine itself was started
	// guarded by World.mu
	frozen bool
	node   *node.Node
	engine *Engine
	ctx    context.Context // of what clients ask of the node
	end    context.CancelFunc
}

// New makes a world of hosts on which nothing runs.
func New(t testing.TB, opt Options) *World {
	if opt.Nodes == 0 {
		opt.Nodes = 3
	}
	if opt.Copies == 0 {
		opt.Copies = min(3, opt.Nodes)
	}
	if opt.Patience == 0 {
		opt.Patience = 60 * time.Second
	}
	w := &World{t: t, opt: opt, rng: rand.New(&source{pcg: rand.NewPCG(opt.Seed, 0xd06)}), net: sim.NewNet(opt.Seed, opt.Network), start: time.Now()}
	for range opt.Nodes {
		w.AddHost()
	}
	return w
}

// AddHost adds a host on which nothing runs yet.
func (w *World) AddHost() *Host {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.hosts) + 1
	h := &Host{Number: n, Name: fmt.Sprintf("10.0.0.%d", n), Disk: NewDisk(), world: w, raft: cluster.NewMemory()}
	h.clock.set(time.Duration(n)*1000*time.Second, 3*(n%5-2))
	w.hosts = append(w.hosts, h)
	return h
}

// Hosts lists all hosts.
func (w *World) Hosts() []*Host {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.hosts)
}

// Up lists the hosts on which a node runs.
func (w *World) Up() []*Host {
	return slices.DeleteFunc(w.Hosts(), func(h *Host) bool { return h.Node() == nil })
}

// Node is the node that runs on the host, nil if none does.
func (h *Host) Node() *node.Node {
	h.world.mu.Lock()
	defer h.world.mu.Unlock()
	return h.node
}

// Now is the simulated time since the world began.
func (w *World) Now() time.Duration { return time.Since(w.start) }

// Tracef notes what happened, for the report of a failure.
func (w *World) Tracef(format string, args ...any) {
	line := fmt.Sprintf("%9.3fs  ", w.Now().Seconds()) + fmt.Sprintf(format, args...)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trace = append(w.trace, line)
}

// Trace is what happened so far.
func (w *World) Trace() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.trace)
}

// Boot starts a node on the host.
func (h *Host) Boot() {
	w := h.world
	w.t.Helper()
	zone := uint32(h.Number)
	h.lives++
	engine := h.Disk.Open(&h.Faults)
	cfg := node.Config{Advertise: h.Name, Zone: &zone, Seeds: []string{"10.0.0.1:7000", "10.0.0.2:7000"},
		Network: w.net.Host(h.Name), Engine: engine, RaftMemory: h.raft, Identity: sheepdog.NodeID(h.Number), Boot: fmt.Sprintf("boot %d", h.boots), NoNBD: true,
		Timing: cluster.Timing{CommitTimeout: 25 * time.Millisecond}, Clock: h.clock.now, Now: h.wall.now, Wrap: w.slow, Logger: w.logger(h),
		Recode:        vdi.RecodeTiming{Every: 100 * time.Millisecond, Idle: 300 * time.Millisecond, Retire: time.Second},
		RecoveryDelay: w.opt.RecoveryDelay, ScrubEvery: w.opt.ScrubEvery}
	if cfg.Gateway = h.Number == w.opt.Gateway; cfg.Gateway {
		cfg.VNodes = 0
	}
	if w.opt.Break != nil {
		w.opt.Break(h, &cfg)
	}
	w.Tracef("boot %d", h.Number)
	n, err := node.Start(cfg)
	if err != nil {
		w.t.Fatalf("start node %d: %v", h.Number, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	h.node, h.engine = n, engine
	h.ctx, h.end = context.WithCancel(context.Background())
}

// life is the context of what clients ask of the node; it ends when the node
// is killed.
func (h *Host) life() context.Context {
	h.world.mu.Lock()
	defer h.world.mu.Unlock()
	return h.ctx
}

func (w *World) logger(h *Host) *slog.Logger {
	if w.opt.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(w.opt.Log).With("host", h.Number, "life", h.lives)
}

// BootAll starts a node on every host that has none, all at once.
func (w *World) BootAll() {
	var wg sync.WaitGroup
	for _, h := range w.Hosts() {
		if h.Node() == nil {
			wg.Go(h.Boot)
		}
	}
	wg.Wait()
}

// Kill ends the node as kill -9 does: its disk keeps all that was written.
func (h *Host) Kill() {
	w := h.world
	w.mu.Lock()
	n, engine := h.node, h.engine
	h.node, h.engine = nil, nil
	w.mu.Unlock()
	if n == nil {
		return
	}
	w.Tracef("kill %d", h.Number)
	h.end()
	engine.Cut()
	w.net.Kill(h.Name)
	h.setFrozen(false)
	n.Kill()
}

// PowerLoss kills the node and loses what its disk had not been told to keep,
// except for a part that chance keeps.
func (h *Host) PowerLoss() {
	h.PowerLossKeeping([]float64{0, 0.5, 0.9, 1}[h.world.rng.IntN(4)])
}

// PowerLossKeeping is PowerLoss in which each change survives with the given
// probability.
func (h *Host) PowerLossKeeping(keep float64) {
	h.Kill()
	h.boots++
	h.world.Tracef("power loss %d: %d changes lost", h.Number, h.Disk.PowerLoss(h.world.rng, keep))
}

// Leave ends the node in good order.
func (h *Host) Leave() {
	w := h.world
	w.mu.Lock()
	n, engine := h.node, h.engine
	h.node, h.engine = nil, nil
	w.mu.Unlock()
	if n == nil {
		return
	}
	w.Tracef("leave %d", h.Number)
	if err := n.Close(context.Background()); err != nil {
		w.t.Errorf("node %d did not stop cleanly: %v", h.Number, err)
	}
	h.end()
	engine.Cut()
	w.net.Kill(h.Name)
}

// Freeze stops the host as SIGSTOP does; Thaw lets it go on.
func (h *Host) Freeze() {
	h.world.Tracef("freeze %d", h.Number)
	h.setFrozen(true)
	h.world.net.Freeze(h.Name)
}

// setFrozen notes whether the host stands still, and tells what was noted.
func (h *Host) setFrozen(frozen bool) (was bool) {
	h.world.mu.Lock()
	defer h.world.mu.Unlock()
	was, h.frozen = h.frozen, frozen
	return was
}

// Thaw undoes Freeze.
func (h *Host) Thaw() {
	h.world.Tracef("thaw %d", h.Number)
	h.setFrozen(false)
	h.world.net.Thaw(h.Name)
}

// Heal mends the network and wakes every frozen host.
func (w *World) Heal() {
	w.Tracef("heal")
	w.net.HealAll()
	for _, h := range w.Hosts() {
		if h.setFrozen(false) {
			h.Thaw()
		}
	}
}

// Format makes a cluster of the nodes that run.
func (w *World) Format() {
	w.t.Helper()
	up := w.Up()
	w.Await(10*time.Second, "gossip has found all nodes", func() error {
		for _, h := range up {
			if n := len(h.Node().Cluster().Alive()); n != len(up) {
				return fmt.Errorf("node %d sees %d nodes", h.Number, n)
			}
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req := &api.FormatRequest{Copies: sheepdog.Policy{Copies: uint8(w.opt.Copies)}, BlockSizeShift: objectShift,
		MinCopies: uint8(w.opt.MinCopies), SyncAlways: w.opt.Sync}
	if w.opt.Coded.Parity > 0 {
		req.Copies = w.opt.Coded
	}
	if _, err := up[0].Node().Backend().Format(ctx, req); err != nil {
		w.t.Fatalf("format: %v", err)
	}
	w.AwaitWhole()
	w.Await(10*time.Second, "enough nodes vote", w.votes)
}

// votes checks that all vote who should: until then the death of the node that
// formatted the cluster stops it.
func (w *World) votes() error {
	up, voters := w.Up(), 0
	for _, h := range up {
		if h.Node().Cluster().Voter() {
			voters++
		}
	}
	want := min(len(up), 5)
	if want == 4 {
		want = 3 // an even number would be no safer
	}
	if voters < want {
		return fmt.Errorf("%d of %d nodes vote, want %d", voters, len(up), want)
	}
	return nil
}

// Await waits until look has no objection, for at most limit of simulated time.
func (w *World) Await(limit time.Duration, what string, look func() error) {
	w.t.Helper()
	end := time.Now().Add(limit)
	for {
		err := look()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("after %v not yet: %s: %v", limit, what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// AwaitWhole waits until every running node is a member and every partition has
// all the replicas that it wants.
func (w *World) AwaitWhole() {
	w.t.Helper()
	w.Await(120*time.Second, "every partition has all its replicas", w.whole)
}

func (w *World) whole() error {
	up := w.Up()
	var newest *sheepdog.View
	for _, h := range up {
		v := h.Node().Cluster().View()
		if v == nil {
			return fmt.Errorf("node %d has no view", h.Number)
		}
		m, ok := v.Member(sheepdog.NodeID(h.Number))
		if !ok || m.Incarnation != h.Node().Self().Incarnation || len(v.Members) != len(up) {
			return fmt.Errorf("node %d has a view of %d members at revision %d, %d run", h.Number, len(v.Members), v.Revision, len(up))
		}
		if newest != nil && newest.Revision != v.Revision {
			return fmt.Errorf("nodes have revisions %d and %d", newest.Revision, v.Revision)
		}
		newest = v
	}
	return complete(newest)
}

func complete(v *sheepdog.View) error {
	for policy, table := range v.Tables {
		var last *sheepdog.Placement
		for p, pl := range table {
			if pl == last {
				continue
			}
			last = pl
			if !pl.Complete() {
				return fmt.Errorf("revision %d policy %s partition %d: acting %v, target %v, state %d", v.Revision, policy, p, pl.Acting, pl.Target, pl.State)
			}
		}
	}
	return nil
}

// Close ends all nodes.
func (w *World) Close() {
	w.net.HealAll()
	var wg sync.WaitGroup
	for _, h := range w.Hosts() {
		wg.Go(h.Kill)
	}
	wg.Wait()
	// Goroutines of the libraries end with their timers. One that did not would
	// be reported as a deadlock of the bubble.
	time.Sleep(15 * time.Second)
}
