// Package recovery makes the replicas of one node what the view asks for: it
// backfills targets and has them promoted, makes restarted replicas equal
// before they serve, drops what no view or directory wants, and checks and
// heals replicas. It follows views and never decides them; guest I/O never
// waits for it. How replicas keep the rules meanwhile is replica's business.
//
// Main types: Agent does the work of one node; Plan, a pure function of the
// view, says what there is to do.
package recovery

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"sheepdog"
	"sheepdog/internal/pause"
)

// Peers finds other nodes' replicas.
type Peers interface {
	// Replica never fails: calls to a node that cannot be reached return
	// ErrUnreachable.
	Replica(id sheepdog.NodeID) sheepdog.Replica
}

// Local is the replica server of this node, with what only this node may ask of
// it. The requests name a replica by their fence, policy, object and layer.
type Local interface {
	sheepdog.Replica
	// Touched says which blocks the present interval has written; the others are
	// of unknown worth.
	Touched(r *sheepdog.FetchRequest) ([]bool, error)
	// Distrust makes blocks with stamps up to the given one untouched again.
	Distrust(r *sheepdog.FetchRequest, upTo sheepdog.Stamp) error
	// Discard drops what no write of the present interval made.
	Discard(ctx context.Context, r *sheepdog.FetchRequest) error
	// Evict drops an object unless the newest view wants it here.
	Evict(policy sheepdog.Policy, obj sheepdog.ObjectID, layer sheepdog.LayerID) error
	// Carry takes over the promise, dirty marks and origins of a source.
	Carry(revision sheepdog.Revision, family sheepdog.FamilyID, promised sheepdog.Token, from *sheepdog.SealReply) error
	// Drain returns when every write admitted before the call is finished.
	Drain()
	// Forget drops what is remembered of families that are gone. It looks at all that
	// are remembered.
	Forget()
	// DropScratch drops what an earlier life left behind; nothing else of this
	// interface may run meanwhile.
	DropScratch() error
}

// Layers is what recovery must know of the VDI directory.
type Layers interface {
	// Chain lists the physical layers that a read of the layer goes through.
	Chain(layer sheepdog.LayerID) []sheepdog.LayerID
	// Logical lists the layer and those absorbed into it, newest first.
	Logical(layer sheepdog.LayerID) []sheepdog.LayerID
	// Owner is the listed layer that a physical layer belongs to.
	Owner(layer sheepdog.LayerID) (sheepdog.LayerID, bool)
	// Dropped reports whether the layer was listed once and never will be again.
	Dropped(layer sheepdog.LayerID) bool
	// Departed lists the layers that came to be Dropped after a number that an earlier
	// call returned, and how far that goes. If it is not complete any may be among them.
	Departed(after uint64) (ids []sheepdog.LayerID, upTo uint64, complete bool)
	// Absorbing lists the layers that have absorbed others.
	Absorbing() []sheepdog.LayerID
	// Policy is the redundancy policy of a family; false if it is not listed.
	Policy(family sheepdog.FamilyID) (sheepdog.Policy, bool)
	// ObjectShift is the size of a family's objects as a power of two; false if the
	// family is not listed.
	ObjectShift(family sheepdog.FamilyID) (uint8, bool)
	// Changed is closed at the next change of the directory.
	Changed() <-chan struct{}
}

// Move proposes a change of the partition table on behalf of one node.
type Move struct {
	Policy      sheepdog.Policy
	Node        sheepdog.NodeID
	Incarnation sheepdog.Incarnation
	Items       []Item
}

// Committer commits moves. A partition whose Since is not that of the item is
// refused and left as it is.
type Committer interface {
	// Promote makes the node act.
	Promote(ctx context.Context, m *Move) (refused []sheepdog.Partition, err error)
	// Clean lets the live acting replicas serve.
	Clean(ctx context.Context, m *Move) (refused []sheepdog.Partition, err error)
}

// Hooks are told what recovery meets. Each may be nil; none may block but those
// that take a context.
type Hooks struct {
	// Suspect is told of a node that did not answer.
	Suspect func(id sheepdog.NodeID, err error)
	// Settle is told of a family that an unfinished write holds up until some
	// coordinator takes it over.
	Settle func(family sheepdog.FamilyID)
	// Merged is told of absorbed layers of which this node durably holds nothing
	// any more.
	Merged func(ctx context.Context, layers []sheepdog.LayerID) error
	// Flapping tells how many times longer than Delay to wait for a node that was
	// removed, as it came back at once before; nil: never longer.
	Flapping func(id sheepdog.NodeID) int
	// Load tells what guests did at this node so far, to which recovery gives way.
	Load func() Load
}

// Config is what an Agent needs.
type Config struct {
	Self        sheepdog.NodeID
	Incarnation sheepdog.Incarnation
	Store       sheepdog.Engine
	Local       Local
	Peers       Peers
	Views       sheepdog.Views
	Layers      Layers
	Committer   Committer
	Hooks       Hooks
	// Delay is the wait before moving data in place of a node that was removed
	// and may come back; negative: none, 0: DefaultDelay. What guests cannot write
	// to without another replica never waits.
	Delay time.Duration
	// Parallel bounds the objects moved at once; 0: DefaultParallel.
	Parallel int
	// ScrubEvery is the time in which the scrub checks every object once; negative:
	// it does not, 0: DefaultScrubEvery.
	ScrubEvery time.Duration
	// ScrubMore checks and heals what else belongs to a slice of the scrub, which
	// has the partitions that want chooses; pace returns when so many bytes may be
	// read. nil: there is nothing else.
	ScrubMore func(ctx context.Context, want func(sheepdog.Partition) bool, pace func(context.Context, uint64) error) (Summary, error)
	// Retry is the wait after a failure; 0: DefaultRetry.
	Retry time.Duration
	Log   *slog.Logger
}

// Defaults of Config.
const (
	DefaultDelay    = 5 * time.Second
	DefaultParallel = 4
	DefaultRetry    = time.Second
)

// maxRuns bounds the groups worked on at once, so that a node is neither a
// storm for its sources nor held up by one of them.
const maxRuns = 16

// maxStepRest bounds the rest between looks at new views.
const maxStepRest = 500 * time.Millisecond

// Agent does the recovery of one node.
type Agent struct {
	cfg      Config
	throttle Throttle
	pace     *Pace
	scrub    *scrubber
	progress progress
	slots    chan struct{} // one per object being moved
	buffers  sync.Pool     // of *[]byte, for copyBlocks
	heals    chan healing

	promotions *promotions // set by Run
}

// New makes an Agent; Run does the work.
func New(cfg Config) *Agent {
	if cfg.Delay == 0 {
		cfg.Delay = DefaultDelay
	}
	if cfg.Parallel == 0 {
		cfg.Parallel = DefaultParallel
	}
	if cfg.Retry == 0 {
		cfg.Retry = DefaultRetry
	}
	if cfg.ScrubEvery == 0 {
		cfg.ScrubEvery = DefaultScrubEvery
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	a := &Agent{cfg: cfg, pace: newPace(cfg.Hooks.Load), slots: make(chan struct{}, cfg.Parallel), heals: make(chan healing, maxHeals),
		buffers: sync.Pool{New: func() any { b := make([]byte, copyBlocks*sheepdog.BlockSize); return &b }}}
	a.scrub = newScrubber(a)
	return a
}

// SetThrottle bounds the recovery of this node to max objects per interval;
// both zero: no bound but the way that it gives to guests.
func (a *Agent) SetThrottle(max uint32, interval time.Duration) error {
	return a.throttle.Set(max, interval)
}

// Throttle tells what SetThrottle set.
func (a *Agent) Throttle() (max uint32, interval time.Duration) { return a.throttle.Get() }

// Progress tells how far recovery is.
func (a *Agent) Progress() Progress { return a.progress.get(time.Now()) }

// Run works until the context ends; it returns after everything it started has
// ended. It must not run twice at a time.
func (a *Agent) Run(ctx context.Context) error {
	if err := a.cfg.Local.DropScratch(); err != nil {
		return fmt.Errorf("start recovery: %w", err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { a.runCollector(ctx) })
	wg.Go(func() { a.runHealer(ctx) })
	wg.Go(func() { a.scrub.run(ctx) })
	a.promotions = &promotions{ctx: ctx, spawn: wg.Go, commit: a.cfg.Committer.Promote}
	s := newSchedule(a)
	defer s.stop()
	for {
		v := a.cfg.Views.View()
		changed := a.cfg.Views.Changed(v)
		began := time.Now()
		wake := s.step(ctx, v, began)
		took := time.Since(began)
		timer := time.NewTimer(wake)
		select {
		case <-changed:
			// Views come in bursts; of a large cluster each takes a while to look through.
			_ = pause.For(ctx, min(20*took, maxStepRest))
		case r := <-s.results:
			s.finish(r, time.Now())
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		timer.Stop()
	}
}

// place names a replica for the Local interface and for fetches.
func place(revision sheepdog.Revision, policy sheepdog.Policy, obj sheepdog.ObjectID, layer sheepdog.LayerID) sheepdog.FetchRequest {
	return sheepdog.FetchRequest{Fence: sheepdog.Fence{Revision: revision}, Policy: policy, Object: obj, Layer: layer}
}

// replica is the local server or a peer.
func (a *Agent) replica(id sheepdog.NodeID) sheepdog.Replica {
	if id == a.cfg.Self {
		return a.cfg.Local
	}
	return a.cfg.Peers.Replica(id)
}
