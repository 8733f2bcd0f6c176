package vdi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// commit proposes one directory command and decodes its result.
func commit[R directory.Created | directory.Snapped | directory.SnappedGroup | directory.Deleted | directory.RolledBack | directory.Acquired | directory.Altered | directory.Recoding](ctx context.Context, m *Manager, cmd directory.Command) (R, error) {
	out, err := m.propose(ctx, cmd)
	if err != nil {
		var none R
		return none, err
	}
	return directory.Decode[R](out)
}

func (m *Manager) propose(ctx context.Context, cmd directory.Command) ([]byte, error) {
	kind, body, err := directory.Encode(cmd)
	if err != nil {
		return nil, err
	}
	return m.opt.Cluster.Propose(ctx, kind, body)
}

func (m *Manager) commitAcquire(ctx context.Context, f directory.Family) (sheepdog.Token, error) {
	got, err := commit[directory.Acquired](ctx, m, &directory.Acquire{Time: m.now(), Family: f.ID,
		Node: m.opt.Self, Incarnation: m.opt.Incarnation, IfToken: f.Token})
	return got.Token, err
}

func (m *Manager) commitRelease(ctx context.Context, s sheepdog.Scope) error {
	_, err := m.propose(ctx, &directory.Release{Time: m.now(), Family: s.Family, Node: m.opt.Self, Incarnation: m.opt.Incarnation, Token: s.Token})
	if errors.Is(err, sheepdog.ErrFenced) || errors.Is(err, sheepdog.ErrConflict) {
		return nil // somebody else has it, or the VDI is gone: nothing to give back
	}
	return err
}

func (m *Manager) commitMark(ctx context.Context, layer sheepdog.LayerID, token sheepdog.Token) error {
	_, err := m.propose(ctx, &directory.MarkWritten{Time: m.now(), Layer: layer, Token: token})
	return err
}

// Open attaches to a VDI, or to its snapshot if ref, a tag or a number, is not
// empty. The caller must Close the volume.
func (m *Manager) Open(name, ref string) (*Volume, error) {
	if m.ctx.Err() != nil {
		return nil, sheepdog.ErrClosed
	}
	if ref != "" {
		e, err := m.opt.Directory.LookupSnapshot(name, ref)
		if err != nil {
			return nil, err
		}
		return &Volume{m: m, name: name + "@" + ref, shift: e.BlockSizeShift, layer: e.Layer, size: e.Size}, nil
	}
	v, err := m.opt.Directory.Lookup(name)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	f := m.family(v.Family)
	f.attached++
	m.mu.Unlock()
	m.adoptLimits(f)
	out := &Volume{m: m, name: name, shift: v.BlockSizeShift, size: v.Size, origin: v.Origin}
	out.family.Store(f)
	out.told.Store(f.unflushed.losses.Load())
	return out, nil
}

// Create makes an empty VDI.
func (m *Manager) Create(ctx context.Context, cmd directory.Create) (directory.Created, error) {
	cmd.Time = m.now()
	return commit[directory.Created](ctx, m, &cmd)
}

// Clone makes a VDI on a snapshot of another.
func (m *Manager) Clone(ctx context.Context, cmd directory.Clone) (directory.Created, error) {
	cmd.Time = m.now()
	return commit[directory.Created](ctx, m, &cmd)
}

// Delete deletes a VDI, or moves it into the trash if that is on; its snapshots
// and clones stay. Requests of those who have it open fail with ErrNotFound.
func (m *Manager) Delete(ctx context.Context, cmd directory.Delete) error {
	if m.opt.Directory.TrashKeep() > 0 && !cmd.Purge {
		return m.discard(ctx, cmd)
	}
	cmd.Time = m.now()
	_, err := m.propose(ctx, &cmd)
	return err
}

// DeleteSnapshot deletes a snapshot; clones of it stay.
func (m *Manager) DeleteSnapshot(ctx context.Context, cmd directory.DeleteSnapshot) error {
	cmd.Time = m.now()
	_, err := m.propose(ctx, &cmd)
	return err
}

// Resize grows a VDI.
func (m *Manager) Resize(ctx context.Context, name string, size uint64) error {
	_, err := m.propose(ctx, &directory.Resize{Time: m.now(), Name: name, Size: size})
	return err
}

// Methods of the control calls between nodes.
const (
	methodSnapshot = "vdi.snapshot"
	methodRollback = "vdi.rollback"
)

// remoteCall is the body of a control call to the coordinator.
type remoteCall struct {
	Family sheepdog.FamilyID `json:"family"`
	Token  sheepdog.Token    `json:"token"`
	Body   json.RawMessage   `json:"body"`
}

// Snapshot freezes the present state of a VDI under the guests' I/O. A VDI that
// was not written since its last snapshot needs nobody's help; otherwise its
// coordinator, wherever it is, flushes and holds writes for the moment of the
// commit. (rule 13) It is tried again when the outcome of a try is not known; with
// a tag it is taken once.
func (m *Manager) Snapshot(ctx context.Context, cmd directory.Snapshot) (directory.Snapped, error) {
	cmd.Time, cmd.Once = m.now(), cmd.Tag != ""
	var out directory.Snapped
	err := m.atCoordinator(ctx, cmd.Name, methodSnapshot, &cmd, func(ctx context.Context, c *coordinator) (err error) {
		out, err = m.snapshotHere(ctx, c, cmd)
		return err
	}, func(reply []byte) (err error) {
		out, err = directory.Decode[directory.Snapped](reply)
		return err
	})
	return out, err
}

// Rollback replaces the working state of a VDI by that of a snapshot, under its
// coordinator's gate, and fences everything that was under way.
func (m *Manager) Rollback(ctx context.Context, cmd directory.Rollback) (directory.RolledBack, error) {
	var out directory.RolledBack
	run := func(ctx context.Context, c *coordinator) (err error) {
		out, err = m.rollbackHere(ctx, c, cmd)
		return err
	}
	if _, err := m.opt.Directory.Lookup(cmd.Name); errors.Is(err, sheepdog.ErrNotFound) {
		return out, run(ctx, nil) // only snapshots are left: it makes the VDI anew
	}
	err := m.atCoordinator(ctx, cmd.Name, methodRollback, &cmd, run, func(reply []byte) (err error) {
		out, err = directory.Decode[directory.RolledBack](reply)
		return err
	})
	return out, err
}

// atCoordinator runs here(c) if this node coordinates the VDI or can, else calls
// the coordinator's node and hands its reply to remote. For a snapshot, or a
// move into the trash, here(nil) is enough while the working layer is not written, or after a coordinator has
// given the VDI back, flushed: then the commit itself notices a new one.
func (m *Manager) atCoordinator(ctx context.Context, name, method string, cmd any, here func(context.Context, *coordinator) error, remote func([]byte) error) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		changed := m.opt.Directory.Changed()
		v, err := m.opt.Directory.Lookup(name)
		if err != nil {
			return err
		}
		err = m.tryCoordinator(ctx, v.Family, method, cmd, here, remote)
		if err == nil || !rerouted(err) {
			return err
		}
		if perr := m.pause(ctx, changed, pause); perr != nil {
			return errors.Join(perr, err)
		}
	}
}

func (m *Manager) tryCoordinator(ctx context.Context, id sheepdog.FamilyID, method string, cmd any, here func(context.Context, *coordinator) error, remote func([]byte) error) error {
	f, ok := m.opt.Directory.Family(id)
	if !ok {
		return fmt.Errorf("VDI was deleted: %w", sheepdog.ErrNotFound)
	}
	if l, ok := m.opt.Directory.Layer(f.Working); ok && (method == methodSnapshot || method == methodTrash) && (!l.Written || f.Coordinator.IsZero()) {
		return here(ctx, nil)
	}
	c, other, token, err := m.route(ctx, id)
	if err != nil {
		return err
	}
	if c != nil {
		err := here(ctx, c)
		m.idle(ctx, id)
		return err
	}
	if token == 0 {
		return errMoved
	}
	reply, err := m.callCoordinator(ctx, target{node: other, family: id, token: token}, method, cmd)
	if err != nil {
		return err
	}
	return remote(reply)
}

// callCoordinator asks the coordinator at another node; without an argument, nil.
func (m *Manager) callCoordinator(ctx context.Context, to target, method string, arg any) ([]byte, error) {
	call := remoteCall{Family: to.family, Token: to.token}
	var err error
	if arg != nil {
		if call.Body, err = json.Marshal(arg); err != nil {
			return nil, err
		}
	}
	body, err := json.Marshal(call)
	if err != nil {
		return nil, err
	}
	return m.opt.Peers.Call(ctx, to.node, method, body)
}

// idle gives a family back that was taken only for an operation.
func (m *Manager) idle(ctx context.Context, id sheepdog.FamilyID) {
	m.mu.Lock()
	f := m.families[id]
	var c *coordinator
	if f != nil && f.attached == 0 {
		c = f.coord.Load()
	}
	m.mu.Unlock()
	if c == nil || c.ctx.Err() != nil {
		return
	}
	if err := m.release(ctx, c); err != nil {
		m.opt.Logger.Warn("could not give an idle VDI back", "family", id, "err", err)
	}
}

// snapshotHere takes the snapshot with c's writes held; c is nil if nobody
// writes the VDI.
func (m *Manager) snapshotHere(ctx context.Context, c *coordinator, cmd directory.Snapshot) (directory.Snapped, error) {
	if c == nil {
		if v, err := m.opt.Directory.Lookup(cmd.Name); err == nil {
			f, _ := m.opt.Directory.Family(v.Family)
			cmd.IfFamily = f.ID
			if f.Coordinator.IsZero() {
				cmd.IfToken = f.Token // refused if somebody is appointed meanwhile
			}
		}
		return commit[directory.Snapped](ctx, m, &cmd)
	}
	if err := c.quiesce(ctx); err != nil {
		return directory.Snapped{}, err
	}
	defer c.gate.open()
	cmd.IfFamily, cmd.IfToken = c.scope.Family, c.scope.Token
	cmd.Writing = c.gate.awaited()
	out, err := commit[directory.Snapped](ctx, m, &cmd)
	c.settle(ctx, err)
	return out, err
}

// rollbackHere rolls back with c's writes held. The commit fences c.
func (m *Manager) rollbackHere(ctx context.Context, c *coordinator, cmd directory.Rollback) (directory.RolledBack, error) {
	cmd.Time = m.now()
	if c == nil {
		return commit[directory.RolledBack](ctx, m, &cmd)
	}
	if err := c.quiesce(ctx); err != nil {
		return directory.RolledBack{}, err
	}
	defer c.gate.open()
	cmd.IfToken = c.scope.Token
	out, err := commit[directory.RolledBack](ctx, m, &cmd)
	if err == nil {
		c.lose(errMoved)
	} else {
		c.settle(ctx, err)
	}
	return out, err
}

// settle makes the coordinator's working layer that of the directory, with the
// gate shut. After a commit whose outcome is unknown it first waits for
// everything that was committed; if it cannot, the coordinator ends: the next
// one starts from the directory.
func (c *coordinator) settle(ctx context.Context, commitErr error) {
	if commitErr != nil && !decided(commitErr) {
		if err := c.m.opt.Cluster.Barrier(ctx); err != nil {
			c.lose(errMoved)
			return
		}
	}
	f, ok := c.m.opt.Directory.Family(c.scope.Family)
	t := c.top.Load()
	l, found := c.m.opt.Directory.Layer(f.Working)
	if !ok || !found || l.ID == t.layer {
		return
	}
	next := &top{layer: l.ID, own: wholeMap(newIndexSet()), below: c.joined(t), under: append([]sheepdog.LayerID{t.layer}, t.under...)}
	if !next.below.whole.Load() { // then what moves up before it is listed must be met
		next.own = c.mapOf(func(set *indexSet) error { return c.loadOwn(next, set) })
	}
	c.mu.Lock()
	c.written = l.Written
	c.mu.Unlock()
	c.writtenBytes.Store(0)
	c.top.Store(next)
}

// decided reports whether the error is the directory's answer, so that nothing
// was committed.
func decided(err error) bool {
	for _, e := range []error{sheepdog.ErrExists, sheepdog.ErrInvalid, sheepdog.ErrConflict, sheepdog.ErrNotFound, sheepdog.ErrFenced, sheepdog.ErrFrozen, sheepdog.ErrBusy} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// HandleControl serves the control calls of other nodes' managers.
func (m *Manager) HandleControl(ctx context.Context, method string, body []byte) (reply []byte, err error, ok bool) {
	switch method {
	case methodApplied:
		return nil, m.controlApplied(ctx, body), true
	case methodTime:
		reply, err = json.Marshal(m.now())
		return reply, err, true
	case methodSnapshot, methodRollback, methodRelease, methodTrash, methodHold, methodResume, methodAlter, methodCopyUp, methodFlatten, methodYield, methodStatus:
	default:
		return nil, nil, false
	}
	reply, err = m.control(ctx, method, body)
	return reply, err, true
}

func (m *Manager) control(ctx context.Context, method string, body []byte) ([]byte, error) {
	var call remoteCall
	if err := json.Unmarshal(body, &call); err != nil {
		return nil, fmt.Errorf("%s: %v: %w", method, err, sheepdog.ErrInvalid)
	}
	c, err := m.named(ctx, call.Family, call.Token)
	if err != nil {
		return nil, err
	}
	reply, err := m.controlAt(ctx, c, method, call)
	return reply, c.judged(err)
}

func (m *Manager) controlAt(ctx context.Context, c *coordinator, method string, call remoteCall) ([]byte, error) {
	if method == methodRelease {
		return nil, m.release(ctx, c)
	}
	if method == methodYield {
		return encoded(m.yield(ctx, c))
	}
	if method == methodStatus {
		return c.status(ctx, call.Body)
	}
	if method != methodSnapshot && method != methodRollback {
		return m.controlMove(ctx, c, method, call)
	}
	if method == methodSnapshot {
		var cmd directory.Snapshot
		if err := json.Unmarshal(call.Body, &cmd); err != nil {
			return nil, fmt.Errorf("%s: %v: %w", method, err, sheepdog.ErrInvalid)
		}
		return encoded(m.snapshotHere(ctx, c, cmd))
	}
	var cmd directory.Rollback
	if err := json.Unmarshal(call.Body, &cmd); err != nil {
		return nil, fmt.Errorf("%s: %v: %w", method, err, sheepdog.ErrInvalid)
	}
	return encoded(m.rollbackHere(ctx, c, cmd))
}

func encoded(result any, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return json.Marshal(result)
}
