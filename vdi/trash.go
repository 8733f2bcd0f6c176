package vdi

import (
	"context"
	"errors"
	"slices"
	"time"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// SetTrash has VDIs that are deleted from now on kept for so long; 0: not at
// all.
func (m *Manager) SetTrash(ctx context.Context, keep time.Duration) error {
	_, err := m.propose(ctx, &directory.SetTrash{Time: m.now(), KeepSeconds: uint64(keep / time.Second)})
	return err
}

// methodTrash asks the coordinator of a VDI to move it into the trash.
const methodTrash = "vdi.trash"

// discard moves a VDI into the trash, at its coordinator: what can come back must be
// whole, no write half done. It is tried again when the outcome of a try is not known;
// then the name may be free, or another VDI's.
func (m *Manager) discard(ctx context.Context, cmd directory.Delete) error {
	v, err := m.opt.Directory.Lookup(cmd.Name)
	if err != nil {
		return err
	}
	cmd.IfVID, cmd.Time = v.VID, deletedAt(m.clocks(ctx))
	err = m.atCoordinator(ctx, cmd.Name, methodTrash, &cmd, func(ctx context.Context, c *coordinator) error {
		return m.trashHere(ctx, c, cmd)
	}, func([]byte) error { return nil })
	if errors.Is(err, sheepdog.ErrNotFound) && m.discarded(v) {
		return nil // by a try whose answer was lost
	}
	return err
}

// discarded reports whether a VDI is in the trash.
func (m *Manager) discarded(v directory.VDI) bool {
	return slices.ContainsFunc(m.opt.Directory.Trash(), func(t directory.Trashed) bool { return t.VID == v.VID && t.Name == v.Name })
}

// trashHere moves a VDI into the trash with c's writes held; c is nil if nobody
// writes it.
func (m *Manager) trashHere(ctx context.Context, c *coordinator, cmd directory.Delete) error {
	if c == nil {
		if v, err := m.opt.Directory.Lookup(cmd.Name); err == nil {
			if f, _ := m.opt.Directory.Family(v.Family); f.Coordinator.IsZero() {
				cmd.IfToken = f.Token // refused if somebody is appointed meanwhile
			}
		}
		_, err := m.propose(ctx, &cmd)
		return err
	}
	if err := c.quiesce(ctx); err != nil {
		return err
	}
	defer c.gate.open()
	cmd.IfToken = c.scope.Token
	_, err := m.propose(ctx, &cmd)
	if err == nil {
		c.lose(errMoved)
	} else {
		c.settle(ctx, err)
	}
	return err
}

// Untrash takes a VDI out of the trash, under its old name if name is empty.
func (m *Manager) Untrash(ctx context.Context, vid sheepdog.VID, name string) error {
	_, err := m.propose(ctx, &directory.Untrash{Time: m.now(), VID: vid, Name: name})
	return err
}

// Purge deletes a VDI in the trash for good.
func (m *Manager) Purge(ctx context.Context, cmd directory.Purge) error {
	cmd.Time = m.now()
	_, err := m.propose(ctx, &cmd)
	return err
}

// Expire deletes what has outlived its time, if there is anything: by the clocks of
// most members, for it cannot be taken back. While most do not answer, nothing expires.
func (m *Manager) Expire(ctx context.Context, recycleVIDs bool) error {
	if !m.opt.Directory.Expiring() {
		return nil
	}
	at, ok := reached(m.clocks(ctx))
	if !ok || !m.opt.Directory.Due(at) {
		return nil
	}
	_, err := m.propose(ctx, &directory.Expire{Time: at, RecycleVIDs: recycleVIDs})
	return err
}
