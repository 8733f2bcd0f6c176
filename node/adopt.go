package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"sheepdog/nbd"
)

// adoption is the connections of NBD clients that a previous process left, until
// this node can serve them.
type adoption struct {
	mu      sync.Mutex
	waiting map[int]nbd.Transfer
	late    []nbd.Transfer // given back by a server that stops
}

// Bounds of adopting.
const (
	adoptPatience = 10 * time.Minute       // until the node must serve
	adoptRetry    = 100 * time.Millisecond // between looks whether it does
)

// adoptAll serves the connections that were left. Their clients wait meanwhile.
func (n *Node) adoptAll(ctx context.Context) {
	n.adoption.waiting = make(map[int]nbd.Transfer, len(n.cfg.Adopted))
	for i, t := range n.cfg.Adopted {
		n.adoption.waiting[i] = t
	}
	for i := range n.cfg.Adopted {
		n.spawn(func() { n.adopt(ctx, i) })
	}
}

func (n *Node) adopt(ctx context.Context, i int) {
	serves := n.awaitReady()
	t, ok := n.adoption.take(i)
	if !ok {
		return // the node stops, and has taken it back
	}
	if !serves {
		n.log.Error("a connection of an NBD client is cut off: this node did not serve in time", "export", t.State.Export)
		t.Conn.Close()
		return
	}
	err := n.nbd.Adopt(ctx, t)
	if errors.Is(err, nbd.ErrShutdown) {
		n.adoption.giveBack(t)
	} else if err != nil {
		n.log.Error("a connection of an NBD client was lost", "export", t.State.Export, "err", err)
	}
}

// awaitReady waits until the node can open VDIs; false if it does not come to
// that.
func (n *Node) awaitReady() bool {
	ctx, cancel := context.WithTimeout(n.ctx, adoptPatience)
	defer cancel()
	for {
		if n.ready(ctx) == nil {
			return true
		}
		select {
		case <-time.After(adoptRetry):
		case <-ctx.Done():
			return false
		}
	}
}

func (a *adoption) take(i int) (nbd.Transfer, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t, ok := a.waiting[i]
	delete(a.waiting, i)
	return t, ok
}

func (a *adoption) giveBack(t nbd.Transfer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.late = append(a.late, t)
}

// takeAll takes what is not served.
func (a *adoption) takeAll() []nbd.Transfer {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := a.late
	for i, t := range a.waiting {
		out = append(out, t)
		delete(a.waiting, i)
	}
	a.late = nil
	return out
}

// stopNBD lets requests end, and leaves the connections to the next process if
// somebody keeps them, or closes them.
func (n *Node) stopNBD(ctx context.Context) {
	if n.cfg.Keep == nil {
		drain, cancel := context.WithTimeout(ctx, n.timing.Drain)
		defer cancel()
		n.nbd.Shutdown(drain)
		return
	}
	waiting := n.adoption.takeAll()
	limit := n.timing.HandOver
	if errors.Is(context.Cause(n.ctx), errStore) {
		limit = n.timing.Drain // what writes to this node's store never ends
	}
	drain, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	transfers, err := n.nbd.HandOver(drain)
	if err != nil {
		n.log.Warn("not all NBD clients were handed over", "err", err)
	}
	transfers = append(append(transfers, waiting...), n.adoption.takeAll()...)
	if len(transfers) == 0 {
		return
	}
	if err := n.cfg.Keep(transfers); err != nil {
		n.log.Error("connections of NBD clients were lost", "err", err)
	}
	for _, t := range transfers {
		t.Conn.Close() // whoever keeps it has a copy
	}
	n.log.Info("NBD clients wait for the next process", "clients", len(transfers))
}
