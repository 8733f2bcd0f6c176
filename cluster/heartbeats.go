package cluster

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// A leader steps down when it has not heard from a majority for Timing.LeaderLease,
// which the library does not let change while it runs. In times of unrest that is too
// short: then a heartbeat counts as answered, while it is under way, if the follower was
// heard not longer ago than nodes wait for each other by then. The library uses these
// answers for nothing else but VerifyLeader, which nobody calls here: commits and
// proofs of leadership ask the voters themselves, see proof.go.

// heartbeats are those of a leader that are under way.
type heartbeats struct {
	mu    sync.Mutex
	beats map[raft.ServerID]*heartbeat
	wg    sync.WaitGroup
}

// heartbeat is the one to a follower.
type heartbeat struct {
	term  uint64
	heard time.Time     // when the last one was answered; at first when the first one was sent
	done  chan struct{} // closed when the one under way has ended; nil: none is
	err   error         // of the last one
}

// beat sends a heartbeat. It returns the follower's answer or, in times of unrest,
// that of a while ago.
func (t *patientTransport) beat(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	counts := t.answersCount()
	if counts == 0 {
		return t.NetworkTransport.AppendEntries(id, target, args, resp)
	}
	b, done := t.beats.begin(id, args.Term, func() error {
		return t.NetworkTransport.AppendEntries(id, target, args, new(raft.AppendEntriesResponse))
	})
	if !t.beats.heard(b, counts) {
		select {
		case <-done:
		case <-t.ctx.Done():
			return raft.ErrTransportShutdown
		}
		if err := t.beats.result(b); err != nil {
			return err
		}
	}
	*resp = raft.AppendEntriesResponse{RPCHeader: args.RPCHeader, Term: args.Term, Success: true}
	return nil
}

// begin sends a heartbeat unless one of this term is under way.
func (h *heartbeats) begin(id raft.ServerID, term uint64, send func() error) (*heartbeat, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.beats[id]
	if b == nil || b.term != term {
		b = &heartbeat{term: term, heard: time.Now()}
		h.beats[id] = b
	}
	if b.done != nil {
		return b, b.done
	}
	done := make(chan struct{})
	b.done = done
	h.wg.Go(func() {
		err := send()
		h.mu.Lock()
		defer h.mu.Unlock()
		b.err, b.done = err, nil
		if err == nil {
			b.heard = time.Now()
		}
		close(done)
	})
	return b, done
}

// heard reports whether the follower was heard not longer ago than that.
func (h *heartbeats) heard(b *heartbeat, ago time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Since(b.heard) <= ago
}

func (h *heartbeats) result(b *heartbeat) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return b.err
}
