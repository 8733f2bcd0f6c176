package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"sheepdog"
	"sheepdog/cluster/state"
	"sheepdog/internal/pause"
)

// proposals numbers this process's commands, so that a retry is recognised.
type proposals struct {
	slots chan struct{} // one per command under way

	mu   sync.Mutex
	last uint64
	open map[uint64]bool
}

func newProposals() *proposals {
	return &proposals{slots: make(chan struct{}, maxInFlight), open: make(map[uint64]bool)}
}

func (p *proposals) begin(ctx context.Context) (seq uint64, err error) {
	if ctx.Err() != nil { // else chance would say that others are under way
		return 0, fmt.Errorf("propose: %w", ctx.Err())
	}
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return 0, fmt.Errorf("propose: %d commands are under way: %w", maxInFlight, ctx.Err())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	p.open[p.last] = true
	return p.last, nil
}

func (p *proposals) end(seq uint64) {
	p.mu.Lock()
	delete(p.open, seq)
	p.mu.Unlock()
	<-p.slots
}

// done is the number up to which every command has ended.
func (p *proposals) done() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	done := p.last
	for seq := range p.open {
		done = min(done, seq-1)
	}
	return done
}

// Propose commits a command of the Machine, from any node, and returns its
// answer once it is applied here as well. It is tried until ctx ends, through
// elections, and applied at most once; an error that wraps sheepdog.ErrNoQuorum
// says that it may or may not be applied later.
func (c *Cluster) Propose(ctx context.Context, kind string, body []byte) ([]byte, error) {
	return c.propose(ctx, entry{Type: entryMachine, Kind: kind, Body: body})
}

// maxItems is how many partitions one Promote or Clean may name, so that it
// fits into an entry.
const maxItems = 8192

// ProposeState commits a change of the placement or configuration like Propose.
// A Promote or Clean of many partitions becomes several commands; an error then
// means that a part of it may be done.
func (c *Cluster) ProposeState(ctx context.Context, cmd state.Command) (state.Result, error) {
	var sum state.Result
	for _, part := range splitCommand(cmd) {
		r, err := c.proposeState(ctx, part)
		if err != nil {
			return sum, err
		}
		r.Changed = r.Changed || sum.Changed
		r.Refused = append(sum.Refused, r.Refused...)
		sum = r
	}
	return sum, nil
}

func (c *Cluster) proposeState(ctx context.Context, cmd state.Command) (r state.Result, err error) {
	body, err := cmd.Encode()
	if err != nil {
		return r, err
	}
	out, err := c.propose(ctx, entry{Type: entryState, Body: body})
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return r, fmt.Errorf("answer of the state machine: %w", err)
	}
	return r, nil
}

func splitCommand(cmd state.Command) []state.Command {
	var out []state.Command
	switch {
	case cmd.Promote != nil && len(cmd.Promote.Items) > maxItems:
		for items := cmd.Promote.Items; len(items) > 0; items = items[min(maxItems, len(items)):] {
			part := *cmd.Promote
			part.Items = items[:min(maxItems, len(items))]
			out = append(out, state.Command{Promote: &part})
		}
	case cmd.Clean != nil && len(cmd.Clean.Items) > maxItems:
		for items := cmd.Clean.Items; len(items) > 0; items = items[min(maxItems, len(items)):] {
			part := *cmd.Clean
			part.Items = items[:min(maxItems, len(items))]
			out = append(out, state.Command{Clean: &part})
		}
	default:
		out = append(out, cmd)
	}
	return out
}

// Intervals between attempts to reach a leader.
const (
	retryFirst = 10 * time.Millisecond
	retryMost  = 250 * time.Millisecond
)

// propose commits an entry through the leader and waits until it is applied
// here.
func (c *Cluster) propose(ctx context.Context, e entry) ([]byte, error) {
	if c.clusterID().IsZero() {
		return nil, fmt.Errorf("propose: %w", sheepdog.ErrNotFormatted)
	}
	ctx, leave, err := c.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	seq, err := c.proposals.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer c.proposals.end(seq)
	e.request = request{Client: c.opts.Self.Incarnation, Seq: seq}
	var o outcome
	err = c.retry(ctx, func() error {
		e.Done = c.proposals.done()
		o, err = c.proposeOnce(ctx, e)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("propose: %w", err)
	}
	if err := c.pub.wait(ctx, o.Index); err != nil {
		return nil, fmt.Errorf("propose: committed, but not applied here yet: %w", err)
	}
	return o.value()
}

// retry runs try until it succeeds or fails for good, or ctx ends; its error
// then wraps ErrNoQuorum and the last one.
func (c *Cluster) retry(ctx context.Context, try func() error) error {
	for wait := retryFirst; ; wait = min(2*wait, retryMost) {
		err := try()
		if err == nil || final(err) {
			return err
		}
		if serr := pause.For(ctx, jitter(wait)); serr != nil {
			return fmt.Errorf("%w: %w (last: %w)", sheepdog.ErrNoQuorum, context.Cause(ctx), err)
		}
	}
}

// final reports errors that another attempt would meet again.
func final(err error) bool {
	return errors.Is(err, sheepdog.ErrInvalid) || errors.Is(err, sheepdog.ErrWrongCluster)
}

func (c *Cluster) proposeOnce(ctx context.Context, e entry) (outcome, error) {
	b, err := e.encode()
	if err != nil {
		return outcome{}, err
	}
	id := c.clusterID()
	ctx, cancel := c.attempt(ctx)
	defer cancel()
	addr, err := c.findLeader(ctx)
	if err != nil {
		return outcome{}, err
	}
	out, err := c.send(ctx, addr, methodPropose, append(id[:], b...))
	if err != nil {
		return outcome{}, err
	}
	return decodeOutcome(out)
}

// attemptLimit bounds one attempt, of which a gate may take a part.
const attemptLimit = 5 * time.Second

// attempt ends ctx when the leader that a request went to is no longer the one
// that Raft tells of, so that nobody waits for the answer of a dead one.
func (c *Cluster) attempt(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, attemptLimit)
	cons := c.consensus.Load()
	if cons == nil {
		return ctx, cancel
	}
	moved := cons.leaderMoved()
	c.wg.Go(func() {
		select {
		case <-moved:
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, cancel
}

// handlePropose is the leader's side: cluster id 16 | entry.
func (c *Cluster) handlePropose(ctx context.Context, body []byte) ([]byte, error) {
	if len(body) < len(sheepdog.ClusterID{}) {
		return nil, fmt.Errorf("%w: proposal of %d bytes", sheepdog.ErrInvalid, len(body))
	}
	if err := c.sameCluster(methodPropose, sheepdog.ClusterID(body[:16])); err != nil {
		return nil, err
	}
	e, err := decodeEntry(body[16:])
	if err != nil {
		return nil, err
	}
	if e.Client == 0 || e.Seq == 0 || e.Done >= e.Seq {
		return nil, fmt.Errorf("%w: proposal without a number", sheepdog.ErrInvalid)
	}
	if err := c.gather(ctx, e); err != nil {
		return nil, fmt.Errorf("%w: %w", errNotLeader, err)
	}
	o, err := c.commit(ctx, e)
	if err != nil {
		return nil, err
	}
	return o.encode(), nil
}

// commit lets an entry through the gate and commits it. A command of the
// Machine is bound to the membership that the gate has seen: if that moved
// before the command was applied, it goes through the gate again.
func (c *Cluster) commit(ctx context.Context, e entry) (outcome, error) {
	for {
		cons := c.consensus.Load()
		if cons == nil || c.office.Load() == nil {
			return outcome{}, errNotLeader
		}
		if o, ok := c.fsm.requests.answer(e.request); ok {
			return o, nil
		}
		if e.Type == entryMachine {
			e.Membership = c.pub.current.Load().membership
			if err := c.opts.Gate(ctx, e.Kind, e.Body); err != nil {
				// One that ran out of time has decided nothing.
				if ctx.Err() != nil || c.office.Load() == nil || errors.Is(err, sheepdog.ErrNoQuorum) {
					return outcome{}, fmt.Errorf("%w: %w", errNotLeader, err)
				}
				return outcomeOf(0, nil, err), nil
			}
			if c.pub.current.Load().membership != e.Membership {
				continue
			}
		}
		b, err := e.encode()
		if err != nil {
			return outcome{}, err
		}
		o, err := cons.apply(b)
		if err == nil && o.Code == codeGateAgain {
			if ctx.Err() != nil {
				return outcome{}, fmt.Errorf("%w: %w", errNotLeader, ctx.Err())
			}
			continue
		}
		return o, err
	}
}

// Barrier returns once everything that was committed before the call is
// applied on this node.
func (c *Cluster) Barrier(ctx context.Context) error {
	if err := c.joined(ctx); err != nil {
		return fmt.Errorf("barrier: %w", err)
	}
	ctx, leave, err := c.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	var index uint64
	err = c.retry(ctx, func() error {
		ctx, cancel := c.attempt(ctx)
		defer cancel()
		r, err := c.askLeader(ctx, methodIndex, message{})
		index = r.Index
		return err
	})
	if err == nil {
		err = c.pub.wait(ctx, index)
	}
	if err != nil {
		return fmt.Errorf("barrier: %w", err)
	}
	return nil
}

// Listed returns once the view lists this process. Until then a node that was restarted has
// the view of before, which tells of former lives of all members as if they were here.
func (c *Cluster) Listed(ctx context.Context) error {
	for {
		view := c.pub.view()
		if listed(view, c.selfRef()) {
			return nil
		}
		if err := errors.Join(c.GivenUp(), context.Cause(ctx), context.Cause(c.ctx)); err != nil {
			return fmt.Errorf("join the view: %w", err)
		}
		c.waitEither(c.pub.changed(view), ctx.Done(), c.opts.Timing.Register)
	}
}

// handleIndex is the leader's side of Barrier. The leader has applied the first
// entry of its term, so its commit index covers all that earlier leaders
// committed; and the proof says that there is no later one.
func (c *Cluster) handleIndex(ctx context.Context, _ message) (any, error) {
	off, cons := c.office.Load(), c.consensus.Load()
	if off == nil || cons == nil {
		return nil, errNotLeader
	}
	index := cons.raft.CommitIndex()
	if err := off.prover.leads(ctx); err != nil {
		return nil, err
	}
	return reply{Index: index}, nil
}
