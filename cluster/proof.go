package cluster

import (
	"context"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"

	"sheepdog/cluster/state"
)

// prover answers, again and again, whether this node is still the leader.
// Requests that come while a proof runs share the next one, since a proof
// counts only for what was asked before it began.
//
// The library's own VerifyLeader is not enough for leases: it counts the
// answers of non-voters, and answers to heartbeats that were sent before the
// question.
type prover struct {
	ctx   context.Context // ends with the office
	spawn func(func())    // starts a goroutine that the cluster waits for
	prove func(ctx context.Context) error

	mu      sync.Mutex
	running bool
	next    *proof // not begun
}

type proof struct {
	done chan struct{}
	err  error
}

// leads returns nil if this node led the cluster at some moment after the call.
func (p *prover) leads(ctx context.Context) error {
	p.mu.Lock()
	if p.next == nil {
		p.next = &proof{done: make(chan struct{})}
	}
	mine := p.next
	if !p.running {
		p.running = true
		p.spawn(p.run)
	}
	p.mu.Unlock()
	select {
	case <-mine.done:
		return mine.err
	case <-ctx.Done():
		return fmt.Errorf("prove leadership: %w", ctx.Err())
	}
}

func (p *prover) run() {
	for {
		p.mu.Lock()
		now := p.next
		p.next = nil
		p.running = now != nil
		p.mu.Unlock()
		if now == nil {
			return
		}
		now.err = p.prove(p.ctx)
		close(now.done)
	}
}

// prove asks the voters whether they have promised a later term to anybody.
//
// If a majority has not at some moment after the question was sent, then no
// leader of a later term had been elected when it was sent: an election needs
// a majority that adopts the later term, durably, before it votes; the two
// majorities share a voter, and terms only grow. Configurations change one
// server at a time, so the majorities of neighbouring ones share a voter too.
func (c *Cluster) prove(ctx context.Context, cons *consensus, term uint64) error {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timing.Call)
	defer cancel()
	if !cons.leads(term) {
		return errNotLeader
	}
	servers, err := cons.servers()
	if err != nil {
		return err
	}
	voters, votes := 0, 0
	answers := make(chan error, len(servers))
	for _, s := range servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if s.ID == cons.self.ID {
			votes++
			continue
		}
		c.wg.Go(func() { answers <- c.askTerm(ctx, s, term) })
	}
	need := majority(voters)
	for asked := voters - votes; votes < need && asked > 0; asked-- {
		if <-answers == nil {
			votes++
		}
	}
	if votes < need {
		return fmt.Errorf("%w: %d of %d voters answered, %d are needed", errNotLeader, votes, voters, need)
	}
	if !cons.leads(term) {
		return errNotLeader
	}
	return nil
}

func (c *Cluster) askTerm(ctx context.Context, s raft.Server, term uint64) error {
	id, addr, err := splitRaftAddress(s.Address)
	if err != nil {
		return err
	}
	_, err = c.call(ctx, addr, methodTerm, message{Ref: state.MemberRef{ID: id}, Term: term})
	return err
}

// handleTerm is the voter's side.
func (c *Cluster) handleTerm(_ context.Context, m message) (any, error) {
	cons := c.consensus.Load()
	if cons == nil {
		return nil, errNotLeader
	}
	if m.Ref.ID != c.opts.Self.ID {
		return nil, fmt.Errorf("%w: this is node %v", errNotLeader, c.opts.Self.ID)
	}
	if now := cons.raft.CurrentTerm(); now > m.Term {
		return nil, fmt.Errorf("%w: this voter is in term %d, not %d", errNotLeader, now, m.Term)
	}
	return nil, nil
}
