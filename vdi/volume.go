package vdi

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"sheepdog"
)

// Volume is an open VDI (read-write) or snapshot (read-only). It is safe for
// concurrent use. Offsets and lengths are in bytes; the caller checks them
// against Size. Requests wait while the cluster cannot serve, until ctx ends.
type Volume struct {
	m     *Manager
	name  string
	shift uint8

	// A snapshot reads this layer; 0 for a VDI.
	layer sheepdog.LayerID
	size  uint64 // when it was opened

	// A VDI: where its data are, which changes with its redundancy; origin is its
	// identity.
	family atomic.Pointer[family]
	origin uint64
	told   atomic.Uint64 // losses that a flush has reported here

	claimed atomic.Int32  // a claim; changes under Manager.mu
	claim   atomic.Uint64 // what the directory noted of it, a token

	close sync.Once
}

// ReadOnly reports whether the volume is a snapshot.
func (v *Volume) ReadOnly() bool { return v.layer != 0 }

// Size is the present size in bytes; a VDI may grow. One that was deleted keeps it,
// so that requests find out what has happened, and not that they reach too far.
func (v *Volume) Size() uint64 {
	if v.layer != 0 {
		return v.size
	}
	for {
		id := v.family.Load().id
		f, _ := v.m.opt.Directory.Family(id)
		if f.Working != 0 || !v.rebind(id) {
			if f.Size == 0 {
				return v.size
			}
			return f.Size
		}
	}
}

// ReadAt fills p from off.
func (v *Volume) ReadAt(ctx context.Context, p []byte, off uint64) error {
	if err := v.pace(ctx, uint64(len(p))); err != nil {
		return err
	}
	return v.each(ctx, off, uint64(len(p)), func(ctx context.Context, pc piece) error {
		buf := p[pc.at : pc.at+pc.n]
		if v.layer != 0 {
			return v.readFrozen(ctx, pc, buf)
		}
		return v.do(ctx, func(c *coordinator, to target) error {
			if c != nil {
				return c.read(ctx, pc, buf)
			}
			return v.m.opt.Peers.Forwarder(to.node).Forward(ctx, v.forward(sheepdog.ForwardRead, to, pc, nil), buf)
		})
	})
}

func (v *Volume) readFrozen(ctx context.Context, p piece, buf []byte) error {
	start, count := p.blocks()
	if p.aligned() {
		return v.m.frozen.read(ctx, v.layer, p.index, start, count, buf)
	}
	whole := getBuffer(int(count) * sheepdog.BlockSize)
	defer putBuffer(whole)
	if err := v.m.frozen.read(ctx, v.layer, p.index, start, count, whole); err != nil {
		return err
	}
	copy(buf, whole[p.in%sheepdog.BlockSize:])
	return nil
}

// WriteAt writes p at off. The write survives the death of processes when it
// returns, and the loss of power after the next Flush.
func (v *Volume) WriteAt(ctx context.Context, p []byte, off uint64) error {
	if err := v.pace(ctx, uint64(len(p))); err != nil {
		return err
	}
	return v.each(ctx, off, uint64(len(p)), func(ctx context.Context, pc piece) error {
		return v.write(ctx, sheepdog.ForwardWrite, pc, p[pc.at:pc.at+pc.n])
	})
}

// ZeroAt makes n bytes at off read as zeros and gives their space back.
func (v *Volume) ZeroAt(ctx context.Context, off, n uint64) error {
	if err := v.pace(ctx, 0); err != nil { // an operation without data
		return err
	}
	return v.each(ctx, off, n, func(ctx context.Context, pc piece) error {
		return v.write(ctx, sheepdog.ForwardZero, pc, nil)
	})
}

// write runs one piece until a coordinator has it. All tries have one origin,
// so that it is applied once.
func (v *Volume) write(ctx context.Context, op sheepdog.ForwardOp, pc piece, data []byte) error {
	if v.layer != 0 {
		return fmt.Errorf("write snapshot %s: %w", v.name, sheepdog.ErrFrozen)
	}
	requests := v.family.Load().requests
	n, done := requests.begin(&v.m.numbers)
	defer requests.end(n)
	return v.writeAs(ctx, op, pc, data, sheepdog.Origin{Gateway: v.m.opt.Incarnation, Request: n}, done)
}

func (v *Volume) writeAs(ctx context.Context, op sheepdog.ForwardOp, pc piece, data []byte, o sheepdog.Origin, done uint64) error {
	far := false
	err := v.do(ctx, func(c *coordinator, to target) error {
		if far = c == nil; far {
			req := v.forward(op, to, pc, data)
			req.Origin, req.OriginDone = o, done
			return v.m.opt.Peers.Forwarder(to.node).Forward(ctx, req, nil)
		}
		if applied, err := c.origins.applied(o); applied {
			return err
		}
		return c.write(ctx, pc, data, o, done)
	})
	if err == nil && far {
		v.hear(ctx, pc.index)
	}
	if err == nil {
		v.written(pc.index)
	}
	return err
}

// written notes a write that is acknowledged.
func (v *Volume) written(index sheepdog.Index) {
	f := v.family.Load()
	f.unflushed.note(v.m.opt.Cluster.View(), sheepdog.ObjectID{Family: f.id, Index: index}.Partition())
}

func (v *Volume) forward(op sheepdog.ForwardOp, to target, pc piece, data []byte) *sheepdog.ForwardRequest {
	return &sheepdog.ForwardRequest{Family: to.family, Token: to.token, Op: op,
		Offset: uint64(pc.index)<<v.shift + pc.in, Length: uint32(pc.n), Data: data}
}

// Flush makes every write that returned before the call durable on all acting
// replicas. It fails with ErrIO, once, if a loss of power of all replicas may
// have taken such a write.
func (v *Volume) Flush(ctx context.Context) error {
	if v.layer != 0 {
		return nil
	}
	f := v.family.Load() // the VDI may move to another meanwhile, with other replicas
	judge := func(since map[sheepdog.Partition]sheepdog.Revision) bool { return v.lost(f.id, since) }
	lost, err := f.unflushed.flush(func() error { return v.flush(ctx) }, judge, func() { v.lose(f) })
	if err != nil {
		if v.family.Load() != f && judge(f.unflushed.take()) { // no flush comes there any more
			v.lose(f)
		}
		return err
	}
	if err := v.report(); err != nil || !lost {
		return err
	}
	return v.lossError() // which another flush has told as well
}

func (v *Volume) flush(ctx context.Context) error {
	return v.do(ctx, func(c *coordinator, to target) error {
		if c != nil {
			return c.flush(ctx)
		}
		req := &sheepdog.ForwardRequest{Family: to.family, Token: to.token, Op: sheepdog.ForwardFlush}
		return v.m.opt.Peers.Forwarder(to.node).Forward(ctx, req, nil)
	})
}

// each runs one function per piece of the range, at once if there are several.
func (v *Volume) each(ctx context.Context, off, n uint64, one func(context.Context, piece) error) error {
	if size := pieceSize(v.shift); n > 0 && off&(size-1)+n <= size {
		return one(ctx, piece{index: sheepdog.Index(off >> v.shift), in: off & (1<<v.shift - 1), n: n})
	}
	eg, ctx := errgroup.WithContext(ctx)
	eg.SetLimit(parallelPieces)
	for _, pc := range pieces(off, n, v.shift) {
		eg.Go(func() error { return one(ctx, pc) })
	}
	return eg.Wait()
}

// parallelPieces bounds how many pieces of one request are worked on at a time.
const parallelPieces = 16

// target is the coordinator of a family at another node.
type target struct {
	family sheepdog.FamilyID
	node   sheepdog.Member
	token  sheepdog.Token
}

// do routes a request to the coordinator and routes it again when that one has
// moved or died, until it succeeds or fails for good.
func (v *Volume) do(ctx context.Context, run func(c *coordinator, to target) error) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		if v.claimIs(claimLost) {
			return fmt.Errorf("%s: %w", v.name, errClaimLost)
		}
		changed := v.m.opt.Directory.Changed()
		id := v.family.Load().id
		err := v.try(ctx, id, run)
		if err != nil && errors.Is(err, sheepdog.ErrNotFound) && v.rebind(id) {
			err = errMoved
		}
		if err == nil || !rerouted(err) {
			return err
		}
		if err := v.m.pause(ctx, changed, pause); err != nil {
			return fmt.Errorf("%s: %w", v.name, err)
		}
	}
}

func (v *Volume) try(ctx context.Context, id sheepdog.FamilyID, run func(c *coordinator, to target) error) error {
	c, other, token, err := v.m.route(ctx, id)
	if err != nil {
		return err
	}
	if c == nil && token == 0 {
		return errMoved // it was lost again before we could use it
	}
	if c != nil && v.claimPassed(c) {
		v.become(claimHeld, claimLost)
		return fmt.Errorf("%s: %w", v.name, errClaimLost)
	}
	to := target{family: id, node: other, token: token}
	if c == nil && v.claimIs(claimHeld) {
		return v.reclaim(ctx, to)
	}
	return run(c, to)
}

// rebind follows a VDI whose data went on in another family than from, where the
// caller has looked for it. It is false if the VDI is there, or is gone.
func (v *Volume) rebind(from sheepdog.FamilyID) bool {
	if v.layer != 0 {
		return false
	}
	old := v.family.Load()
	if old.id != from {
		return true // another request was faster
	}
	now, ok := v.m.opt.Directory.LookupOrigin(v.origin)
	if !ok || now.Family == old.id {
		return false
	}
	m := v.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if v.family.Load() != old {
		return true // another request was faster
	}
	f := m.family(now.Family)
	if f.attached == 0 && f.coord.Load() == nil {
		f.requests = old.requests // numbers in flight stay known (rule 10)
	}
	v.judgeMoved(old)
	v.told.Store(f.unflushed.as(old.unflushed, v.told.Load()))
	f.attached++
	v.family.Store(f)
	old.attached--
	if v.claimIs(claimHeld) {
		f.claims++
		f.claim = old.claim
		old.claims--
	}
	m.forget(old)
	return true
}

// pause waits until the directory changes, for d, or until ctx ends; if several
// of these happened, the end of ctx counts.
func (m *Manager) pause(ctx context.Context, changed <-chan struct{}, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-changed:
	case <-t.C:
	case <-ctx.Done():
	case <-m.ctx.Done():
		return context.Cause(m.ctx)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// Close detaches. The last one to leave hands the VDI over, so that another
// node can coordinate it without waiting.
func (v *Volume) Close(ctx context.Context) error {
	var err error
	v.close.Do(func() {
		if v.layer == 0 {
			err = v.detach(ctx)
		}
	})
	return err
}

func (v *Volume) detach(ctx context.Context) error {
	m := v.m
	m.mu.Lock()
	f := v.family.Load()
	f.attached--
	if v.claimed.CompareAndSwap(int32(claimHeld), int32(claimLost)) {
		f.claims--
	}
	var c *coordinator
	if f.attached == 0 {
		c = f.coord.Load()
	}
	m.forget(f)
	m.mu.Unlock()
	if c == nil {
		return nil
	}
	err := m.release(ctx, c)
	if c.ctx.Err() != nil {
		return nil // it was over already
	}
	return err
}

// Forward runs I/O for the gateway of another node. (rules 10, 15)
func (m *Manager) Forward(ctx context.Context, req *sheepdog.ForwardRequest, buf []byte) error {
	c, err := m.named(ctx, req.Family, req.Token)
	if err != nil {
		return err
	}
	return c.judged(m.forwarded(ctx, c, req, buf))
}

// admit refuses writes of a gateway whose process has ended: a connection may bring
// them long after a guest went on through another process and wrote something
// newer. Another process of that node is known to be one only in a view that lists
// it, so its writes wait for that. (rule 10)
func (m *Manager) admit(ctx context.Context, gateway sheepdog.Incarnation) error {
	for {
		v := m.opt.Cluster.View()
		if v != nil {
			m.lives.See(v)
		}
		if m.lives.Ended(gateway) {
			return fmt.Errorf("gateway %s has ended: %w", gateway, sheepdog.ErrFenced)
		}
		if m.lives.Seen(gateway) {
			return nil
		}
		select {
		case <-m.opt.Cluster.Changed(v):
		case <-ctx.Done():
			return fmt.Errorf("no view has gateway %s: %w", gateway, context.Cause(ctx))
		}
	}
}

func (m *Manager) forwarded(ctx context.Context, c *coordinator, req *sheepdog.ForwardRequest, buf []byte) error {
	if req.Op == sheepdog.ForwardFlush {
		return c.flush(ctx)
	}
	size := uint64(1) << c.shift
	p := piece{index: sheepdog.Index(req.Offset >> c.shift), in: req.Offset & (size - 1), n: uint64(req.Length)}
	if p.n == 0 || p.in+p.n > size {
		return fmt.Errorf("forwarded request of %d bytes at %d crosses objects: %w", req.Length, req.Offset, sheepdog.ErrInvalid)
	}
	switch req.Op {
	case sheepdog.ForwardRead:
		return c.read(ctx, p, buf)
	case sheepdog.ForwardWrite, sheepdog.ForwardZero:
		if err := m.admit(ctx, req.Origin.Gateway); err != nil {
			return err
		}
		return c.origins.once(ctx, req.Origin, req.OriginDone, func() error {
			return c.write(c.ctx, p, req.Data, req.Origin, req.OriginDone)
		})
	}
	return fmt.Errorf("forwarded operation %d: %w", req.Op, sheepdog.ErrInvalid)
}
