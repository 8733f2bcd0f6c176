package vdi

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"sheepdog"
)

// coordinator orders the I/O of one family while this node is appointed for it.
// One appointment is one coordinator: when it is over, ctx ends and a new one is
// made if the node is appointed again.
type coordinator struct {
	m       *Manager
	scope   sheepdog.Scope
	shift   uint8 // object size as a power of two
	ctx     context.Context
	lose    context.CancelCauseFunc
	gate    gate // writes are inside; a snapshot shuts it
	origins *originTable
	top     atomic.Pointer[top]
	flushes flusher
	// Of the working layer, about: for those who decide when it is encoded.
	writtenBytes atomic.Uint64
	lastWrite    *atomic.Int64 // by elapsed; the recoder keeps it longer
	lastCopy     atomic.Int64  // the same, of CopyUp

	mu      sync.Mutex
	ranges  rangeLock
	seq     uint64
	written bool // the working layer is marked in the directory
	dirty   map[sheepdog.Partition]struct{}
	held    held // for a group; zero: not
}

// err is why the coordinator must not serve now, nil if it may: the node's
// lease has time left and the directory still names this appointment. (rule 6)
func (c *coordinator) err() error {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	f, ok := c.m.opt.Directory.Family(c.scope.Family)
	if !ok {
		return fmt.Errorf("family %d: %w", c.scope.Family, sheepdog.ErrNotFound)
	}
	if f.Token != c.scope.Token || f.Coordinator.Incarnation != c.m.opt.Incarnation {
		c.lose(errMoved)
		return errMoved
	}
	return nil
}

// judged is what another node is told of an error of c's: that c is over, if it is,
// whatever came of that, so that it looks for the next coordinator. Of several
// errors in one only a single code crosses the wire.
func (c *coordinator) judged(err error) error {
	if err == nil || c.ctx.Err() == nil {
		return err
	}
	return fmt.Errorf("family %d with token %d: %w: %v", c.scope.Family, c.scope.Token, sheepdog.ErrNotCoordinator, err)
}

// lock waits for the range and numbers a write. The caller must unlock.
func (c *coordinator) lock(ctx context.Context, s span, write bool) (*hold, error) {
	c.mu.Lock()
	h := c.ranges.acquire(s, write)
	if h.granted {
		c.number(h)
	}
	c.mu.Unlock()
	if err := h.wait(ctx); err != nil {
		c.unlock(h)
		return nil, err
	}
	return h, nil
}

// number stamps a granted write; c.mu is held.
func (c *coordinator) number(h *hold) {
	if h.write {
		c.seq++
		h.seq = c.seq
	}
}

func (c *coordinator) unlock(h *hold) {
	c.mu.Lock()
	c.ranges.release(h, c.number)
	c.mu.Unlock()
}

// read fills buf, which is the piece's bytes. It starts only under a valid
// lease, waits for overlapping writes, and is thrown away if the lease ran out
// before the reply could leave. (rules 5, 6)
func (c *coordinator) read(ctx context.Context, p piece, buf []byte) error {
	h, err := c.lock(ctx, p.span(c.shift), false)
	if err != nil {
		return err
	}
	defer c.unlock(h)
	for {
		if err := c.m.awaitLease(ctx, c); err != nil {
			return err
		}
		t := c.top.Load()
		err := c.readLocked(ctx, t, p, buf)
		if c.overtaken(t, err) {
			continue
		}
		if err != nil {
			return err
		}
		if c.m.opt.Cluster.LeaseValid() && c.err() == nil {
			return nil
		}
	}
}

// overtaken reports whether a request failed because what was the working layer when it
// began became a snapshot meanwhile, and went when that was deleted: what it held is in the
// working layer now.
func (c *coordinator) overtaken(t *top, err error) bool {
	return errors.Is(err, sheepdog.ErrNotFound) && c.top.Load() != t
}

// readLocked reads the piece as the layers of t have it; its range is held.
func (c *coordinator) readLocked(ctx context.Context, t *top, p piece, buf []byte) error {
	start, count := p.blocks()
	if p.aligned() {
		return c.readBlocks(ctx, t, p.index, start, count, buf)
	}
	whole := getBuffer(int(count) * sheepdog.BlockSize)
	defer putBuffer(whole)
	if err := c.readBlocks(ctx, t, p.index, start, count, whole); err != nil {
		return err
	}
	copy(buf, whole[p.in%sheepdog.BlockSize:])
	return nil
}

// readBlocks reads whole blocks: from the family's own layers where they have
// them, else from the base.
func (c *coordinator) readBlocks(ctx context.Context, t *top, index sheepdog.Index, start sheepdog.BlockNo, count uint32, buf []byte) error {
	if !t.has(index) {
		return c.m.frozen.below(ctx, t.layer, func(base sheepdog.LayerID) error {
			return c.m.frozen.read(ctx, base, index, start, count, buf)
		})
	}
	states := getStates(int(count))
	defer putStates(states)
	req := sheepdog.ReadRequest{Fence: sheepdog.Fence{Token: c.scope.Token}, Policy: c.scope.Policy,
		Object: sheepdog.ObjectID{Family: c.scope.Family, Index: index}, Layer: t.layer,
		Start: start, Count: count, Buf: buf, States: states}
	if err := c.m.opt.Objects.Read(ctx, &req); err != nil {
		return err
	}
	// The base is looked up after the read: an encoding that the replica knows of
	// already is known here then (docs/adr/0008).
	return c.m.frozen.below(ctx, t.layer, func(base sheepdog.LayerID) error {
		return c.m.frozen.fill(ctx, base, index, start, states, buf)
	})
}

// write replaces the piece's bytes by data, or by zeros if data is nil. When it
// returns nil the write is acknowledged by the rule; it goes on when ctx ends,
// for half a write must be finished. (rules 3, 4)
func (c *coordinator) write(ctx context.Context, p piece, data []byte, o sheepdog.Origin, originDone uint64) error {
	return c.holding(ctx, p, func(seq uint64) error { return c.writeLocked(ctx, seq, p, data, o, originDone) })
}

// holding has the piece to itself while change writes there, with the sequence number
// that it is given.
func (c *coordinator) holding(ctx context.Context, p piece, change func(seq uint64) error) error {
	if err := c.gate.enter(ctx); err != nil {
		return err
	}
	defer c.gate.leave()
	h, err := c.lock(ctx, p.span(c.shift), true)
	if err != nil {
		return err
	}
	err = change(h.seq)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dirty[sheepdog.ObjectID{Family: c.scope.Family, Index: p.index}.Partition()] = struct{}{} // also after an error: some replicas may have it
	c.ranges.release(h, c.number)
	return err
}

func (c *coordinator) writeLocked(ctx context.Context, seq uint64, p piece, data []byte, o sheepdog.Origin, originDone uint64) error {
	if err := c.m.awaitLease(ctx, c); err != nil {
		return err
	}
	if data == nil && c.empty(ctx, p.index) {
		return nil
	}
	if err := c.markWritten(ctx); err != nil {
		return err
	}
	start, count := p.blocks()
	if !p.aligned() {
		whole := getBuffer(int(count) * sheepdog.BlockSize)
		defer putBuffer(whole)
		if err := c.mergeEdges(ctx, p, start, count, data, whole); err != nil {
			return err
		}
		data = whole
	}
	t := c.top.Load()
	var req sheepdog.WriteRequest
	c.change(&req, t, stretch{t.layer, p.index, start, count}, data, seq)
	req.Origin, req.OriginDone = o, originDone
	return c.m.opt.Objects.Write(c.ctx, &req)
}

// change makes the request to write data, or zeros if that is nil, to blocks of the
// working layer, and notes that the layer holds them from now on.
func (c *coordinator) change(req *sheepdog.WriteRequest, t *top, at stretch, data []byte, seq uint64) {
	t.own.add(at.index)
	c.grew(uint64(at.count) * sheepdog.BlockSize)
	*req = sheepdog.WriteRequest{Fence: sheepdog.Fence{Token: c.scope.Token}, Policy: c.scope.Policy,
		Object: sheepdog.ObjectID{Family: c.scope.Family, Index: at.index}, Layer: at.layer,
		Start: at.start, Count: at.count, Data: data, Stamp: sheepdog.Stamp{Token: c.scope.Token, Seq: seq},
		Flushed: c.flushes.upTo.Load()}
}

// empty reports that no layer of the family or below it holds anything at the
// index, so that zeros there need no write, and no space. It is false also when
// the lease ran out meanwhile: another coordinator may have written then. (rule 6)
func (c *coordinator) empty(ctx context.Context, index sheepdog.Index) bool {
	t := c.top.Load()
	if !t.lacks(ctx, index) || c.m.frozen.holds(ctx, baseOf(c.m.opt.Directory, t.layer), index) {
		return false
	}
	return c.m.opt.Cluster.LeaseValid() && c.err() == nil
}

// mergeEdges builds the whole blocks of a piece that does not begin or end at a
// block border: the present bytes with the new ones laid over them.
func (c *coordinator) mergeEdges(ctx context.Context, p piece, start sheepdog.BlockNo, count uint32, data, whole []byte) error {
	t := c.top.Load()
	last := int(count-1) * sheepdog.BlockSize
	if err := c.readBlocks(ctx, t, p.index, start, 1, whole[:sheepdog.BlockSize]); err != nil {
		return err
	}
	if last > 0 {
		if err := c.readBlocks(ctx, t, p.index, start+sheepdog.BlockNo(count-1), 1, whole[last:]); err != nil {
			return err
		}
	}
	in := whole[p.in%sheepdog.BlockSize:][:p.n]
	if data == nil {
		clear(in)
	} else {
		copy(in, data)
	}
	return nil
}

// markWritten commits, before the first write into a fresh working layer, that
// it has content; a layer without this mark is known to be empty everywhere.
func (c *coordinator) markWritten(ctx context.Context) error {
	c.mu.Lock()
	written := c.written
	c.mu.Unlock()
	if written {
		return nil
	}
	return c.m.once(ctx, fmt.Sprintf("mark %d", c.scope.Family), func(ctx context.Context) error {
		c.mu.Lock()
		written := c.written
		c.mu.Unlock()
		if written {
			return nil
		}
		if err := c.m.commitMark(ctx, c.top.Load().layer, c.scope.Token); err != nil {
			return err
		}
		c.mu.Lock()
		c.written = true
		c.mu.Unlock()
		return nil
	})
}
