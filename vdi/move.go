package vdi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// Methods of the control calls about data that move.
const (
	methodAlter   = "vdi.alter"
	methodCopyUp  = "vdi.copyup"
	methodFlatten = "vdi.flatten"
)

// Alter gives a VDI that stands alone another redundancy, under the guests' I/O:
// new data have it at once, the old ones when CopyUp has copied every object and
// Flatten has let go of them.
func (m *Manager) Alter(ctx context.Context, cmd directory.AlterPolicy) (directory.Altered, error) {
	var out directory.Altered
	before, _ := m.opt.Directory.Lookup(cmd.Name)
	err := m.atCoordinator(ctx, cmd.Name, methodAlter, &cmd, func(ctx context.Context, c *coordinator) (err error) {
		out, err = m.alterHere(ctx, c, cmd)
		return err
	}, func(reply []byte) (err error) {
		out, err = directory.Decode[directory.Altered](reply)
		return err
	})
	if errors.Is(err, sheepdog.ErrExists) && before.Policy != cmd.Policy {
		return m.altered(cmd)
	}
	return out, err
}

// altered is what became of a VDI that had another redundancy when the command was
// given and has this one now: a try whose outcome was not known has done it.
func (m *Manager) altered(cmd directory.AlterPolicy) (directory.Altered, error) {
	v, err := m.opt.Directory.Lookup(cmd.Name)
	return directory.Altered{Family: v.Family, Layer: v.Layer, Moving: v.Moving}, err
}

// alterHere moves the VDI with c's writes held. The commit fences c and appoints
// this node in the new family, so that retries of writes meet what c knew.
func (m *Manager) alterHere(ctx context.Context, c *coordinator, cmd directory.AlterPolicy) (directory.Altered, error) {
	cmd.Time, cmd.IfToken = m.now(), c.scope.Token
	cmd.Coordinator = directory.Coordinator{Node: m.opt.Self, Incarnation: m.opt.Incarnation}
	if err := c.quiesce(ctx); err != nil {
		return directory.Altered{}, err
	}
	if err := m.moving.take(ctx); err != nil {
		c.gate.open()
		return directory.Altered{}, err
	}
	out, err := commit[directory.Altered](ctx, m, &cmd)
	if err == nil {
		m.inherited[out.Family] = c.origins
	}
	m.moving.give()
	if err != nil {
		c.settle(ctx, err)
		c.gate.open()
		return out, err
	}
	c.lose(errMoved)
	c.gate.open()
	// Whoever has the VDI open here goes on in the new family; if nobody has, it
	// is given back.
	if _, _, _, err := m.route(ctx, out.Family); err != nil {
		m.opt.Logger.Warn("could not take a VDI over in its new family", "family", out.Family, "err", err)
	}
	if !m.left(c) {
		m.idle(ctx, out.Family)
	}
	return out, nil
}

// left forgets a coordinator that is over, and reports whether volumes are still
// open here in its family; they follow at their next request.
func (m *Manager) left(c *coordinator) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.families[c.scope.Family]
	if f == nil {
		return false
	}
	f.coord.CompareAndSwap(c, nil)
	m.forget(f)
	return f.attached > 0
}

// CopyUp copies what one object reads from the VDI's base into the VDI's own
// layer. Guests may write meanwhile.
func (v *Volume) CopyUp(ctx context.Context, index sheepdog.Index) error {
	return v.do(ctx, func(c *coordinator, to target) error {
		if c != nil {
			return c.copyUp(ctx, index)
		}
		_, err := v.m.callCoordinator(ctx, to, methodCopyUp, index)
		return err
	})
}

// copyUp works in pieces, so that guests wait for one piece at most.
func (c *coordinator) copyUp(ctx context.Context, index sheepdog.Index) error {
	c.lastCopy.Store(c.m.elapsed())
	size := pieceSize(c.shift)
	for in := uint64(0); in < 1<<c.shift; in += size {
		if err := c.copyPiece(ctx, piece{index: index, in: in, n: size}); err != nil {
			return err
		}
	}
	return nil
}

func (c *coordinator) copyPiece(ctx context.Context, p piece) error {
	return c.holding(ctx, p, func(seq uint64) error { return c.copyLocked(ctx, seq, p) })
}

// copyLocked writes back what the piece reads; blocks of zeros are left out, for
// without a base they read the same.
func (c *coordinator) copyLocked(ctx context.Context, seq uint64, p piece) error {
	if err := c.m.awaitLease(ctx, c); err != nil {
		return err
	}
	t := c.top.Load()
	if baseOf(c.m.opt.Directory, t.layer) == 0 {
		return nil
	}
	start, count := p.blocks()
	buf := getBuffer(int(count) * sheepdog.BlockSize)
	defer putBuffer(buf)
	if err := c.readBlocks(ctx, t, p.index, start, count, buf); err != nil {
		return err
	}
	for i := uint32(0); i < count; {
		n := uint32(0)
		for i+n < count && !zeroBlock(buf, i+n) {
			n++
		}
		if n == 0 {
			i++
			continue
		}
		if err := c.markWritten(ctx); err != nil {
			return err
		}
		at := stretch{t.layer, p.index, start + sheepdog.BlockNo(i), n}
		var req sheepdog.WriteRequest
		c.change(&req, t, at, buf[i*sheepdog.BlockSize:(i+n)*sheepdog.BlockSize], seq)
		if err := c.m.opt.Objects.Write(c.ctx, &req); err != nil {
			return err
		}
		i += n
	}
	return nil
}

func zeroBlock(buf []byte, i uint32) bool {
	for _, b := range buf[i*sheepdog.BlockSize : (i+1)*sheepdog.BlockSize] {
		if b != 0 {
			return false
		}
	}
	return true
}

// Flatten lets go of the base of a VDI after every object was copied up to its
// working layer. The error wraps ErrInvalid if that is another one by now.
func (m *Manager) Flatten(ctx context.Context, name string, layer sheepdog.LayerID) error {
	cmd := directory.Flatten{Name: name, IfLayer: layer}
	return m.atCoordinator(ctx, name, methodFlatten, &cmd, func(ctx context.Context, c *coordinator) error {
		return m.flattenHere(ctx, c, cmd)
	}, func([]byte) error { return nil })
}

func (m *Manager) flattenHere(ctx context.Context, c *coordinator, cmd directory.Flatten) error {
	if err := c.restate(ctx); err != nil {
		return err
	}
	if err := c.quiesce(ctx); err != nil {
		return err
	}
	defer c.gate.open()
	cmd.Time, cmd.IfToken = m.now(), c.scope.Token
	_, err := m.propose(ctx, &cmd)
	if err != nil && !decided(err) {
		c.lose(errMoved) // not known: the next coordinator reads it from the directory
	}
	return err
}

// restate has the replicas of this family know which writes were applied in the one
// that the VDI was in before: once the VDI has let go of that, no takeover asks there,
// and a gateway that was cut off may still repeat them. (rule 10)
func (c *coordinator) restate(ctx context.Context) error {
	for _, o := range c.origins.unknown(&c.m.lives) {
		if err := c.carry(ctx, o); err != nil {
			return fmt.Errorf("note a write of before in the new family: %w", err)
		}
		c.origins.told(o)
	}
	return nil
}

// carry brings an origin to the replicas, with a write that changes nothing: of the
// first block, with what is in it.
func (c *coordinator) carry(ctx context.Context, o sheepdog.Origin) error {
	first := piece{n: sheepdog.BlockSize}
	return c.holding(ctx, first, func(seq uint64) error {
		buf := getBuffer(sheepdog.BlockSize)
		defer putBuffer(buf)
		if err := c.readBlocks(ctx, c.top.Load(), 0, 0, 1, buf); err != nil {
			return err
		}
		return c.writeLocked(ctx, seq, first, buf, o, 0)
	})
}

// controlMove serves the control calls of this file and of groups.
func (m *Manager) controlMove(ctx context.Context, c *coordinator, method string, call remoteCall) ([]byte, error) {
	bad := func(err error) error { return fmt.Errorf("%s: %v: %w", method, err, sheepdog.ErrInvalid) }
	switch method {
	case methodHold:
		var id holdID
		if err := json.Unmarshal(call.Body, &id); err != nil {
			return nil, bad(err)
		}
		return nil, m.hold(ctx, c, id)
	case methodResume:
		var id holdID
		if err := json.Unmarshal(call.Body, &id); err != nil {
			return nil, bad(err)
		}
		m.resume(ctx, c, id)
		return nil, nil
	case methodCopyUp:
		var index sheepdog.Index
		if err := json.Unmarshal(call.Body, &index); err != nil {
			return nil, bad(err)
		}
		return nil, c.copyUp(ctx, index)
	case methodFlatten:
		var cmd directory.Flatten
		if err := json.Unmarshal(call.Body, &cmd); err != nil {
			return nil, bad(err)
		}
		return nil, m.flattenHere(ctx, c, cmd)
	case methodTrash:
		var cmd directory.Delete
		if err := json.Unmarshal(call.Body, &cmd); err != nil {
			return nil, bad(err)
		}
		return nil, m.trashHere(ctx, c, cmd)
	case methodAlter:
		var cmd directory.AlterPolicy
		if err := json.Unmarshal(call.Body, &cmd); err != nil {
			return nil, bad(err)
		}
		return encoded(m.alterHere(ctx, c, cmd))
	}
	return nil, bad(errors.New("no such call"))
}
