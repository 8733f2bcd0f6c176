package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"sheepdog/internal/pause"
)

// herald tells the followers at once what is committed. Raft itself tells them
// with the next entry or after its commit time-out, so that either a proposer on
// a follower waits for that, or an idle cluster talks all the time. The notice
// is what Raft would send: an AppendEntries without entries, after the entry
// that it calls committed, so that a follower which lacks that entry refuses it.
type herald struct {
	wake chan struct{}

	mu   sync.Mutex
	told map[raft.ServerID]*hearer
}

// hearer is one follower.
type hearer struct {
	index   uint64 // it knows that this is committed
	telling bool   // a goroutine is at it
}

const (
	noticeTries = 6 // until it is left to Raft's time-out
	noticeRetry = 3 * time.Millisecond
)

func newHerald() *herald {
	return &herald{wake: make(chan struct{}, 1), told: make(map[raft.ServerID]*hearer)}
}

// announce runs for as long as the consensus does.
func (c *consensus) announce(ctx context.Context) {
	for {
		select {
		case <-c.herald.wake:
		case <-ctx.Done():
			return
		}
		if c.raft.State() != raft.Leader {
			continue
		}
		servers, err := c.servers()
		if err != nil {
			continue
		}
		for _, s := range servers {
			if s.ID != c.self.ID {
				c.tell(ctx, s)
			}
		}
	}
}

// tell starts a goroutine unless there is one, which then goes on.
func (c *consensus) tell(ctx context.Context, s raft.Server) {
	h := c.herald
	h.mu.Lock()
	defer h.mu.Unlock()
	to := h.told[s.ID]
	if to == nil {
		to = new(hearer)
		h.told[s.ID] = to
	}
	if to.telling {
		return
	}
	to.telling = true
	c.wg.Go(func() {
		for c.notify(ctx, s, to) {
		}
	})
}

// notify sends one notice and reports whether there may be more to tell.
func (c *consensus) notify(ctx context.Context, s raft.Server, to *hearer) bool {
	h := c.herald
	index := c.raft.CommitIndex()
	h.mu.Lock()
	if index <= to.index || ctx.Err() != nil || !c.noticed(ctx, s, index, h) {
		to.telling = false
		h.mu.Unlock()
		return false
	}
	to.index = index
	h.mu.Unlock()
	return true
}

// noticed is called with h.mu held, which is free while it sends.
func (c *consensus) noticed(ctx context.Context, s raft.Server, index uint64, h *herald) bool {
	h.mu.Unlock()
	defer h.mu.Lock()
	wait := noticeRetry
	for range noticeTries {
		ok, leads := c.notice(s, index)
		if ok || !leads {
			return ok
		}
		if pause.For(ctx, wait) != nil {
			return false
		}
		wait *= 2
	}
	return false
}

// notice is one exchange.
func (c *consensus) notice(s raft.Server, index uint64) (ok, leads bool) {
	term := c.raft.CurrentTerm()
	var entry raft.Log
	if !c.leads(term) || c.logs.GetLog(index, &entry) != nil {
		return false, false
	}
	me := c.transport.EncodePeer(c.self.ID, c.self.Address)
	req := &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(c.self.ID), Addr: me},
		Term:      term, Leader: me, PrevLogEntry: index, PrevLogTerm: entry.Term, LeaderCommitIndex: index,
	}
	var resp raft.AppendEntriesResponse
	if err := c.transport.NetworkTransport.AppendEntries(s.ID, s.Address, req, &resp); err != nil {
		return false, false // Raft finds out by itself
	}
	return resp.Success, true
}
