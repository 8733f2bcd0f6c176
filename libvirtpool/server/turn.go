package server

import (
	"context"
	"fmt"
	"sync"

	"sheepdog/libvirtpool/rpc"
)

// turns lets calls about the snapshots of one domain, of all clients, run one after the
// other: each freezes the guest, and lets it go when it has what it wants.
type turns struct {
	mu   sync.Mutex
	busy map[rpc.UUID]chan struct{} // closed when the turn is over
}

// take waits for the turn of a domain, for as long as a call may take. The function
// returned ends the turn.
func (t *turns) take(ctx context.Context, dom domain) (over func(), err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, upstreamTimeout, fmt.Errorf("it has not ended within %v", upstreamTimeout))
	defer cancel()
	for {
		wait := t.begin(dom.uuid)
		if wait == nil {
			return func() { t.end(dom.uuid) }, nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, &rpc.Error{Code: rpc.CodeBusy, Domain: rpc.FromSnapshot,
				Text: fmt.Sprintf("another call about the snapshots of domain %s is under way: %v; try again", dom.name, context.Cause(ctx))}
		}
	}
}

// begin begins a turn, or returns what to wait for.
func (t *turns) begin(id rpc.UUID) (wait <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if wait, ok := t.busy[id]; ok {
		return wait
	}
	if t.busy == nil {
		t.busy = map[rpc.UUID]chan struct{}{}
	}
	t.busy[id] = make(chan struct{})
	return nil
}

func (t *turns) end(id rpc.UUID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.busy[id])
	delete(t.busy, id)
}
