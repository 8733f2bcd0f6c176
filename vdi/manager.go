package vdi

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// Manager is the VDI side of one node's gateway. Close ends it.
type Manager struct {
	opt     Options
	ctx     context.Context
	cancel  context.CancelCauseFunc
	frozen  *frozenReader
	wg      sync.WaitGroup
	start   time.Time
	batches sync.Pool // of *Batch
	// numbers counts the write requests of this process (rule 10).
	numbers atomic.Uint64
	lives   sheepdog.Lives // of the gateways that forward

	mu       sync.Mutex
	families map[sheepdog.FamilyID]*family
	calls    map[string]*call

	// moving is held while a VDI goes on in another family; inherited are what
	// coordinators there have to know of the writes before. (rule 10)
	moving    turn
	inherited map[sheepdog.FamilyID]*originTable
}

// family is what this node knows of one family that is open or coordinated
// here.
type family struct {
	id        sheepdog.FamilyID
	requests  *window // this gateway's requests in flight
	unflushed *unflushed
	limit     atomic.Pointer[limiter] // nil: none
	// coord is nil if it is another node's, or nobody's; it changes under Manager.mu.
	coord atomic.Pointer[coordinator]

	// guarded by Manager.mu
	attached int            // volumes open here
	claims   int            // those of them that have claimed it
	claim    sheepdog.Token // what the directory noted of the newest of these claims
}

// NewManager starts a manager; the caller must Close it.
func NewManager(opt Options) *Manager {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	m := &Manager{opt: opt, ctx: ctx, cancel: cancel, start: time.Now(),
		families: make(map[sheepdog.FamilyID]*family), calls: make(map[string]*call),
		inherited: make(map[sheepdog.FamilyID]*originTable)}
	m.frozen = newFrozenReader(ctx, m.goUnlessClosed, &opt)
	m.wg.Add(2)
	if opt.Coder != nil {
		m.wg.Go(m.recodeLoop)
	}
	go func() { defer m.wg.Done(); m.watch() }()
	go func() { defer m.wg.Done(); m.flushOften() }()
	return m
}

// longAgo is what elapsed begins with, so that zero is long ago.
const longAgo = time.Hour

// elapsed is a time in nanoseconds to measure durations with, which no change of the
// wall clock touches.
func (m *Manager) elapsed() int64 { return int64(longAgo + time.Since(m.start)) }

// Close stops everything without handing anything over; ReleaseAll first for
// that.
func (m *Manager) Close() {
	m.mu.Lock()
	m.cancel(sheepdog.ErrClosed)
	m.mu.Unlock() // from now on goUnlessClosed starts nothing
	m.wg.Wait()
}

// goUnlessClosed runs fn in a goroutine that Close waits for; false if it was called.
func (m *Manager) goUnlessClosed(fn func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx.Err() != nil {
		return false
	}
	m.wg.Go(fn)
	return true
}

// watch ends the coordinators that the directory no longer names, so that
// requests which wait in them are routed again.
func (m *Manager) watch() {
	for {
		changed := m.opt.Directory.Changed()
		if v := m.opt.Cluster.View(); v != nil {
			m.lives.See(v)
		}
		for _, c := range m.coordinators() {
			c.err() // ends it if it is over
			c.rebase()
			c.origins.dropEnded(&m.lives)
		}
		m.frozen.retain()
		for _, f := range m.open() {
			m.adoptLimits(f)
		}
		select {
		case <-changed:
		case <-m.ctx.Done():
			return
		}
	}
}

// flushOften keeps dirty maps small: a takeover compares what is dirty.
func (m *Manager) flushOften() {
	t := time.NewTicker(m.opt.FlushEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-m.ctx.Done():
			return
		}
		for _, c := range m.coordinators() {
			m.wg.Add(1)
			go func() { defer m.wg.Done(); m.flushQuietly(c) }()
		}
	}
}

// flushQuietly is the periodic flush: a failure is retried by the next one. If
// there is nothing to flush the replicas learn that the one before is complete.
func (m *Manager) flushQuietly(c *coordinator) {
	if c.idle() {
		c.tellClean(c.ctx)
		return
	}
	if err := c.flush(c.ctx); err != nil && c.ctx.Err() == nil {
		m.opt.Logger.Warn("periodic flush failed", "family", c.scope.Family, "err", err)
	}
}

// Opened counts the families of VDIs that clients have open through this node, and those
// that it coordinates.
func (m *Manager) Opened() (open, coordinated int) {
	return len(m.open()), len(m.coordinators())
}

func (m *Manager) coordinators() []*coordinator {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*coordinator
	for _, f := range m.families {
		if c := f.coord.Load(); c != nil {
			out = append(out, c)
		}
	}
	return out
}

// family finds or makes the entry of a family; m.mu is held.
func (m *Manager) family(id sheepdog.FamilyID) *family {
	f := m.families[id]
	if f == nil {
		f = &family{id: id, requests: &window{}, unflushed: &unflushed{}}
		m.families[id] = f
	}
	return f
}

// forget drops an entry that nobody uses; m.mu is held.
func (m *Manager) forget(f *family) {
	if f.attached == 0 && f.coord.Load() == nil {
		delete(m.families, f.id)
	}
}

// local is the coordinator of the family if it is here and in service.
func (m *Manager) local(id sheepdog.FamilyID) *coordinator {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.families[id]
	if f == nil {
		return nil
	}
	c := f.coord.Load()
	if c != nil && c.ctx.Err() != nil {
		f.coord.Store(nil)
		return nil
	}
	return c
}

// local is Manager.local of a family that is open here.
func (f *family) local() *coordinator {
	if c := f.coord.Load(); c != nil && c.ctx.Err() == nil {
		return c
	}
	return nil
}

// route finds who coordinates the family: c here, or the other member with
// token. If nobody does, this node asks to be appointed and takes over.
func (m *Manager) route(ctx context.Context, id sheepdog.FamilyID) (c *coordinator, other sheepdog.Member, token sheepdog.Token, err error) {
	if c := m.local(id); c != nil {
		return c, other, 0, nil
	}
	f, ok := m.opt.Directory.Family(id)
	if !ok {
		return nil, other, 0, fmt.Errorf("VDI was deleted: %w", sheepdog.ErrNotFound)
	}
	if other, ok := m.holder(f); ok && other.Incarnation != m.opt.Incarnation {
		return nil, other, f.Token, nil
	}
	err = m.once(ctx, fmt.Sprintf("appoint %d", id), func(ctx context.Context) error { return m.appoint(ctx, id) })
	return m.local(id), other, 0, err
}

// named is this node's coordinator with the token that another node believes in;
// ErrNotCoordinator if there is none. An appointment that was committed after
// whoever asked for it had given up would be served by nobody: it is finished
// and given back here, so that the caller can be appointed.
func (m *Manager) named(ctx context.Context, id sheepdog.FamilyID, token sheepdog.Token) (*coordinator, error) {
	c := m.local(id)
	if c != nil && c.scope.Token == token {
		return c, nil
	}
	f, ok := m.opt.Directory.Family(id)
	if c == nil && ok && f.Token == token && f.Coordinator.Incarnation == m.opt.Incarnation {
		err := m.once(ctx, fmt.Sprintf("appoint %d", id), func(ctx context.Context) error { return m.appoint(ctx, id) })
		if err != nil {
			return nil, fmt.Errorf("family %d: %w: %v", id, sheepdog.ErrNotCoordinator, err) // err's own code must not hide it
		}
		m.idle(ctx, id)
	}
	return nil, fmt.Errorf("family %d with token %d: %w", id, token, sheepdog.ErrNotCoordinator)
}

// holder is the member that coordinates the family, if it is still one.
func (m *Manager) holder(f directory.Family) (sheepdog.Member, bool) {
	v := m.opt.Cluster.View()
	if v == nil || f.Coordinator.Incarnation == 0 {
		return sheepdog.Member{}, false
	}
	member, ok := v.Member(f.Coordinator.Node)
	return member, ok && member.Incarnation == f.Coordinator.Incarnation
}

// appoint commits this node as the coordinator of the family, takes over, and
// puts the coordinator into service. (rule 7)
func (m *Manager) appoint(ctx context.Context, id sheepdog.FamilyID) error {
	if m.local(id) != nil {
		return nil
	}
	f, ok := m.opt.Directory.Family(id)
	if !ok {
		return fmt.Errorf("VDI was deleted: %w", sheepdog.ErrNotFound)
	}
	token, err := m.commitAcquire(ctx, f)
	if err != nil {
		return err
	}
	c, err := m.takeOver(ctx, f, token)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.family(id).coord.Store(c)
	m.mu.Unlock()
	return nil
}

func (m *Manager) takeOver(ctx context.Context, f directory.Family, token sheepdog.Token) (*coordinator, error) {
	scope := sheepdog.Scope{Family: f.ID, Policy: f.Policy, Token: token}
	before, err := m.opt.Objects.Takeover(ctx, scope)
	if err != nil {
		return nil, err
	}
	var former []sheepdog.Origin
	if from, ok := m.movesFrom(f); ok {
		if former, err = m.opt.Objects.Origins(ctx, from); err != nil {
			return nil, err
		}
	}
	c := &coordinator{m: m, scope: scope, shift: f.BlockSizeShift, origins: newOriginTable(before), dirty: make(map[sheepdog.Partition]struct{}), lastWrite: new(atomic.Int64)}
	if err := m.moving.take(ctx); err != nil {
		return nil, err
	}
	c.origins.adopt(former)
	c.origins.inherit(m.inherited[f.ID])
	delete(m.inherited, f.ID)
	m.moving.give()
	c.ctx, c.lose = context.WithCancelCause(m.ctx)
	if err := c.loadTop(ctx); err != nil {
		c.lose(err)
		return nil, err
	}
	return c, nil
}

// movesFrom is the family that a VDI was in before it was given another redundancy,
// while its data are being copied from there. Writes that were applied there may
// be repeated here, and the node that moved it, which knew them, may be gone. (rule 10)
func (m *Manager) movesFrom(f directory.Family) (sheepdog.Scope, bool) {
	v, err := m.opt.Directory.Lookup(f.Name)
	if err != nil || v.Family != f.ID || !v.Moving {
		return sheepdog.Scope{}, false
	}
	from, ok := familyOf(m.opt.Directory, baseOf(m.opt.Directory, f.Working))
	return sheepdog.Scope{Family: from.ID, Policy: from.Policy}, ok
}

// awaitLease returns when the node's lease is valid and c in service; an error
// when c is not any more.
func (m *Manager) awaitLease(ctx context.Context, c *coordinator) error {
	for {
		if err := c.err(); err != nil {
			return err
		}
		if m.opt.Cluster.LeaseValid() {
			return nil
		}
		if err := m.sleep(ctx, leasePoll); err != nil {
			return err
		}
	}
}

// leasePoll is how often a stalled request looks whether the lease is back.
const leasePoll = 5 * time.Millisecond

func (m *Manager) sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-m.ctx.Done():
		return context.Cause(m.ctx)
	}
}

// call is one run of a function that others wait for.
type call struct {
	done    chan struct{}
	err     error
	givenUp bool // its own caller did not wait for the end: err says nothing to others
}

// once runs fn, or waits for a run with the same key that is under way. If that
// one ended with its own caller's context, fn is run again here.
func (m *Manager) once(ctx context.Context, key string, fn func(context.Context) error) error {
	for {
		m.mu.Lock()
		running, ok := m.calls[key]
		if !ok {
			running = &call{done: make(chan struct{})}
			m.calls[key] = running
		}
		m.mu.Unlock()
		if !ok {
			running.err = fn(ctx)
			running.givenUp = running.err != nil && ctx.Err() != nil
			m.mu.Lock()
			delete(m.calls, key)
			m.mu.Unlock()
			close(running.done)
			return running.err
		}
		select {
		case <-running.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if !running.givenUp {
			return running.err
		}
	}
}

// ReleaseAll hands every coordinated family over to whoever asks next: flushed,
// with nothing dirty. It stops at ctx. (rules 15, 16)
func (m *Manager) ReleaseAll(ctx context.Context) error {
	var errs []error
	for _, c := range m.coordinators() {
		errs = append(errs, m.release(ctx, c))
	}
	return errors.Join(errs...)
}

// release stops admitting writes, drains, flushes and gives the appointment
// back by a commit.
func (m *Manager) release(ctx context.Context, c *coordinator) error {
	if err := c.quiesce(ctx); err != nil {
		return fmt.Errorf("hand over family %d: %w", c.scope.Family, err)
	}
	c.tellClean(ctx)
	err := m.commitRelease(ctx, c.scope)
	if err != nil {
		c.gate.open()
		return fmt.Errorf("hand over family %d: %w", c.scope.Family, err)
	}
	c.lose(errMoved)
	c.gate.open()
	m.mu.Lock()
	if f := m.families[c.scope.Family]; f != nil && f.coord.CompareAndSwap(c, nil) {
		m.forget(f)
	}
	m.mu.Unlock()
	return nil
}

// Settle has the family taken over if nobody coordinates it, so that what a dead
// coordinator left unfinished is made equal, and gives it back.
func (m *Manager) Settle(ctx context.Context, id sheepdog.FamilyID) error {
	c, _, _, err := m.route(ctx, id)
	if err == nil && c != nil {
		m.idle(ctx, id)
	}
	return err
}
