package vdi

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// methodRelease asks the coordinator of a family to give it back.
const methodRelease = "vdi.release"

// SetAttr sets or deletes an attribute of a VDI.
func (m *Manager) SetAttr(ctx context.Context, cmd directory.SetAttr) error {
	cmd.Time = m.now()
	_, err := m.propose(ctx, &cmd)
	return err
}

// Rename gives a VDI and its snapshots another name.
func (m *Manager) Rename(ctx context.Context, name, newName string) error {
	_, err := m.propose(ctx, &directory.Rename{Time: m.now(), Name: name, NewName: newName})
	return err
}

// Unlock takes a VDI from whoever coordinates it: it is drained, flushed and
// given back, so nothing is lost. A client that still writes makes its gateway
// ask for the VDI again. The error wraps ErrConflict if nobody coordinates it.
func (m *Manager) Unlock(ctx context.Context, name string) error {
	asked := false
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		changed := m.opt.Directory.Changed()
		v, err := m.opt.Directory.Lookup(name)
		if err != nil {
			return err
		}
		f, ok := m.opt.Directory.Family(v.Family)
		if ok && f.Coordinator.IsZero() && asked {
			return nil // given back, though whoever had it could not say so
		}
		if !ok || f.Coordinator.IsZero() {
			return fmt.Errorf("VDI %s (vid=%s) is not locked: %w", name, v.VID, sheepdog.ErrConflict)
		}
		asked = true
		err = m.releaseAt(ctx, f)
		if err == nil || !rerouted(err) {
			return err
		}
		if err := m.pause(ctx, changed, pause); err != nil {
			return err
		}
	}
}

// releaseAt has the family given back by its coordinator, or, if that one is no
// member any more, by this node after it has taken over.
func (m *Manager) releaseAt(ctx context.Context, f directory.Family) error {
	holder, ok := m.holder(f)
	if ok && holder.Incarnation != m.opt.Incarnation {
		body, err := json.Marshal(remoteCall{Family: f.ID, Token: f.Token})
		if err != nil {
			return err
		}
		_, err = m.opt.Peers.Call(ctx, holder, methodRelease, body)
		return err
	}
	c, _, _, err := m.route(ctx, f.ID)
	if err != nil {
		return err
	}
	if c == nil {
		return errMoved
	}
	return m.release(ctx, c)
}

// Claim makes this node the coordinator of the volume's VDI before its first
// request. The error wraps ErrBusy if another node is.
func (v *Volume) Claim(ctx context.Context) error {
	if v.layer != 0 {
		return nil
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		changed := v.m.opt.Directory.Changed()
		c, other, _, err := v.m.route(ctx, v.family.Load().id)
		switch {
		case err == nil && c != nil:
			return nil
		case err == nil && other.ID != 0:
			return fmt.Errorf("VDI %s is locked by node %s: %w", v.name, other.Addr, sheepdog.ErrBusy)
		case err != nil && !rerouted(err):
			return err
		}
		if err := v.m.pause(ctx, changed, pause); err != nil {
			return err
		}
	}
}
