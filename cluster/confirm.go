package cluster

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"sheepdog"
	"sheepdog/cluster/state"
	"sheepdog/internal/pause"
)

// confirmAll asks the members of the view, side by side and for a bounded time,
// whether they are still the processes that the view lists. A member in doubt
// gets more time: a process that is starved of its processor falls silent in
// gossip long before it is dead, and to take it for gone costs a backfill.
func (c *Cluster) confirmAll(view *sheepdog.View, w work) map[state.MemberRef]bool {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	joining := make(map[sheepdog.NodeID]bool)
	for _, m := range w.joins {
		joining[m.ID] = true
	}
	answers := make(chan answer, len(view.Members))
	waits := make(map[state.MemberRef]bool) // for whom; true: in doubt
	confirmed := make(map[state.MemberRef]bool)
	for _, m := range view.Members {
		ref := state.MemberRef{ID: m.ID, Incarnation: m.Incarnation}
		if ref == c.selfRef() {
			confirmed[ref] = !w.leaves[ref] && !c.lossy.Load()
			continue
		}
		if joining[m.ID] || w.leaves[ref] || m.ID == c.opts.Self.ID {
			continue
		}
		waits[ref] = w.doubtful[ref]
		c.wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, c.patienceWith(m.ID))
			defer cancel()
			answers <- answer{ref, c.askPatiently(ctx, m)}
		})
	}
	c.collectAnswers(answers, waits, confirmed)
	return confirmed
}

// askAgain is the pause before a member that may be starved is asked again.
const askAgain = 250 * time.Millisecond

// askPatiently asks a member whether it lives. A connection to a process that stands still
// is given up long before patience with it ends: one that came back before is
// asked again until ctx ends, unless its port refuses.
func (c *Cluster) askPatiently(ctx context.Context, m sheepdog.Member) error {
	for {
		_, err := c.call(ctx, m.Addr, methodConfirm, message{Ref: state.MemberRef{ID: m.ID, Incarnation: m.Incarnation}})
		if !errors.Is(err, sheepdog.ErrUnreachable) || refused(err) || c.Flapping(m.ID) == 1 {
			return err
		}
		if pause.For(ctx, askAgain) != nil {
			return err
		}
		c.opts.Caller.Redial(m.Addr)
	}
}

// heldUp is how much longer than it should asking may take before the leader's
// own processor is to blame: then answers may be there that it had no time to
// read, and silence says nothing.
const (
	heldUp    = 250 * time.Millisecond
	heldTries = 3
)

// confirmPatiently asks again if this process was starved while it waited.
func (c *Cluster) confirmPatiently(view *sheepdog.View, w work) (confirmed map[state.MemberRef]bool) {
	var longest time.Duration
	for ref := range w.doubtful {
		longest = max(longest, c.patienceWith(ref.ID))
	}
	for range heldTries {
		began := c.opts.Clock()
		confirmed = c.confirmAll(view, w)
		if len(w.doubtful) == 0 || c.opts.Clock()-began < longest+heldUp || c.ctx.Err() != nil {
			break
		}
		c.opts.Logger.Info("this node was held up while it waited for others; it asks again")
	}
	return confirmed
}

// answer is what came of asking a member.
type answer struct {
	ref state.MemberRef
	err error
}

// collectAnswers takes answers until all are there or, after Timing.Confirm,
// those of all members in doubt.
func (c *Cluster) collectAnswers(answers <-chan answer, waits, confirmed map[state.MemberRef]bool) {
	timer := time.NewTimer(c.timing(0).Confirm)
	defer timer.Stop()
	late := false
	for len(waits) > 0 && !(late && !anyDoubt(waits)) {
		select {
		case a := <-answers:
			delete(waits, a.ref)
			if a.err == nil {
				confirmed[a.ref] = true
			}
		case <-timer.C:
			late = true
		}
	}
}

func anyDoubt(waits map[state.MemberRef]bool) bool {
	for _, doubtful := range waits {
		if doubtful {
			return true
		}
	}
	return false
}

// handleConfirm answers for this process.
func (c *Cluster) handleConfirm(_ context.Context, m message) (any, error) {
	if m.Ref != c.selfRef() {
		return nil, fmt.Errorf("%w: this is node %v with incarnation %v", sheepdog.ErrConflict, c.opts.Self.ID, c.opts.Self.Incarnation)
	}
	if c.leaving.Load() || c.fatal.Load() != nil || c.GivenUp() != nil {
		return nil, sheepdog.ErrClosed
	}
	if c.lossy.Load() {
		return nil, fmt.Errorf("%w: node %v has lost a disk, and is about to say so", sheepdog.ErrIO, c.opts.Self.ID)
	}
	return reply{}, nil
}

// suspicion is a report that a member does not take connections.
type suspicion struct {
	ref      state.MemberRef
	reporter sheepdog.NodeID
}

// maxSuspicions bounds reports that wait; more are dropped, gossip finds out.
const maxSuspicions = 64

// Suspect reports that a connection to a member was refused or reset. It does
// not block. The leader has a second observer look at once, and removes the
// member if that one is refused as well.
func (c *Cluster) Suspect(id sheepdog.NodeID, inc sheepdog.Incarnation) {
	s := suspicion{ref: state.MemberRef{ID: id, Incarnation: inc}, reporter: c.opts.Self.ID}
	if id == c.opts.Self.ID || !listed(c.pub.view(), s.ref) {
		return
	}
	select {
	case c.suspicions <- s:
	default:
	}
}

// suspectStream turns a refused Raft stream into a suspicion.
func (c *Cluster) suspectStream(id sheepdog.NodeID, err error) {
	if view := c.pub.view(); refused(err) && view != nil {
		if m, ok := view.Member(id); ok {
			c.Suspect(id, m.Incarnation)
		}
	}
}

// suspectLoop passes suspicions to the leader, or looks into them there. The
// same member is not looked at again and again: the reporter repeats itself.
func (c *Cluster) suspectLoop() {
	for {
		select {
		case s := <-c.suspicions:
			if err := c.report(s); err != nil {
				c.opts.Logger.Debug("suspicion was not confirmed", "node", s.ref.ID, "err", err)
			}
		case <-c.ctx.Done():
			return
		}
	}
}

func (c *Cluster) report(s suspicion) error {
	if !listed(c.pub.view(), s.ref) {
		return nil
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.opts.Timing.Call)
	defer cancel()
	if c.office.Load() != nil {
		return c.investigate(ctx, s)
	}
	if cons := c.consensus.Load(); cons != nil && cons.leaderID() == s.ref.ID {
		return c.succeed(ctx, cons, s.ref)
	}
	_, err := c.askLeader(ctx, methodSuspect, message{Ref: s.ref, Member: c.opts.Self})
	return err
}

// handleSuspect queues a report of another node on the leader.
func (c *Cluster) handleSuspect(_ context.Context, m message) (any, error) {
	if c.office.Load() == nil {
		return nil, errNotLeader
	}
	select {
	case c.suspicions <- suspicion{ref: m.Ref, reporter: m.Member.ID}:
		return reply{}, nil
	default:
		return nil, fmt.Errorf("%w: %d suspicions wait", sheepdog.ErrBusy, maxSuspicions)
	}
}

// investigate has the second observer look: the leader itself, or if the leader
// reported, other members.
func (c *Cluster) investigate(ctx context.Context, s suspicion) error {
	off, view := c.office.Load(), c.pub.view()
	if off == nil || !listed(view, s.ref) || s.ref == c.selfRef() {
		return nil
	}
	m, _ := view.Member(s.ref.ID)
	look := c.othersObserve
	if s.reporter != c.opts.Self.ID {
		look = func(ctx context.Context, _ *sheepdog.View, m sheepdog.Member) error { return c.observe(ctx, m) }
	}
	if err := look(ctx, view, m); err != nil {
		return err
	}
	if off.pending.condemn(s.ref) { // everybody who had a connection to it reports
		c.opts.Logger.Info("two nodes found a member gone", "node", s.ref.ID, "addr", m.Addr)
	}
	c.kickMembership()
	return nil
}

// othersObserve returns nil if another member finds that one certainly gone.
func (c *Cluster) othersObserve(ctx context.Context, view *sheepdog.View, m sheepdog.Member) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	observers := c.observers(view, m.ID)
	answers := make(chan error, len(observers))
	for _, o := range observers {
		c.wg.Go(func() {
			_, err := c.call(ctx, o.Addr, methodProbe, message{Ref: state.MemberRef{ID: m.ID, Incarnation: m.Incarnation}, Addr: m.Addr})
			answers <- err
		})
	}
	err := errors.New("no other member could look")
	for range observers {
		if err = <-answers; err == nil {
			return nil
		}
	}
	return err
}

// observers are up to three members that could look at another one. Gossip only
// says whom to ask first: it finds a node again seconds after that has returned.
func (c *Cluster) observers(view *sheepdog.View, suspect sheepdog.NodeID) []sheepdog.Member {
	const most = 3
	var alive, silent []sheepdog.Member
	for _, m := range view.Members {
		if m.ID == suspect || m.ID == c.opts.Self.ID {
			continue
		}
		if g, known := c.gossip.member(state.MemberRef{ID: m.ID, Incarnation: m.Incarnation}); known && g.State == GossipAlive {
			alive = append(alive, m)
		} else {
			silent = append(silent, m)
		}
	}
	out := append(alive, silent...)
	return out[:min(len(out), most)]
}

// handleProbe is the second observer's side: nil if the node is gone.
func (c *Cluster) handleProbe(ctx context.Context, m message) (any, error) {
	if m.Ref == c.selfRef() {
		return nil, fmt.Errorf("%w: I live", sheepdog.ErrConflict)
	}
	view := c.pub.view()
	if view == nil {
		return nil, sheepdog.ErrNotFormatted
	}
	member, ok := view.Member(m.Ref.ID)
	if !ok || member.Incarnation != m.Ref.Incarnation {
		return nil, fmt.Errorf("%w: node %v is not in the view of this node", sheepdog.ErrNotFound, m.Ref.ID)
	}
	if err := c.observe(ctx, member); err != nil {
		return nil, err
	}
	return reply{}, nil
}

// observe returns nil if the member's process is certainly gone: its port
// refuses connections, or another process answers there. Silence is no proof.
func (c *Cluster) observe(ctx context.Context, m sheepdog.Member) error {
	ctx, cancel := context.WithTimeout(ctx, c.timing(0).Confirm)
	defer cancel()
	conn, err := c.opts.Network.Dial(ctx, m.Addr)
	if refused(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at node %v: no answer is no proof: %w", m.ID, err)
	}
	conn.Close()
	_, err = c.call(ctx, m.Addr, methodConfirm, message{Ref: state.MemberRef{ID: m.ID, Incarnation: m.Incarnation}})
	switch {
	case errors.Is(err, sheepdog.ErrConflict), refused(err):
		return nil
	case err != nil:
		return fmt.Errorf("look at node %v: %w", m.ID, err)
	}
	return fmt.Errorf("node %v lives", m.ID)
}

// refused reports errors that only the absence of a listening process explains.
func refused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET)
}
