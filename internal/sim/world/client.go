package world

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"sheepdog"
	"sheepdog/nbd"
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
	id    int
	w     *World
	l     *Ledger
	rng   *rand.Rand
	name  string
	size  uint64
	pause time.Duration // mean, between calls
	stop  <-chan struct{}
	haste *haste        // nil: never
	gates []*gateKeeper // to be entered in order

	host *Host
	node *node.Node
	vol  *vdi.Volume
}

// gateKeeper holds clients, while all nodes lose their power or a VDI is rolled
// back.
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
		for _, g := range c.gates {
			g.enter()
		}
		if c.attach() {
			c.step()
		}
		for _, g := range c.gates {
			g.leave()
		}
		time.Sleep(time.Duration(c.rng.ExpFloat64() * float64(c.rest())))
	}
	c.detach()
}

// haste is until when guests work faster: around a fault, when it matters what is
// under way. In nanoseconds of the world's time.
type haste struct{ until atomic.Int64 }

// hasteTime is how long a fault makes guests hurry, and by how much.
const (
	hasteTime   = 400 * time.Millisecond
	hasteFactor = 6
)

func (h *haste) begin(now time.Duration) { h.until.Store(int64(now + hasteTime)) }

// rest is the mean pause between calls.
func (c *client) rest() time.Duration {
	if c.haste != nil && int64(c.w.Now()) < c.haste.until.Load() {
		return c.pause / hasteFactor
	}
	return c.pause
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
		c.judge(ctx, "open", n, h, err)
		return false
	}
	c.host, c.node, c.vol = h, n, vol
	return true
}

// look sees how large the VDI is, as far as this gateway knows.
func (c *client) look() { c.size = c.vol.Size() }

func (c *client) detach() {
	if c.vol == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = c.vol.Close(ctx) // whoever comes next takes over
	c.vol = nil
}

// Most calls to a VDI meet in a few blocks, which are others a moment later. What
// was written there last is rarely written again: if a replica has it wrong, that
// stays to be found.
const (
	hotBytes  = 64 << 10
	hotTime   = 400 * time.Millisecond
	hotStride = hotBytes + sheepdog.BlockSize // over borders of objects now and then
)

// span draws where to work.
func (c *client) span() (off, n uint64) {
	n = uint64(1+c.rng.IntN(4)) * sheepdog.BlockSize
	switch c.rng.IntN(8) {
	case 0, 1:
		n = uint64(1+c.rng.IntN(16)) * sheepdog.BlockSize
	case 2:
		n = uint64(1+c.rng.IntN(maxBytes/cellSize)) * cellSize
	}
	base, room := uint64(0), c.size
	if c.rng.IntN(3) > 0 {
		room = min(hotBytes, c.size)
		base = uint64(c.w.Now()/hotTime) * hotStride % (c.size - room + 1)
		base = base / sheepdog.BlockSize * sheepdog.BlockSize
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

// patient is limited, but for a guest that now and then hangs up soon.
func (c *client) patient() (context.Context, context.CancelFunc) {
	if c.rng.IntN(10) > 0 {
		return c.limited()
	}
	return context.WithTimeoutCause(c.host.life(), time.Duration(c.rng.IntN(500))*time.Millisecond, errHungUp)
}

// step does one call, or now and then several at once.
func (c *client) step() {
	ctx, cancel := c.patient()
	defer cancel()
	c.look()
	if c.rng.IntN(5) == 0 {
		c.burst(ctx)
		return
	}
	a := c.draw()
	c.judge(ctx, a.what, c.node, c.host, c.do(ctx, a))
}

// asked is a call that a guest makes.
type asked struct {
	what   string // write, zero, trim, read, status or flush
	off, n uint64
	fua    bool // of the first three: durable when it is answered
}

func (c *client) draw() asked {
	off, n := c.span()
	fua := c.rng.IntN(8) == 0
	switch d := c.rng.IntN(100); {
	case d < 46:
		return asked{"write", off, n, fua}
	case d < 49:
		return asked{"zero", off, n, fua}
	case d < 51:
		return asked{"trim", off, n, fua}
	case d < 88:
		return asked{"read", off, n, false}
	case d < 92:
		return asked{"status", off, min(4*n, c.size-off), false}
	default:
		return asked{"flush", 0, 0, false}
	}
}

func (c *client) do(ctx context.Context, a asked) error {
	switch a.what {
	case "write":
		p := make([]byte, a.n)
		call := c.l.Write(c.id, c.name, p, a.off)
		call.fua = a.fua
		err := c.write(ctx, p, a)
		call.Done(err)
		return err
	case "zero", "trim":
		return c.zero(ctx, a)
	case "read":
		return c.read(ctx, a)
	case "status":
		return c.status(ctx, a)
	default:
		complete := c.l.Flush(c.name)
		err := c.vol.Flush(ctx)
		if err == nil {
			complete()
		}
		return err
	}
}

func (c *client) read(ctx context.Context, a asked) error {
	p := make([]byte, a.n)
	call := c.l.Read(c.id, c.name, len(p), a.off)
	if !c.vol.TryReadAt(p, a.off) { // as NBD does
		if err := c.vol.ReadAt(ctx, p, a.off); err != nil {
			return err
		}
	}
	_ = call.Saw(p) // the ledger keeps what is wrong
	return nil
}

// status asks what is a hole. Who copies a disk believes it.
func (c *client) status(ctx context.Context, a asked) error {
	call := c.l.Read(c.id, c.name, int(a.n), a.off)
	extents, err := c.vol.Status(ctx, a.off, a.n, 1+c.rng.IntN(8))
	if err != nil {
		return err
	}
	at := uint64(0)
	for _, e := range extents {
		if e.State != sheepdog.Data {
			call.SawHole(at, e.Length)
		}
		at += e.Length
	}
	if at == 0 || at > a.n {
		c.l.Fault(fmt.Errorf("client %d: status of %d bytes at %d of VDI %s describes %d", c.id, a.n, a.off, c.name, at))
	}
	return nil
}

// zero zeroes a range, or trims it, which spares the blocks that are not wholly in it.
func (c *client) zero(ctx context.Context, a asked) error {
	off, end, dev := a.off, a.off+a.n, c.node.Device(c.vol)
	run := func() error {
		flags := nbd.ZeroFlags(0)
		if a.fua {
			flags = nbd.ZeroFUA
		}
		return dev.WriteZeroes(ctx, a.off, a.n, flags)
	}
	if a.what == "trim" {
		off, end = (off+sheepdog.BlockSize-1)/sheepdog.BlockSize*sheepdog.BlockSize, end/sheepdog.BlockSize*sheepdog.BlockSize
		run = func() error { return dev.Trim(ctx, a.off, a.n, a.fua) }
	}
	if off >= end {
		return run()
	}
	call := c.l.Zero(c.id, c.name, off, end-off)
	call.fua = a.fua
	err := run()
	call.Done(err)
	return err
}

// write goes the short way where a batch takes it, as writes by NBD do.
func (c *client) write(ctx context.Context, p []byte, a asked) error {
	if a.fua {
		return c.node.Device(c.vol).WriteAt(ctx, p, a.off, true)
	}
	ended := make(chan error, 1)
	b := c.vol.Batch(ctx, nil)
	if !b.Add(p, a.off, func(err error) { ended <- err }) {
		return c.vol.WriteAt(ctx, p, a.off)
	}
	b.Send()
	return <-ended
}

// burst has several calls under way at once, as a guest with a deep queue: what a
// batch takes goes in one, the rest beside it.
func (c *client) burst(ctx context.Context) {
	calls := make([]asked, 2+c.rng.IntN(10))
	errs := make([]error, len(calls))
	var wg sync.WaitGroup
	var beside []func()
	b := c.vol.Batch(ctx, nil)
	for i := range calls {
		calls[i] = c.draw()
		if calls[i].what != "write" || calls[i].fua {
			beside = append(beside, func() { errs[i] = c.do(ctx, calls[i]) })
			continue
		}
		p := make([]byte, calls[i].n)
		call := c.l.Write(c.id, c.name, p, calls[i].off)
		end := func(err error) { call.Done(err); errs[i] = err }
		wg.Add(1)
		if !b.Add(p, calls[i].off, func(err error) { end(err); wg.Done() }) {
			wg.Done()
			beside = append(beside, func() { end(c.vol.WriteAt(ctx, p, calls[i].off)) })
		}
	}
	b.Send()
	for _, f := range beside {
		wg.Go(f)
	}
	wg.Wait()
	n, h := c.node, c.host
	for i, err := range errs {
		c.judge(ctx, calls[i].what, n, h, err)
	}
}

var (
	errStalled = errors.New("the call took too long")
	errHungUp  = errors.New("the guest hung up")
)

// judge accepts errors for which there is a reason: the gateway died, the VDI was
// deleted, or this guest itself hung up.
func (c *client) judge(ctx context.Context, what string, n *node.Node, h *Host, err error) {
	switch {
	case err == nil:
	case context.Cause(ctx) == errHungUp:
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
