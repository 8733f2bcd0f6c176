package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"sheepdog"
	"sheepdog/cluster/state"
	"sheepdog/internal/pause"
)

// Leases. A node may coordinate while it holds one. Why a lease never outlives
// what LeaseOver waits for, whoever the leaders were, without comparing clocks:
//
// A node sends its request at moment s and, if granted, holds the lease until
// s + Lease. The granting leader G received the request after s and began its
// proof after that, so no leader of a later term had been elected at s. It then
// notes the grant at g > s, under the lock under which it has looked that the
// view lists the node.
//
// LeaseOver runs on a leader L whose view does not list the node, and waits
// until Lease + margin after the later of (a) the last grant that L noted for
// the node and (b) the moment at which L took office.
//   - G is L, in the same office: notes and LeaseOver share a lock, and
//     LeaseOver has seen the view without the node, so every later request is
//     refused and every earlier one was noted: g <= (a), and s < g.
//   - G led an earlier term: at s, L had not been elected, so s < (b).
//   - G led a later term than L: then L is deposed. What LeaseOver lets through
//     is a command that L cannot commit any more, and whoever commits it, asks
//     a later leader's LeaseOver.
//
// A renewal that has time is held until the leader's next slot, so that all nodes
// of the cluster share one proof per slot: it begins after every one of them was
// received. A node asks again shortly before the next slot.
//
// A node that is listed again between LeaseOver and the commit of what it let
// through may have got a new lease: commands are bound to the membership that
// was in force when they passed the gate (entry.Membership). One that is listed
// again after that commit does not use a new lease before it has applied the view
// that lists it, and with that the commit: its own view may be the one before all
// that, in which it was a member as well.
//
// Only the lengths of intervals measured by two clocks are compared; the margin
// covers a difference in speed of a twentieth and more.

// office is what a leader knows for the length of its term.
type office struct {
	term    uint64
	elected time.Duration // on this node's clock, not before the election
	prover  *prover
	end     context.CancelFunc // of what runs for this office

	mu     sync.Mutex
	grants map[state.MemberRef]time.Duration // when a lease was last granted
	slot   *slotProof                        // of the newest slot that somebody waits for

	pending *pending
}

// maxGrants bounds the remembered grants; those long over go first.
const maxGrants = 2 * state.MaxMembers

func newOffice(term uint64, elected time.Duration) *office {
	return &office{term: term, elected: elected, grants: make(map[state.MemberRef]time.Duration), pending: newPending()}
}

// slotProof is a proof that begins at a time on the leader's clock.
type slotProof struct {
	at time.Duration
	proof
}

// leadsAtSlot is prover.leads at the next slot. Whoever finds that slot to come
// was received before it, and the proof begins after it, however late he joins.
func (c *Cluster) leadsAtSlot(ctx context.Context, off *office) error {
	every, now := c.opts.Timing.Lease/3, c.opts.Clock()
	at := off.elected + ((now-off.elected)/every+1)*every
	off.mu.Lock()
	s := off.slot
	if s == nil || s.at != at {
		s = &slotProof{at: at, proof: proof{done: make(chan struct{})}}
		off.slot = s
		off.prover.spawn(func() {
			if s.err = pause.For(off.prover.ctx, at-now); s.err == nil {
				s.err = off.prover.leads(off.prover.ctx)
			}
			close(s.done)
		})
	}
	off.mu.Unlock()
	select {
	case <-s.done:
		return s.err
	case <-ctx.Done():
		return fmt.Errorf("prove leadership: %w", ctx.Err())
	}
}

// grant notes a lease for a node if the view lists it.
func (o *office) grant(ref state.MemberRef, view func() *sheepdog.View, clock func() time.Duration, length time.Duration) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !listed(view(), ref) {
		return fmt.Errorf("%w: node %v with incarnation %v is not in the view", sheepdog.ErrNotActing, ref.ID, ref.Incarnation)
	}
	now := clock()
	if len(o.grants) >= maxGrants {
		for r, at := range o.grants {
			if now-at > 10*length {
				delete(o.grants, r)
			}
		}
	}
	o.grants[ref] = now
	return nil
}

// lastGrant is when the last lease of a node that is not listed was granted at
// the latest.
func (o *office) lastGrant(ref state.MemberRef, view func() *sheepdog.View) (time.Duration, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if listed(view(), ref) {
		return 0, fmt.Errorf("node %v is in the view and may hold a lease: %w", ref.ID, sheepdog.ErrBusy)
	}
	return max(o.elected, o.grants[ref]), nil
}

// listed reports whether the view has the node under this incarnation.
func listed(v *sheepdog.View, ref state.MemberRef) bool {
	if v == nil {
		return false
	}
	m, ok := v.Member(ref.ID)
	return ok && m.Incarnation == ref.Incarnation
}

// LeaseOver waits until a node that the view does not list, or lists under
// another incarnation, certainly has no lease. Only the leader can tell; other
// nodes get an error that wraps sheepdog.ErrNoQuorum. ErrBusy: the node is in
// the view.
func (c *Cluster) LeaseOver(ctx context.Context, node state.MemberRef) error {
	for {
		off := c.office.Load()
		if off == nil {
			return errNotLeader
		}
		last, err := off.lastGrant(node, c.pub.view)
		if err != nil {
			return err
		}
		left := last + c.opts.Timing.Lease + c.opts.Timing.LeaseMargin - c.opts.Clock()
		if left <= 0 {
			return nil
		}
		if err := pause.For(ctx, left); err != nil {
			return fmt.Errorf("wait for the lease of node %v: %w", node.ID, err)
		}
	}
}

// lease is this node's own.
type lease struct {
	mu    sync.Mutex
	until time.Duration // on this node's clock
}

func (l *lease) extend(until time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until = max(l.until, until)
}

func (l *lease) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until = 0
}

// LeaseLeft is how long this node's lease lasts; 0 if it has none.
func (c *Cluster) LeaseLeft() time.Duration {
	c.lease.mu.Lock()
	defer c.lease.mu.Unlock()
	return max(0, c.lease.until-c.opts.Clock())
}

// LeaseValid reports whether this node may coordinate at this moment.
func (c *Cluster) LeaseValid() bool { return c.LeaseLeft() > 0 }

// renewLoop keeps the lease for as long as the view lists this node.
func (c *Cluster) renewLoop() {
	every := c.opts.Timing.Lease / 3
	pause := every / 8 // after a failure; longer after each
	for c.ctx.Err() == nil {
		if c.fatal.Load() != nil {
			// It cannot follow any more: let the others go on without it.
			c.gossip.leave(c.opts.Timing.Lease)
			return
		}
		view := c.pub.view()
		if !listed(view, c.selfRef()) || c.leaving.Load() {
			c.wait(c.pub.changed(view), every)
			continue
		}
		began := time.Now()
		patient := c.LeaseLeft() > c.opts.Timing.Lease*3/5
		err := c.renew(patient)
		switch {
		case errors.Is(err, sheepdog.ErrNotActing):
			c.expelled.Store(true)
			c.kickRegister()
		case err != nil:
			c.opts.Logger.Debug("lease not renewed", "err", err)
			c.suspectLeader(err)
			c.wait(nil, jitter(pause))
			pause = min(2*pause, every)
			continue
		}
		pause = every / 8
		if patient { // the answer came at a slot
			c.wait(nil, every-every/8)
			continue
		}
		c.wait(nil, every-time.Since(began))
	}
}

// suspectLeader turns a leader whose port refuses into a suspicion.
func (c *Cluster) suspectLeader(err error) {
	if cons := c.consensus.Load(); cons != nil && refused(err) {
		c.suspectStream(cons.leaderID(), err)
	}
}

// renew asks once. The lease counts from before the request was sent, and only
// once this node has applied the membership for which it was granted: one that was
// away and is listed again must know first what was let through meanwhile.
func (c *Cluster) renew(patient bool) error {
	ctx, cancel := context.WithTimeout(c.ctx, c.opts.Timing.Lease/2)
	defer cancel()
	sent := c.opts.Clock()
	r, err := c.askLeader(ctx, methodRenew, message{Ref: c.selfRef(), Patient: patient})
	if err != nil {
		return err
	}
	if err := c.pub.until(ctx, func(s *snapshotOfState) bool { return s.membership >= r.Membership }); err != nil {
		return fmt.Errorf("follow the leader to the membership of the lease: %w", err)
	}
	c.lease.extend(sent + c.opts.Timing.Lease)
	return nil
}

// handleRenew is the leader's side.
func (c *Cluster) handleRenew(ctx context.Context, m message) (any, error) {
	off := c.office.Load()
	if off == nil {
		return nil, errNotLeader
	}
	prove := off.prover.leads
	if m.Patient {
		prove = func(ctx context.Context) error { return c.leadsAtSlot(ctx, off) }
	}
	if err := prove(ctx); err != nil {
		return nil, err
	}
	if err := off.grant(m.Ref, c.pub.view, c.opts.Clock, c.opts.Timing.Lease); err != nil {
		return nil, err
	}
	return reply{Membership: c.pub.current.Load().membership}, nil // read after the view that lists the node
}
