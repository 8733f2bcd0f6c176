package vdi

import (
	"cmp"
	"context"
	"sync"

	"sheepdog"
)

// originTable makes a forwarded write happen once (rule 10): a retry of a
// request that this coordinator runs or ran gets that one's outcome, and one
// that an earlier coordinator brought to the replicas is acknowledged.
type originTable struct {
	mu     sync.Mutex
	before map[sheepdog.Origin]bool // applied under earlier tokens, found at takeover
	lost   error                    // why a retry of these fails, though; nil: it does not
	former map[sheepdog.Origin]bool // those of them that the replicas of this family do not know
	live   map[sheepdog.Incarnation]map[uint64]*outcome
	// answered is per gateway below which it has had all its answers. What comes with
	// such a number was on its way for longer than a repeated one that was answered.
	answered map[sheepdog.Incarnation]uint64
}

// outcome of one forwarded write; err is set before done is closed.
type outcome struct {
	done chan struct{}
	err  error
}

func newOriginTable(from sheepdog.Succession) *originTable {
	t := &originTable{before: make(map[sheepdog.Origin]bool, len(from.Origins)), lost: from.Lost, former: make(map[sheepdog.Origin]bool),
		live: make(map[sheepdog.Incarnation]map[uint64]*outcome), answered: make(map[sheepdog.Incarnation]uint64)}
	for _, o := range from.Origins {
		t.before[o] = true
	}
	return t
}

// adopt adds what was applied in the family that the VDI was in before.
func (t *originTable) adopt(former []sheepdog.Origin) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, o := range former {
		t.before[o], t.former[o] = true, true
	}
}

// unknown lists, of what was adopted, what may still be asked again.
func (t *originTable) unknown(lives *sheepdog.Lives) (out []sheepdog.Origin) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for o := range t.former {
		if !lives.Ended(o.Gateway) {
			out = append(out, o)
		}
	}
	return out
}

// told notes that the replicas know of an adopted one.
func (t *originTable) told(o sheepdog.Origin) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.former, o)
}

// inherit takes over what the coordinator of the same VDI's data in another
// family knew; nil: nothing. That one is over: what it has not begun fails now,
// and is awaited.
func (t *originTable) inherit(from *originTable) {
	if from == nil {
		return
	}
	running := make(map[sheepdog.Origin]*outcome)
	var done []sheepdog.Origin
	from.mu.Lock()
	for o := range from.before {
		done = append(done, o)
	}
	for gw, of := range from.live {
		for n, out := range of {
			running[sheepdog.Origin{Gateway: gw, Request: n}] = out
		}
	}
	from.mu.Unlock()
	for o, out := range running {
		if <-out.done; out.err == nil {
			done = append(done, o)
		}
	}
	t.mu.Lock()
	t.lost = cmp.Or(t.lost, from.lost) // set before anybody used that one
	t.mu.Unlock()
	t.adopt(done)
}

// applied reports whether an earlier coordinator brought the write to the replicas; the
// error says that they may have lost it.
func (t *originTable) applied(o sheepdog.Origin) (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.before[o] {
		return false, nil
	}
	return true, t.lost
}

// once runs the write unless it is known, and forgets the gateway's requests
// below done. A failed write is forgotten, so that a retry runs it again.
func (t *originTable) once(ctx context.Context, o sheepdog.Origin, done uint64, write func() error) error {
	out, first := t.begin(o, done)
	if !first {
		select {
		case <-out.done:
			return out.err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	out.err = write()
	if out.err != nil {
		t.mu.Lock()
		delete(t.live[o.Gateway], o.Request)
		t.mu.Unlock()
	}
	close(out.done)
	return out.err
}

// begin returns the known outcome, or a new one that the caller must complete.
func (t *originTable) begin(o sheepdog.Origin, done uint64) (out *outcome, first bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.answered[o.Gateway] = max(t.answered[o.Gateway], done)
	if t.before[o] {
		return known(t.lost), false
	}
	if o.Request < t.answered[o.Gateway] {
		return known(nil), false
	}
	of := t.live[o.Gateway]
	if of == nil {
		of = make(map[uint64]*outcome)
		t.live[o.Gateway] = of
	}
	for n := range of {
		if n < done {
			delete(of, n)
		}
	}
	for f := range t.former {
		if f.Gateway == o.Gateway && f.Request < done {
			delete(t.former, f)
		}
	}
	if out, ok := of[o.Request]; ok {
		return out, false
	}
	out = &outcome{done: make(chan struct{})}
	of[o.Request] = out
	return out, true
}

// known is an outcome that is there already.
func known(err error) *outcome {
	out := &outcome{done: make(chan struct{}), err: err}
	close(out.done)
	return out
}

// dropEnded drops the records of gateways whose process has ended. One that is no
// member any more may be back, and send again what it does not know to be done.
func (t *originTable) dropEnded(lives *sheepdog.Lives) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for gw := range t.live {
		if lives.Ended(gw) {
			delete(t.live, gw)
		}
	}
	for gw := range t.answered {
		if lives.Ended(gw) {
			delete(t.answered, gw)
		}
	}
}
