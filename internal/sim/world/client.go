package world

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/node"
	"sheepdog/vdi"
)

// Limits of a client. A call that takes longer is a failure by itself: no fault
// of a Play lasts so long.
const (
	callLimit = 60 * time.Second
	maxBytes  = 64 << 10
)

// client is a guest at one gateway: it reads and writes one VDI and moves to
// another gateway when its own dies.
type client struct {
	id     int
	w      *World
	l      *Ledger
	rng    *rand.Rand
	name   string
	size   uint64
	pause  time.Duration // mean, between calls
	stop   <-chan struct{}
	paused *gateKeeper

	host *Host
	node *node.Node
	vol  *vdi.Volume
}

// gateKeeper holds clients while all nodes lose their power.
type gateKeeper struct {
	active atomic.Int64
	closed atomic.Pointer[chan struct{}]
}

// enter waits while the gate is closed; the caller must leave.
func (g *gateKeeper) enter() {
	for {
		g.active.Add(1)
		ch := g.closed.Load()
		if ch == nil {
			return
		}
		g.active.Add(-1)
		<-*ch
	}
}

func (g *gateKeeper) leave() { g.active.Add(-1) }

// close shuts the gate; drain waits until nobody is inside.
func (g *gateKeeper) close() { ch := make(chan struct{}); g.closed.Store(&ch) }

func (g *gateKeeper) drain() {
	for g.active.Load() > 0 {
		time.Sleep(time.Millisecond)
	}
}

func (g *gateKeeper) open() { close(*g.closed.Swap(nil)) }

func (c *client) stopped() bool {
	select {
	case <-c.stop:
		return true
	default:
		return false
	}
}

// run works until it is told to stop.
func (c *client) run() {
	for !c.stopped() {
		c.paused.enter()
		if c.attach() {
			c.step()
		}
		c.paused.leave()
		time.Sleep(time.Duration(c.rng.ExpFloat64() * float64(c.pause)))
	}
	c.detach()
}

// attach opens the VDI at some gateway unless it is open at a living one. Now
// and then a client moves by itself, as a migrated guest does.
func (c *client) attach() bool {
	if c.vol != nil && c.host.Node() == c.node && c.rng.IntN(200) > 0 {
		return true
	}
	c.detach()
	up := c.w.Up()
	if len(up) == 0 {
		return false
	}
	h := up[c.rng.IntN(len(up))]
	n := h.Node()
	if n == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if n.Cluster().Barrier(ctx) != nil {
		return false
	}
	vol, err := n.VDIs().Open(c.name, "")
	if err != nil {
		c.judge("open", n, h, err)
		return false
	}
	c.host, c.node, c.vol = h, n, vol
	return true
}

func (c *client) detach() {
	if c.vol == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = c.vol.Close(ctx) // whoever comes next takes over
	c.vol = nil
}

// span draws where to work: most calls meet in a few places.
func (c *client) span() (off, n uint64) {
	const hot = 256 << 10
	n = uint64(1+c.rng.IntN(16)) * sheepdog.BlockSize
	if c.rng.IntN(4) == 0 {
		n = uint64(1+c.rng.IntN(maxBytes/cellSize)) * cellSize
	}
	room := c.size
	if c.rng.IntN(10) < 7 {
		room = min(hot, c.size)
	}
	base := uint64(0)
	if room < c.size && c.rng.IntN(2) == 0 {
		base = c.size/2 - hot/2 // across the border of two objects
	}
	n = min(n, room)
	off = base + c.rng.Uint64N(room-n+1)
	if c.rng.IntN(3) == 0 {
		return off / cellSize * cellSize, n
	}
	return off / sheepdog.BlockSize * sheepdog.BlockSize, n
}

// limited is the context of a call: it ends with the node.
func (c *client) limited() (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(c.host.life(), callLimit, errStalled)
}

// step does one call.
func (c *client) step() {
	ctx, cancel := c.limited()
	defer cancel()
	off, n := c.span()
	switch d := c.rng.IntN(100); {
	case d < 46:
		p := make([]byte, n)
		call := c.l.Write(c.id, c.name, p, off)
		err := c.write(ctx, p, off)
		call.Done(err)
		c.judge("write", c.node, c.host, err)
	case d < 50:
		call := c.l.Zero(c.id, c.name, off, n)
		err := c.vol.ZeroAt(ctx, off, n)
		call.Done(err)
		c.judge("zero", c.node, c.host, err)
	case d < 92:
		p := make([]byte, n)
		call := c.l.Read(c.id, c.name, int(n), off)
		var err error
		if !c.vol.TryReadAt(p, off) { // as NBD does
			err = c.vol.ReadAt(ctx, p, off)
		}
		if err == nil {
			_ = call.Saw(p) // the ledger keeps what is wrong
		}
		c.judge("read", c.node, c.host, err)
	default:
		complete := c.l.Flush(c.name)
		err := c.vol.Flush(ctx)
		if err == nil {
			complete()
		}
		c.judge("flush", c.node, c.host, err)
	}
}

// write goes the short way where a batch takes it, as writes by NBD do.
func (c *client) write(ctx context.Context, p []byte, off uint64) error {
	ended := make(chan error, 1)
	b := c.vol.Batch(ctx)
	if !b.Add(p, off, func(err error) { ended <- err }) {
		return c.vol.WriteAt(ctx, p, off)
	}
	b.Send()
	return <-ended
}

var errStalled = errors.New("the call took too long")

// judge accepts errors for which there is a reason: the gateway died, or the VDI
// was deleted.
func (c *client) judge(what string, n *node.Node, h *Host, err error) {
	switch {
	case err == nil:
	case h.Node() != n: // killed meanwhile
		c.vol = nil
	case errors.Is(err, sheepdog.ErrClosed):
		c.vol = nil // it is being killed
	case (errors.Is(err, sheepdog.ErrNotFound) || errors.Is(err, sheepdog.ErrFrozen)) && c.l.Gone(c.name):
		c.vol = nil
	default:
		c.l.Fault(fmt.Errorf("client %d at node %d: %s of VDI %s at %v: %w", c.id, h.Number, what, c.name, c.w.Now(), err))
	}
}

// admin takes snapshots, clones and deletes them, and looks at them again.
type admin struct {
	client
	snaps  []*Snap
	clones []string
	made   int
}

func (a *admin) run() {
	for !a.stopped() {
		a.paused.enter()
		if up := a.w.Up(); len(up) > 0 {
			a.host = up[a.rng.IntN(len(up))]
			if a.node = a.host.Node(); a.node != nil {
				a.step()
			}
		}
		a.paused.leave()
		time.Sleep(time.Duration(a.rng.ExpFloat64() * float64(a.pause)))
	}
}

func (a *admin) step() {
	ctx, cancel := a.limited()
	defer cancel()
	switch d := a.rng.IntN(10); {
	case d < 4 && len(a.snaps) < 6:
		a.snapshot(ctx)
	case d < 6 && len(a.snaps) > 0:
		a.look(ctx, a.snaps[a.rng.IntN(len(a.snaps))])
	case d < 7 && len(a.snaps) > 0 && len(a.clones) < 3:
		a.clone(ctx, a.snaps[a.rng.IntN(len(a.snaps))])
	case d < 8 && len(a.clones) > 0:
		a.guest(ctx, a.clones[a.rng.IntN(len(a.clones))])
	case d < 9 && len(a.snaps) > 1:
		a.deleteSnapshot(ctx, a.rng.IntN(len(a.snaps)))
	case len(a.clones) > 1:
		a.deleteClone(ctx, a.rng.IntN(len(a.clones)))
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
	a.judge(what, a.node, a.host, err)
	return false
}

func (a *admin) snapshot(ctx context.Context) {
	a.made++
	s := a.l.Snapshot(a.name, fmt.Sprintf("s%d", a.made))
	_, err := a.node.Backend().SnapshotVDI(ctx, &api.SnapshotRequest{Name: a.name, Tag: s.Tag})
	a.w.Tracef("snapshot %s@%s at node %d: %v", a.name, s.Tag, a.host.Number, err)
	if !a.answer("snapshot", err) {
		return // perhaps it is there; the end will tell
	}
	a.l.Taken(s)
	a.snaps = append(a.snaps, s)
	a.look(ctx, s)
}

func (a *admin) look(ctx context.Context, s *Snap) {
	p := make([]byte, a.size)
	err := readSnap(ctx, a.node, a.name, s.Tag, p)
	if a.answer("read of snapshot "+s.Tag, err) {
		_ = a.l.SawSnap(s, p)
	}
}

func readSnap(ctx context.Context, n *node.Node, name, tag string, p []byte) error {
	if err := n.Cluster().Barrier(ctx); err != nil {
		return err
	}
	vol, err := n.VDIs().Open(name, tag)
	if err != nil {
		return err
	}
	err = vol.ReadAt(ctx, p, 0)
	return errors.Join(err, vol.Close(ctx))
}

func (a *admin) clone(ctx context.Context, s *Snap) {
	if !a.l.Known(s) {
		a.look(ctx, s)
		return
	}
	a.made++
	name := fmt.Sprintf("%s-clone%d", a.name, a.made)
	a.l.Clone(name, s)
	_, err := a.node.Backend().CloneVDI(ctx, &api.CloneRequest{Source: a.name, Snapshot: api.Selector(s.Tag), Name: name})
	a.w.Tracef("clone %s of %s at node %d: %v", name, s.Tag, a.host.Number, err)
	if a.answer("clone", err) {
		a.l.Made(name)
		a.clones = append(a.clones, name)
	}
}

// guest does a few calls on a clone.
func (a *admin) guest(ctx context.Context, name string) {
	g := a.client
	g.name = name
	g.host, g.node, g.vol = nil, nil, nil
	for range 5 {
		if g.attach() {
			g.step()
		}
	}
	g.detach()
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

func (a *admin) deleteClone(ctx context.Context, i int) {
	name := a.clones[i]
	a.clones = slices.Delete(a.clones, i, i+1)
	a.l.Delete(name)
	err := a.node.Backend().DeleteVDI(ctx, &api.DeleteRequest{Name: name})
	a.w.Tracef("delete %s at node %d: %v", name, a.host.Number, err)
	if a.answer("delete", err) {
		a.l.DeletedVDI(name)
	}
}
