package cluster

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// patientTransport holds a replication request to a node that cannot be reached
// until it can, instead of failing it. Raft backs off up to ten seconds from a
// node that keeps failing and looks at nothing in between, so that one which
// returned after an hour would follow the log only seconds later. Heartbeats,
// votes and snapshots pass as they are; what a node may not have noticed is
// decided by them alone.
type patientTransport struct {
	*raft.NetworkTransport
	streams *raftStreams    // its own
	ctx     context.Context // ends at shutdown
	retry   time.Duration
	// answersCount is for how long an answer to a heartbeat counts; 0: as Raft has it.
	answersCount func() time.Duration
	beats        heartbeats

	mu      sync.Mutex
	moved   chan struct{}          // closed when held requests must go back to Raft
	servers map[raft.ServerID]bool // of the committed configuration; nil: not known
}

// maxPatience bounds how long one request is held.
const maxPatience = time.Minute

var (
	_ raft.Transport   = (*patientTransport)(nil)
	_ raft.WithPreVote = (*patientTransport)(nil)
)

func newPatientTransport(ctx context.Context, t *raft.NetworkTransport, streams *raftStreams, retry time.Duration, answersCount func() time.Duration) *patientTransport {
	return &patientTransport{
		NetworkTransport: t, streams: streams, ctx: ctx, retry: retry, moved: make(chan struct{}),
		answersCount: answersCount, beats: heartbeats{beats: make(map[raft.ServerID]*heartbeat)},
	}
}

// release returns held requests to Raft: leadership or configuration moved.
func (t *patientTransport) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.moved)
	t.moved = make(chan struct{})
}

// configured says who is worth patience.
func (t *patientTransport) configured(c raft.Configuration) {
	servers := make(map[raft.ServerID]bool, len(c.Servers))
	for _, s := range c.Servers {
		servers[s.ID] = true
	}
	t.mu.Lock()
	t.servers = servers
	t.mu.Unlock()
	t.release()
}

// AppendEntries sends, and sends again while the node is unreachable.
func (t *patientTransport) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if isHeartbeat(args) {
		return t.beat(id, target, args, resp)
	}
	t.mu.Lock()
	moved, known := t.moved, t.servers == nil || t.servers[id]
	t.mu.Unlock()
	for end := time.Now().Add(maxPatience); ; {
		err := t.NetworkTransport.AppendEntries(id, target, args, resp)
		if err == nil || !known || errors.Is(err, raft.ErrTransportShutdown) || time.Now().After(end) {
			return err
		}
		select {
		case <-time.After(jitter(t.retry)):
		case <-moved:
			return err
		case <-t.ctx.Done():
			return err
		}
	}
}

// RequestVote asks for a vote.
func (t *patientTransport) RequestVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return t.onLiveStream(func() error { return t.NetworkTransport.RequestVote(id, target, args, resp) })
}

// RequestPreVote asks whether it would be given.
func (t *patientTransport) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return t.onLiveStream(func() error { return t.NetworkTransport.RequestPreVote(id, target, args, resp) })
}

// onLiveStream makes a request again as long as idle streams turn out to be dead:
// followers use theirs at elections only, and the node at the other end may have
// been away in between. A vote that fails costs an election time-out. An error that
// the other node answers is final.
func (t *patientTransport) onLiveStream(request func() error) (err error) {
	began := time.Now()
	for range raftPool + 1 {
		broken := t.streams.broken.Load()
		if err = request(); err == nil || t.streams.broken.Load() == broken || time.Since(began) >= raftTimeout {
			break
		}
	}
	return err
}

// isHeartbeat recognises what Raft sends to keep its followers calm.
func isHeartbeat(a *raft.AppendEntriesRequest) bool {
	return a.PrevLogEntry == 0 && a.PrevLogTerm == 0 && len(a.Entries) == 0 && a.LeaderCommitIndex == 0
}
