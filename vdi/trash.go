package vdi

import (
	"context"
	"time"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// SetTrash has VDIs that are deleted from now on kept for so long; 0: not at
// all.
func (m *Manager) SetTrash(ctx context.Context, keep time.Duration) error {
	_, err := m.propose(ctx, &directory.SetTrash{Time: time.Now(), KeepSeconds: uint64(keep / time.Second)})
	return err
}

// methodTrash asks the coordinator of a VDI to move it into the trash.
const methodTrash = "vdi.trash"

// trashHere moves a VDI into the trash with c's writes held; c is nil if nobody
// writes it.
func (m *Manager) trashHere(ctx context.Context, c *coordinator, cmd directory.Delete) error {
	cmd.Time = time.Now()
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
	_, err := m.propose(ctx, &directory.Untrash{Time: time.Now(), VID: vid, Name: name})
	return err
}

// Purge deletes a VDI in the trash for good.
func (m *Manager) Purge(ctx context.Context, cmd directory.Purge) error {
	cmd.Time = time.Now()
	_, err := m.propose(ctx, &cmd)
	return err
}

// Expire deletes what has outlived its time, if there is anything.
func (m *Manager) Expire(ctx context.Context, now time.Time, recycleVIDs bool) error {
	if !m.opt.Directory.Due(now) {
		return nil
	}
	_, err := m.propose(ctx, &directory.Expire{Time: now, RecycleVIDs: recycleVIDs})
	return err
}
