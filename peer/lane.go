package peer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"sheepdog"
)

// lane is one of the connections of a client: it makes the connection when it
// is wanted, keeps requests until then, and makes another when it broke.
type lane struct {
	client *Client

	mu      sync.Mutex
	link    *link
	links   []*link       // link and those being replaced
	ready   chan struct{} // closed when the dial in progress ends; nil if none is
	dial    dial          // in progress
	waiting []waitingWrite
	failed  error // of the last dial
	backoff time.Duration
	retryAt time.Time
	closed  bool
	used    bool // since the last tick
	idle    int  // ticks without use
}

// dial is an attempt to connect.
type dial struct {
	began  time.Time
	cancel context.CancelCauseFunc
}

// dialPatience is how old a dial is when word of the node that it is for has
// another take its place: what was sent while the node could not be reached is
// repeated by the host after a second only, then three.
const dialPatience = 200 * time.Millisecond

var errRedialled = errors.New("dialled again")

// waitingWrite is a Write that came while the connection was being made.
type waitingWrite struct {
	ctx  context.Context
	reqs []*sheepdog.WriteRequest
	done func(i int, err error)
}

func (w waitingWrite) fail(err error) {
	for i := range w.reqs {
		w.done(i, err)
	}
}

// acquire is a link, made if need be. With formatted, it is one of which both
// ends are of the same cluster.
func (n *lane) acquire(ctx context.Context, formatted bool) (*link, error) {
	n.mu.Lock()
	l, err := n.current(formatted)
	ready := n.ready
	n.mu.Unlock()
	if l != nil || err != nil {
		return l, err
	}
	select {
	case <-ready:
	case <-ctx.Done():
		return nil, fmt.Errorf("connect to %s: %w", n.client.addr, context.Cause(ctx))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.link == nil && n.failed != nil:
		return nil, n.failed
	case n.link == nil:
		return nil, errRetired
	case formatted && !n.agreed(n.link):
		return nil, n.notFormatted()
	}
	return n.link, nil
}

// current is the link as it is, nil without an error while it is being made.
// mu is held.
func (n *lane) current(formatted bool) (*link, error) {
	n.used = true
	switch {
	case n.closed:
		return nil, n.closedError()
	case n.link != nil && (!formatted || n.agreed(n.link)):
		return n.link, nil
	case n.ready != nil:
		return nil, nil
	case formatted && n.client.pool.opts.Cluster().IsZero():
		return nil, n.notFormatted()
	case time.Now().Before(n.retryAt):
		if n.link != nil {
			return nil, n.notFormatted()
		}
		return nil, n.failed
	}
	if n.link != nil { // one end was formatted, or founded anew, since; greet again
		n.link.retire()
		n.link = nil
	}
	n.ready = make(chan struct{})
	n.client.pool.wg.Go(n.run)
	return nil, nil
}

// established is the link of which both ends are of the same cluster, nil if there
// is none just now.
func (n *lane) established() *link {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || n.link == nil || !n.agreed(n.link) {
		return nil
	}
	n.used = true
	return n.link
}

// agreed reports whether both ends of a link are of the cluster that this node
// is of now.
func (n *lane) agreed(l *link) bool {
	return !l.agreed.IsZero() && l.agreed == n.client.pool.opts.Cluster()
}

func (n *lane) closedError() error {
	return &BrokenError{Node: n.client.node, Addr: n.client.addr, Reason: ClosedHere, Cause: sheepdog.ErrClosed}
}

func (n *lane) notFormatted() error {
	return fmt.Errorf("data connection to %s: %w", n.client.addr, sheepdog.ErrNotFormatted)
}

// write sends requests, or keeps them while the connection is being made.
func (n *lane) write(ctx context.Context, reqs []*sheepdog.WriteRequest, done func(i int, err error)) {
	w := waitingWrite{ctx, reqs, done}
	n.mu.Lock()
	l, err := n.current(true)
	if l == nil && err == nil {
		if len(n.waiting) < maxWaiting {
			n.waiting = append(n.waiting, w)
			n.mu.Unlock()
			return
		}
		err = fmt.Errorf("%w: %d requests already wait for a connection to %s", sheepdog.ErrUnreachable, maxWaiting, n.client.addr)
	}
	n.mu.Unlock()
	if err != nil {
		w.fail(err)
		return
	}
	w.send(l)
}

func (w waitingWrite) send(l *link) {
	if err := l.out.waitRoom(w.ctx); err != nil {
		if w.ctx.Err() != nil {
			err = fmt.Errorf("%w: write not sent to %s: %w", sheepdog.ErrUnreachable, l.addr, err)
		} else {
			err = l.broken(err)
		}
		w.fail(err)
		return
	}
	l.write(w.ctx, w.reqs, w.done)
}

// run makes a link and serves it to its end.
func (n *lane) run() {
	l, err := n.connect()
	if err != nil {
		n.dialFailed(err)
		return
	}
	var writer sync.WaitGroup
	writer.Go(l.out.run)
	if n.publish(l) {
		err = l.read()
	} else {
		err = sheepdog.ErrClosed
	}
	n.mu.Lock()
	if n.link == l {
		n.link = nil
	}
	n.links = slices.DeleteFunc(n.links, func(o *link) bool { return o == l })
	n.mu.Unlock()
	broken := l.end(err)
	writer.Wait()
	n.client.pool.report(broken)
}

// connect dials, and again when told that the node is there.
func (n *lane) connect() (l *link, err error) {
	for {
		ctx, cancel := context.WithCancelCause(n.client.ctx)
		n.mu.Lock()
		n.dial = dial{time.Now(), cancel}
		n.mu.Unlock()
		l, err = n.client.connect(ctx)
		redialled := errors.Is(context.Cause(ctx), errRedialled)
		cancel(nil)
		if err == nil || !redialled {
			return l, err
		}
	}
}

// redial has the next request dial at once, and a dial that takes long begun anew.
func (n *lane) redial() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.backoff, n.retryAt = 0, time.Time{}
	if n.ready != nil && n.dial.cancel != nil && time.Since(n.dial.began) >= dialPatience {
		n.dial.cancel(errRedialled)
	}
}

// publish makes l the lane's link and sends what waited for it, in order.
func (n *lane) publish(l *link) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.agreed(l) {
		n.failed, n.backoff, n.retryAt = nil, 0, time.Time{}
	} else {
		n.delay()
	}
	for len(n.waiting) > 0 && !n.closed {
		waiting := n.waiting
		n.waiting = nil
		n.mu.Unlock()
		for _, w := range waiting {
			if n.agreed(l) {
				l.write(w.ctx, w.reqs, w.done)
			} else {
				w.fail(n.notFormatted())
			}
		}
		n.mu.Lock()
	}
	close(n.ready)
	n.ready = nil
	if n.closed {
		return false
	}
	n.link = l
	n.links = append(n.links, l)
	return true
}

// dialFailed remembers the failure for a while, so that callers fail at once.
func (n *lane) dialFailed(err error) {
	reason := dialReason(err)
	if n.client.ctx.Err() != nil {
		reason = ClosedHere
	}
	broken := &BrokenError{Node: n.client.node, Addr: n.client.addr, Reason: reason, Cause: err}
	n.mu.Lock()
	n.failed = broken
	n.delay()
	waiting := n.waiting
	n.waiting = nil
	close(n.ready)
	n.ready = nil
	n.mu.Unlock()
	for _, w := range waiting {
		w.fail(broken)
	}
	n.client.pool.report(broken)
}

// delay doubles the time until the next dial.
func (n *lane) delay() {
	o := &n.client.pool.opts
	n.backoff = min(max(2*n.backoff, o.MinBackoff), o.MaxBackoff)
	n.retryAt = time.Now().Add(n.backoff)
}

// tick passes a heartbeat on and counts how long the lane was not used.
func (n *lane) tick() (idle int) {
	n.mu.Lock()
	links := slices.Clone(n.links)
	n.idle++
	if n.used || n.ready != nil {
		n.idle = 0
	}
	n.used = false
	n.mu.Unlock()
	for _, l := range links {
		l.tick()
		if l.isPending() {
			n.mu.Lock()
			n.idle = 0
			n.mu.Unlock()
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.idle
}

// rest closes the link if it was not used for long; the next request makes another.
// Whoever has been given it since has reset idle.
func (n *lane) rest() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.link != nil && n.idle >= idleTicks && !n.used {
		n.link.retire()
		n.link = nil
	}
}

func (n *lane) close() {
	n.mu.Lock()
	n.closed = true
	links := slices.Clone(n.links)
	waiting := n.waiting
	n.waiting = nil
	n.mu.Unlock()
	for _, l := range links {
		l.out.close(sheepdog.ErrClosed)
	}
	for _, w := range waiting {
		w.fail(n.closedError())
	}
}
