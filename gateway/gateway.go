// Package gateway turns the reads and writes of one object into requests to its
// replicas: it fans out, applies the acknowledgement rule, takes another replica
// when one fails, tries again in a newer view, and makes replicas equal when a
// coordinator takes over. It is stateless between calls; ordering the writes of
// a VDI, layers of other families and attachments are vdi's business, deciding
// who holds what is cluster's.
//
// Main type: Gateway.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"sheepdog"
)

// Peers gives the replicas of a member, local or remote. Requests to a node
// that is no member any more end with ErrUnreachable.
type Peers interface {
	Replica(m sheepdog.Member) sheepdog.Replica
}

// Timing bounds the waits of a Gateway.
type Timing struct {
	RetryMin time.Duration // first pause before the same view is tried again
	RetryMax time.Duration // longest pause
}

// DefaultTiming is right for a LAN.
func DefaultTiming() Timing {
	return Timing{RetryMin: 5 * time.Millisecond, RetryMax: 250 * time.Millisecond}
}

// Gateway is safe for concurrent use.
type Gateway struct {
	self    sheepdog.NodeID
	views   sheepdog.Views
	peers   Peers
	suspect func(sheepdog.Member) // told of members that could not be reached
	timing  Timing
	log     *slog.Logger
	fans    sync.Pool // of *fan
	batches sync.Pool // of *batch
	rolled  atomic.Pointer[roll]
	stalls  stalls
	routes  atomic.Pointer[routes]
}

// New makes a gateway for the node self. suspect must not block.
func New(self sheepdog.NodeID, views sheepdog.Views, peers Peers, suspect func(sheepdog.Member), timing Timing, log *slog.Logger) *Gateway {
	return &Gateway{self: self, views: views, peers: peers, suspect: suspect, timing: timing, log: log}
}

// errWaiting is why an attempt could not even begin in the present view.
var errWaiting = errors.New("partition waits for replicas")

// retry runs attempt against the newest view until it succeeds, fails for good,
// or ctx ends. Between attempts it waits for a newer view, or a growing pause:
// a connection may break without any change of the view.
func (g *Gateway) retry(ctx context.Context, attempt func(v *sheepdog.View) error) error {
	pause := g.timing.RetryMin
	for {
		v := g.views.View()
		err := sheepdog.ErrNotFormatted
		if v != nil {
			err = attempt(v)
		}
		if err == nil || final(err) {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w (last: %w)", context.Cause(ctx), err)
		}
		if g.pause(ctx, v, pause) {
			pause = g.timing.RetryMin
		} else {
			pause = min(2*pause, g.timing.RetryMax)
		}
	}
}

// pause waits for a view newer than v, for d, or for ctx; it reports whether
// there is a newer view.
func (g *Gateway) pause(ctx context.Context, v *sheepdog.View, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-g.views.Changed(v):
		return true
	case <-t.C:
	case <-ctx.Done():
	}
	return false
}

// final reports whether trying again cannot help: the caller must act.
func final(err error) bool {
	for _, e := range []error{sheepdog.ErrFenced, sheepdog.ErrFrozen, sheepdog.ErrInvalid,
		sheepdog.ErrClosed, sheepdog.ErrWrongCluster, sheepdog.ErrNotFound} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// note reports an unreachable member as a suspicion; anything else is the
// caller's to handle.
func (g *Gateway) note(m sheepdog.Member, err error) {
	if errors.Is(err, sheepdog.ErrUnreachable) {
		g.suspect(m)
	}
}

// nodeError says which replica failed. That another node closes, or that the
// connection to it was closed because it is no member any more, ends nothing
// here: the write must go on with those that are left, or a half of it would be
// there for reads to see on one replica and not on the next.
func (g *Gateway) nodeError(what string, m sheepdog.Member, err error) error {
	if m.ID != g.self && errors.Is(err, sheepdog.ErrClosed) {
		return fmt.Errorf("%s on node %s (%s): %w: %v", what, m.ID, m.Addr, sheepdog.ErrUnreachable, err)
	}
	return fmt.Errorf("%s on node %s (%s): %w", what, m.ID, m.Addr, err)
}
