package world

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/node"
)

// admin takes snapshots, clones and deletes them, rolls back to them, looks at
// them again, and takes the VDI from its coordinator.
type admin struct {
	client
	guests  *gateKeeper // of the VDI's guests; closed while rolling is set
	snaps   []*Snap
	clones  []*clone
	other   string // VDI for snapshots of two; empty: none
	made    int
	grown   int
	growing uint64 // a size that is to be had until it is known to be
	rolling *Snap  // a rollback that is to be done until it is known to be
}

func (a *admin) run() {
	for !a.stopped() {
		a.turn()
		time.Sleep(time.Duration(a.rng.ExpFloat64() * float64(a.pause)))
	}
	for end := time.Now().Add(callLimit); a.rolling != nil; time.Sleep(a.pause) {
		if time.Now().After(end) {
			a.l.Fault(fmt.Errorf("rollback of VDI %s to %s: not done after %v", a.name, a.rolling.Tag, callLimit))
			a.guests.open()
			return
		}
		a.turn()
	}
}

// turn does one thing at a node, if one runs. The guests are waited for where no
// gate is held: they may have to pass one.
func (a *admin) turn() {
	idle := a.rolling == nil
	a.visit()
	if idle && a.rolling != nil {
		a.guests.close()
		a.guests.drain()
	}
}

func (a *admin) visit() {
	for _, g := range a.gates {
		g.enter()
		defer g.leave()
	}
	up := a.w.Up()
	if len(up) == 0 {
		return
	}
	a.host = up[a.rng.IntN(len(up))]
	if a.node = a.host.Node(); a.node == nil {
		return
	}
	ctx, cancel := a.limited()
	defer cancel()
	if a.rolling != nil {
		a.rollBack(ctx)
		return
	}
	a.step(ctx)
}

func (a *admin) step(ctx context.Context) {
	switch d := a.rng.IntN(20); {
	case a.growing > 0:
		a.grow(ctx)
	case d < 6 && len(a.snaps) < 6:
		a.snapshot(ctx)
	case d == 6 && len(a.snaps) < 6 && a.other != "":
		a.group(ctx)
	case d < 10 && len(a.snaps) > 0:
		a.look(ctx, a.snaps[a.rng.IntN(len(a.snaps))])
	case d < 12 && len(a.snaps) > 0 && len(a.clones) < 3:
		a.clone(ctx, a.snaps[a.rng.IntN(len(a.snaps))])
	case d < 14 && len(a.clones) > 0:
		a.work(ctx, a.clones[a.rng.IntN(len(a.clones))])
	case d < 16 && len(a.snaps) > 1:
		a.deleteSnapshot(ctx, a.rng.IntN(len(a.snaps)))
	case d < 18 && len(a.clones) > 1:
		a.deleteClone(ctx, a.rng.IntN(len(a.clones)))
	case d == 18 && len(a.snaps) > 0:
		if s := a.snaps[a.rng.IntN(len(a.snaps))]; a.l.Known(s) {
			a.rolling = s
			a.l.Rolling(a.name)
		}
	case d == 19 && (a.grown == mostGrown || a.rng.IntN(2) == 0):
		a.unlock(ctx)
	case d == 19:
		a.grow(ctx)
	}
}

// rollBack tries once. After an unknown outcome it is tried again: twice is the
// same as once while the guests wait.
func (a *admin) rollBack(ctx context.Context) {
	s := a.rolling
	_, err := a.node.Backend().RollbackVDI(ctx, &api.RollbackRequest{Name: a.name, Snapshot: api.Selector(s.Tag)})
	a.w.Tracef("rollback of %s to %s at node %d: %v", a.name, s.Tag, a.host.Number, err)
	if !a.answer("rollback", err) {
		return
	}
	a.l.RolledBack(a.name, s)
	a.rolling = nil
	a.guests.open()
}

// unlock takes the VDI from its coordinator; the next call appoints another.
func (a *admin) unlock(ctx context.Context) {
	err := a.node.Backend().Unlock(ctx, &api.UnlockRequest{Name: a.name})
	a.w.Tracef("unlock %s at node %d: %v", a.name, a.host.Number, err)
	if e := (*api.Error)(nil); errors.As(err, &e) && e.Code == api.CodeNotLocked {
		return // nobody coordinates it
	}
	if a.answer("unlock", err) {
		a.l.Count(func(c *Counts) { c.Unlocked++ })
	}
}

// answer judges an error of a call to the control API: one that may come when
// nodes die, leaders change and disks fill up leaves the outcome open; a node that
// has just started does not know the format. Nothing exists already: what is
// repeated after an unknown outcome must know its own first run.
func (a *admin) answer(what string, err error) bool {
	if err == nil {
		return true
	}
	for _, ok := range []error{sheepdog.ErrNoQuorum, sheepdog.ErrUnreachable, sheepdog.ErrClosed, sheepdog.ErrConflict,
		sheepdog.ErrBusy, sheepdog.ErrBehind, sheepdog.ErrNotFormatted, sheepdog.ErrNoSpace} {
		if errors.Is(err, ok) && !errors.Is(err, errStalled) {
			a.w.Tracef("admin: %s at node %d: %v", what, a.host.Number, err)
			return false
		}
	}
	a.judge(context.Background(), what, a.node, a.host, err)
	return false
}

func (a *admin) snapshot(ctx context.Context) {
	a.made++
	s := a.l.Snapshot(a.name, fmt.Sprintf("s%d", a.made))
	_, err := a.node.Backend().SnapshotVDI(ctx, &api.SnapshotRequest{Name: a.name, Tag: s.Tag, Expires: time.Now().Add(expiry)})
	a.w.Tracef("snapshot %s@%s at node %d: %v", a.name, s.Tag, a.host.Number, err)
	if !a.answer("snapshot", err) {
		return // perhaps it is there; the end will tell
	}
	a.l.Taken(s)
	a.snaps = append(a.snaps, s)
	a.look(ctx, s)
}

// group takes a snapshot of two VDIs. The other one's is looked at in the end.
func (a *admin) group(ctx context.Context) {
	a.made++
	tag := fmt.Sprintf("g%d", a.made)
	s, o := a.l.Group(a.name, a.other, tag)
	_, err := a.node.Backend().SnapshotGroup(ctx, &api.GroupRequest{Names: []string{a.name, a.other}, Tag: tag, Expires: time.Now().Add(expiry)})
	a.w.Tracef("snapshot %s and %s @%s at node %d: %v", a.name, a.other, tag, a.host.Number, err)
	if !a.answer("group snapshot", err) {
		return
	}
	a.l.Taken(s)
	a.l.Taken(o)
	a.snaps = append(a.snaps, s)
	a.look(ctx, s)
}

func (a *admin) look(ctx context.Context, s *Snap) {
	p, err := readSnap(ctx, a.node, a.name, s.Tag)
	if a.answer("read of snapshot "+s.Tag, err) {
		_ = a.l.SawSnap(s, p)
	}
}

func readSnap(ctx context.Context, n *node.Node, name, tag string) ([]byte, error) {
	if err := n.Cluster().Barrier(ctx); err != nil {
		return nil, err
	}
	vol, err := n.VDIs().Open(name, tag)
	if err != nil {
		return nil, err
	}
	p := make([]byte, vol.Size())
	err = vol.ReadAt(ctx, p, 0)
	return p, errors.Join(err, vol.Close(ctx))
}

// growth is by how much a VDI grows at a time, at most, and how often.
const (
	growth    = 1 << 20
	mostGrown = 4
)

// grow adds some to the VDI, not always whole blocks. After an unknown outcome the same is
// tried again: a VDI does not shrink.
func (a *admin) grow(ctx context.Context) {
	if a.growing == 0 {
		a.growing = a.l.Growing(a.name, uint64(1+a.rng.IntN(growth/cellSize))*cellSize)
	}
	_, err := a.node.Backend().ResizeVDI(ctx, &api.ResizeRequest{Name: a.name, SizeBytes: a.growing})
	a.w.Tracef("grow %s to %d at node %d: %v", a.name, a.growing, a.host.Number, err)
	if a.answer("resize", err) {
		a.l.Grown(a.name, a.growing)
		a.grown, a.growing = a.grown+1, 0
	}
}

func (a *admin) deleteSnapshot(ctx context.Context, i int) {
	s := a.snaps[i]
	a.snaps = slices.Delete(a.snaps, i, i+1)
	a.l.DeleteSnap(s)
	err := a.node.Backend().DeleteVDI(ctx, &api.DeleteRequest{Name: a.name, Snapshot: api.Selector(s.Tag)})
	a.w.Tracef("delete snapshot %s@%s at node %d: %v", a.name, s.Tag, a.host.Number, err)
	if a.answer("delete snapshot", err) {
		a.l.Deleted(s)
	}
}
