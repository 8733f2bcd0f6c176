package recovery

import (
	"context"
	"sync"
	"time"

	"sheepdog/internal/pause"
)

// Load is what the guests of a cluster did at this node so far: how many
// requests it has answered for them, and how long it took over all of them.
type Load struct {
	Requests uint64
	Spent    time.Duration
}

// Pace gives guests the way. While they do nothing here, recovery is as fast as
// it can. While they work it moves data at a part of that speed: all of it as
// long as their requests take no longer than they do without recovery, less and
// less when they do, but never below paceLeast, so that recovery under load ends
// in about twice its time. What guests need is measured, not configured.
type Pace struct {
	load func() Load // nil: guests are not known about
	now  func() time.Time

	mu      sync.Mutex
	last    Load
	at      time.Time
	busy    bool
	rate    float64       // of guests' requests, per second
	share   float64       // of the free speed
	calm    float64       // seconds a guest's request takes while nothing is moved
	moving  float64       // the same while something is
	movers  int           // objects being moved
	moved   bool          // something was, since the last look
	perByte float64       // seconds to move a byte while no guest is there; 0: not known
	latest  float64       // the same since the last look, if no guest turns out to have been there
	held    time.Duration // of commits, which no pause has been shorter for
}

const (
	paceLook = 100 * time.Millisecond // between looks at the load
	// paceQuiet is below how many requests a second guests count as idle.
	paceQuiet = 20
	// paceLeast of the free speed is always taken. Half would not do for twice the time
	// of the whole: what is not moving takes longer beside guests too.
	paceLeast = 0.56
	// paceHeld bounds what is remembered of the time in which commits let nothing be
	// moved.
	paceHeld = time.Second
	// Requests may take this much longer before recovery gives way, and recovery
	// takes more again below that.
	paceWorse, paceBetter = 1.5, 1.2
	paceStep              = 0.85
	paceWeight            = 0.2 // of a new measurement
	// paceGuess is what part of its speed recovery probably has beside guests without
	// pauses, where it was only ever seen beside them. It is guessed for each object
	// anew: what the first of them took, when connections were being made, would have
	// all others pause too long.
	paceGuess = 0.7
)

func newPace(load func() Load) *Pace {
	return &Pace{load: load, now: time.Now, share: 1}
}

// look updates what is known of the guests; mu is held.
func (p *Pace) look() {
	now := p.now()
	if p.load == nil || now.Sub(p.at) < paceLook {
		return
	}
	load := p.load()
	span, requests, spent := now.Sub(p.at).Seconds(), float64(load.Requests-p.last.Requests), (load.Spent - p.last.Spent).Seconds()
	first := p.at.IsZero()
	p.at, p.last = now, load
	moved := p.moved || p.movers > 0
	p.moved = p.movers > 0
	if first {
		return
	}
	p.rate = requests / span
	p.busy = p.rate >= paceQuiet
	if !p.busy {
		if p.latest > 0 {
			p.perByte = blend(p.perByte, p.latest)
		}
		p.latest, p.share = 0, 1
		return
	}
	p.latest = 0
	each := spent / requests
	if !moved {
		p.calm = blend(p.calm, each)
		return
	}
	p.moving = blend(p.moving, each)
	switch {
	case p.calm == 0: // recovery was there first: nothing to compare with
		p.share = paceLeast
	case p.moving > paceWorse*p.calm:
		p.share = max(p.share*paceStep, paceLeast)
	case p.moving < paceBetter*p.calm:
		p.share = min(p.share/paceStep, 1)
	}
}

func blend(old, measured float64) float64 {
	if old == 0 {
		return measured
	}
	return old + paceWeight*(measured-old)
}

// Begin says that an object is going to be moved.
func (p *Pace) Begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.look()
	p.movers++
}

// End waits, after an object was moved, for as long as guests want.
func (p *Pace) End(ctx context.Context, bytes uint64, took time.Duration) error {
	return pause.For(ctx, p.end(bytes, took))
}

func (p *Pace) end(bytes uint64, took time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.movers--
	p.moved = true
	p.look()
	if bytes == 0 {
		return 0
	}
	each := took.Seconds() / float64(bytes)
	if !p.busy {
		p.latest = blend(p.latest, each)
		return 0
	}
	free := took.Seconds() * paceGuess
	if p.perByte > 0 {
		// Alone it would not have been slower than beside guests. A byte's time measured
		// on small objects, of which most is the way to another node, says otherwise.
		free = min(p.perByte*float64(bytes), took.Seconds())
	}
	pause := max(time.Duration((free/p.share-took.Seconds())*float64(time.Second)), 0)
	used := min(pause, p.held)
	p.held -= used
	return pause - used
}

// Held says that nothing could be moved for a while because of a commit. So much less
// is paused afterwards, for guests had that time.
func (p *Pace) Held(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = min(p.held+d, paceHeld)
}

// Busy reports whether guests work here, and how many requests a second.
func (p *Pace) Busy() (rate float64, busy bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.look()
	return p.rate, p.busy
}
