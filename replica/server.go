// Package replica answers for the replicas of one node: it checks every request
// against the committed view, the tokens and the directory, and applies it to
// the node's Engine. It is where the rules of docs/protocol.md that a replica
// must keep are kept. It does not choose who holds what (cluster), does not
// talk to other nodes (peer, gateway) and starts no copying (recovery).
//
// Main types: Server is the sheepdog.Replica of this node; Layers is what it
// must know of the VDI directory.
package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"sheepdog"
)

// Layers is the replica's knowledge of the VDI directory. It must be at least
// as new as any view that Views has published: both come from one log, and the
// Server relies on it to know, in a newly adopted view, every token appointed
// before that view.
type Layers interface {
	// Chain lists the physical layers through which a read of the layer goes
	// within its family, newest first, those absorbed into others included.
	Chain(layer sheepdog.LayerID) []sheepdog.LayerID
	// Logical lists the layer and the deleted layers absorbed into it, newest
	// first.
	Logical(layer sheepdog.LayerID) []sheepdog.LayerID
	// Owner is the listed layer to which a physical layer belongs: itself, or the
	// one that absorbed it. It is false for a layer that is not listed.
	Owner(layer sheepdog.LayerID) (sheepdog.LayerID, bool)
	// Family is the family of a listed layer.
	Family(layer sheepdog.LayerID) (sheepdog.FamilyID, bool)
	// Frozen reports whether the layer refuses writes; known is false if the
	// directory does not list it.
	Frozen(layer sheepdog.LayerID) (frozen, known bool)
	// Dropped reports whether the layer was listed once and will never be again.
	// A layer that this node has not heard of yet is not dropped.
	Dropped(layer sheepdog.LayerID) bool
	// Policy is the redundancy policy of a family; false if it is not listed.
	Policy(family sheepdog.FamilyID) (sheepdog.Policy, bool)
	// ObjectShift is the size of a family's objects as a power of two; false if the
	// family is not listed.
	ObjectShift(family sheepdog.FamilyID) (uint8, bool)
	// Token is the committed token of the family's coordinator.
	Token(family sheepdog.FamilyID) sheepdog.Token
	// Coordinator is the node of that coordinator; zero: there is none now.
	Coordinator(family sheepdog.FamilyID) sheepdog.NodeID
	// Version moves with every change of the directory. What was looked up between two
	// calls that returned the same version, steady both times, holds for as long as
	// calls return that version, steady.
	Version() (version uint64, steady bool)
	// Changed is closed at the next change of the directory.
	Changed() <-chan struct{}
}

// Config is what a Server needs. All fields but Heal, CatchUp and Log are
// required.
type Config struct {
	Self        sheepdog.NodeID
	Incarnation sheepdog.Incarnation
	Engine      sheepdog.Engine
	Views       sheepdog.Views
	Layers      Layers
	// Heal is told of blocks that failed their checksum in a read from the layer
	// downwards. It must not block.
	Heal func(obj sheepdog.ObjectID, layer sheepdog.LayerID, blocks []sheepdog.BlockNo)
	// NoSync answers Flush without making anything durable.
	NoSync bool
	// CatchUp bounds the wait for a view or a layer that a request knows and this
	// node does not; 0 means DefaultCatchUp.
	CatchUp time.Duration
	Log     *slog.Logger
}

// DefaultCatchUp is how long a request waits for this node to learn its view or
// its layer.
const DefaultCatchUp = 2 * time.Second

// Server is the sheepdog.Replica of this node. It is safe for concurrent use.
type Server struct {
	shards   [shardCount]shard
	cfg      Config
	families families
	streams  streams
	rulings  atomic.Pointer[rulings] // of the newest view that was met; see admitQuickly
	// born is the revision of the first view seen that lists this incarnation;
	// 0 until then. What was asked before was asked of an earlier life.
	born atomic.Uint64
	// ceased is the newest revision that took this node out of the acting replicas
	// of some partition, or began its backfill anew.
	ceased atomic.Uint64
	// dropped is the newest revision under which this node dropped an object that it
	// need not have: see listLayer.
	dropped atomic.Uint64
	lives   sheepdog.Lives // of the gateways that have sent writes
	// scratch numbers the temporary layers of Discard.
	scratch atomic.Uint64
}

// New makes the Server. It starts no goroutine.
func New(cfg Config) *Server {
	if cfg.CatchUp == 0 {
		cfg.CatchUp = DefaultCatchUp
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg}
	for i := range s.shards {
		s.shards[i].init()
	}
	s.families.all = make(map[sheepdog.FamilyID]*family)
	s.view()
	return s
}

// waiting is why a request cannot be decided yet: this node lags behind what
// the request knows.
type waiting struct{ what string }

func (w *waiting) Error() string { return w.what }

func isWaiting(err error) bool {
	var w *waiting
	return errors.As(err, &w)
}

// await runs try until it decides, at most for the catch-up time. The channels
// are taken before each look, so that no change between look and wait is lost.
func (s *Server) await(ctx context.Context, try func(v *sheepdog.View) error) error {
	err := try(s.view())
	if !isWaiting(err) {
		return err
	}
	timer := time.NewTimer(s.cfg.CatchUp)
	defer timer.Stop()
	for {
		layers := s.cfg.Layers.Changed()
		v := s.view()
		views := s.cfg.Views.Changed(v)
		if err = try(v); !isWaiting(err) {
			return err
		}
		if !s.pause(ctx, timer, views, layers) {
			return s.lagging(ctx, err)
		}
	}
}

// pause waits for news; false if the time is over.
func (s *Server) pause(ctx context.Context, timer *time.Timer, views, layers <-chan struct{}) bool {
	select {
	case <-views:
		return true
	case <-layers:
		return true
	case <-timer.C:
		return false
	case <-ctx.Done():
		return false
	}
}

// lagging is the answer to a request for which the wait was in vain.
func (s *Server) lagging(ctx context.Context, why error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("node %s: %w", s.cfg.Self, context.Cause(ctx))
	}
	return fmt.Errorf("node %s: %w: %s after %v", s.cfg.Self, sheepdog.ErrBehind, why, s.cfg.CatchUp)
}

// view is the newest view. It notes when this incarnation was first listed, and
// who lives.
func (s *Server) view() *sheepdog.View {
	v := s.cfg.Views.View()
	if v != nil {
		s.lives.See(v)
	}
	if v != nil && s.born.Load() == 0 {
		if m, ok := v.Member(s.cfg.Self); ok && m.Incarnation == s.cfg.Incarnation {
			s.born.CompareAndSwap(0, uint64(v.Revision))
		}
	}
	return v
}
