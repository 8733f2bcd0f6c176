package world

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"sheepdog/api"
)

// Script says what a Play does. Zero values mean the defaults.
type Script struct {
	Faults  []Fault // chosen from; nil: all
	Count   int     // faults; 8
	AtLeast int     // operations: faults go on until there were so many
	Clients int     // guests; 4
	Disks   int     // VDIs; 2
	Size    uint64  // of a VDI, in bytes; 2 MiB
	Pause   time.Duration
	Calm    time.Duration // mean time between faults; 700 ms
}

func (s *Script) fill() {
	if s.Faults == nil {
		s.Faults = AllFaults()
	}
	set(&s.Count, 8)
	set(&s.Clients, 5)
	set(&s.Disks, 2)
	set(&s.Size, 2<<20)
	set(&s.Pause, 15*time.Millisecond)
	set(&s.Calm, 700*time.Millisecond)
}

func set[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// Play is one run: clients work while faults happen, then everything heals and
// is checked.
type Play struct {
	*World
	Ledger *Ledger
	Done   map[string]int // faults by name

	script Script
	gate   gateKeeper
	haste  haste
	stop   chan struct{}
	wg     sync.WaitGroup

	mu    sync.Mutex // guards Done while faults go on, and taken
	taken map[*Host]bool
}

// Run plays a script in a world of which nothing runs yet. It returns the first
// thing that was wrong.
func (w *World) Run(s Script) (*Play, error) {
	s.fill()
	p := &Play{World: w, Ledger: NewLedger(), Done: make(map[string]int), taken: make(map[*Host]bool), script: s, stop: make(chan struct{})}
	if w.opt.Sync {
		p.Ledger.SyncAlways()
	}
	w.BootAll()
	w.Format()
	p.create()
	p.begin()
	end := sync.OnceFunc(func() { close(p.stop) })
	defer end() // also when a test is given up
	p.faults()
	end()
	p.ended()
	w.Tracef("clients have stopped")
	return p, w.Conclude(p.Ledger)
}

// ended waits for the clients. A write that nobody can give up may wait for ever:
// that is a failure, and it ends when the nodes do.
func (p *Play) ended() {
	p.t.Helper()
	done := make(chan struct{})
	go func() {
		p.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(3 * callLimit):
		p.t.Fatalf("clients wait for an answer %v after the last fault at %v", 3*callLimit, p.Now())
	}
}

// Conclude heals everything, waits until the cluster is whole, and checks what
// clients saw and what the disks hold.
func (w *World) Conclude(l *Ledger) error {
	w.Heal()
	w.BootAll()
	w.AwaitWhole()
	w.FinalLook(l)
	if err := l.First(); err != nil {
		return errors.Join(err, w.audit())
	}
	w.Audit()
	w.Tracef("audit passed")
	return l.Check(w.rng)
}

func diskName(i int) string { return fmt.Sprintf("disk%d", i) }

func (p *Play) create() {
	p.t.Helper()
	for i := range p.script.Disks {
		name := diskName(i)
		p.Ledger.Create(name, p.script.Size)
		if _, err := p.Up()[0].Node().Backend().CreateVDI(context.Background(), &api.CreateRequest{Name: name, SizeBytes: p.script.Size}); err != nil {
			p.t.Fatalf("create %s: %v", name, err)
		}
		p.Ledger.Made(name)
	}
}

// begin starts the clients. Each draws from a source of its own.
func (p *Play) begin() {
	guests := make([]gateKeeper, p.script.Disks)
	for i := range p.script.Clients {
		d := i % (p.script.Disks + 1) % p.script.Disks // most at the first one
		c := p.client(i, diskName(d), p.script.Pause)
		c.gates, c.haste = []*gateKeeper{&guests[d], &p.gate}, &p.haste
		p.wg.Go(c.run)
	}
	for i := range p.script.Disks {
		a := &admin{client: *p.client(1000+i, diskName(i), 14*p.script.Pause), guests: &guests[i]}
		a.gates = []*gateKeeper{&p.gate}
		if i == 0 && p.script.Disks > 1 {
			a.other = diskName(1)
		}
		p.wg.Go(a.run)
	}
}

func (p *Play) client(id int, name string, pause time.Duration) *client {
	return &client{id: id, w: p.World, l: p.Ledger, rng: rand.New(rand.NewPCG(p.opt.Seed, uint64(id)+1)), name: name,
		size: p.script.Size, pause: pause, stop: p.stop}
}

// longest is how long faults go on at most, in simulated time.
const longest = 5 * time.Minute

func (p *Play) faults() {
	for n := 0; n < p.script.Count || p.Ledger.Counts().Total() < p.script.AtLeast; n++ {
		p.sleep(p.script.Calm)
		f := p.script.Faults[p.rng.IntN(len(p.script.Faults))]
		if p.Ledger.First() != nil || p.Now() > longest {
			return
		}
		p.haste.begin(p.Now())
		p.sleep(hasteTime / 4)
		p.run(f)
	}
	p.sleep(p.script.Calm)
}

// run has a fault happen, and counts it.
func (p *Play) run(f Fault) bool {
	if !f.Do(p) {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Done[f.Name]++
	return true
}

// take draws a host that runs and to which nothing else happens; nil if there is
// none. free gives it back.
func (p *Play) take() *Host {
	p.mu.Lock()
	defer p.mu.Unlock()
	up := slices.DeleteFunc(p.Up(), func(h *Host) bool { return p.taken[h] })
	if len(up) == 0 {
		return nil
	}
	h := up[p.rng.IntN(len(up))]
	p.taken[h] = true
	return h
}

func (p *Play) free(h *Host) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.taken, h)
}

// toOne has a fault happen to one host that nothing else happens to.
func (p *Play) toOne(what func(h *Host)) bool {
	h := p.take()
	if h == nil {
		return false
	}
	defer p.free(h)
	what(h)
	return true
}

// sleep waits for a random time.
func (p *Play) sleep(mean time.Duration) {
	time.Sleep(min(time.Duration(p.rng.ExpFloat64()*float64(mean)), 5*mean))
}
