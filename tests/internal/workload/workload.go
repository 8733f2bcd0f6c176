// Package workload is guests that share one disk: they read, write and flush
// registers on it through several gateways at once, remember what was called and
// answered when, and reconnect when a gateway ends. What they saw is judged by
// package register.
package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sheepdog/tests/internal/nbdclient"
	"sheepdog/tests/internal/register"
)

// Config says who does what.
type Config struct {
	Sockets []string // of the gateways, a guest at each
	Export  string
	Spans   []Span
	Depth   int           // requests that a guest has in flight
	Think   time.Duration // mean pause after each
	Seed    uint64
	Since   time.Time // zero of the clock of the operations; by default the start
	From    uint64    // the first value to be written is the next
}

// Guests run until Stop.
type Guests struct {
	cfg    Config
	values atomic.Uint64
	calm   chan struct{} // closed: begin nothing more
	cancel context.CancelFunc
	wg     sync.WaitGroup
	guests []*guest
}

// guest is one client of one gateway.
type guest struct {
	all     *Guests
	gateway int

	mu     sync.Mutex
	client *nbdclient.Client // nil while there is none

	log sync.Mutex
	Seen
}

// Seen is what guests saw.
type Seen struct {
	Ops      []register.Op    // per register: a request of several blocks is several
	Gateways []int            // of each operation
	Flushes  []register.Flush // completed ones
	Wrong    []error          // bytes that nobody wrote there
	Refused  []error          // requests that were answered with an error
	Stuck    int              // requests without an answer when the time of Stop was over
	Lost     int              // connections that ended
}

// Start lets guests loose.
func Start(cfg Config) *Guests {
	ctx, cancel := context.WithCancel(context.Background())
	if cfg.Since.IsZero() {
		cfg.Since = time.Now()
	}
	g := &Guests{cfg: cfg, calm: make(chan struct{}), cancel: cancel}
	g.values.Store(cfg.From)
	for i := range cfg.Sockets {
		one := &guest{all: g, gateway: i}
		g.guests = append(g.guests, one)
		for k := range cfg.Depth {
			rng := rand.New(rand.NewPCG(cfg.Seed, uint64(i*1000+k)))
			g.wg.Go(func() { one.work(ctx, i*1000+k, rng) })
		}
	}
	return g
}

// Now is the time on the clock of the operations.
func (g *Guests) Now() time.Duration { return time.Since(g.cfg.Since) }

// Last is the last value that was written or will be.
func (g *Guests) Last() uint64 { return g.values.Load() }

// Acked counts the operations that were answered through a gateway.
func (g *Guests) Acked(gateway int) (n int) {
	one := g.guests[gateway]
	one.log.Lock()
	defer one.log.Unlock()
	for _, o := range one.Ops {
		if o.Return != register.Never {
			n++
		}
	}
	return n
}

// Stop begins no more requests, waits at most limit for the answers of those in
// flight, hangs up, and tells what was seen.
func (g *Guests) Stop(limit time.Duration) *Seen {
	close(g.calm)
	done := make(chan struct{})
	go func() { g.wg.Wait(); close(done) }()
	var late atomic.Bool
	select {
	case <-done:
	case <-time.After(limit):
		late.Store(true)
	}
	g.cancel()
	for _, one := range g.guests {
		one.hangUp(late.Load())
	}
	<-done
	all := &Seen{}
	for _, one := range g.guests {
		all.Add(&one.Seen)
	}
	return all
}

// Add appends what others saw by the same clock.
func (s *Seen) Add(o *Seen) {
	s.Ops = append(s.Ops, o.Ops...)
	s.Gateways = append(s.Gateways, o.Gateways...)
	s.Flushes = append(s.Flushes, o.Flushes...)
	s.Wrong = append(s.Wrong, o.Wrong...)
	s.Refused = append(s.Refused, o.Refused...)
	s.Stuck += o.Stuck
	s.Lost += o.Lost
}

// Judge is everything that is wrong with what was seen.
func (s *Seen) Judge() error {
	var all []error
	if len(s.Wrong) > 0 {
		all = append(all, fmt.Errorf("%d reads of bytes that nobody wrote there, as: %w", len(s.Wrong), s.Wrong[0]))
	}
	if len(s.Refused) > 0 {
		all = append(all, fmt.Errorf("%d requests were refused, as: %w", len(s.Refused), s.Refused[0]))
	}
	if s.Stuck > 0 {
		all = append(all, fmt.Errorf("%d requests were never answered", s.Stuck))
	}
	bad := register.Check(s.Ops)
	if len(bad) > 3 {
		bad = append(bad[:3], fmt.Errorf("and %d more registers", len(bad)-3))
	}
	return errors.Join(append(all, bad...)...)
}

// Longest is the longest time from call to return of an operation through one of
// the gateways that was under way between two moments.
func (s *Seen) Longest(from, to time.Duration, gateways ...int) (longest register.Op) {
	for i, o := range s.Ops {
		if o.Return == register.Never || o.Return < from || o.Call > to || !slices.Contains(gateways, s.Gateways[i]) {
			continue
		}
		if o.Return-o.Call > longest.Return-longest.Call {
			longest = o
		}
	}
	return longest
}

// Answered counts operations that returned between two moments.
func (s *Seen) Answered(from, to time.Duration) (n int) {
	for _, o := range s.Ops {
		if o.Return >= from && o.Return < to {
			n++
		}
	}
	return n
}

func (g *guest) work(ctx context.Context, id int, rng *rand.Rand) {
	most := 0
	for _, s := range g.all.cfg.Spans {
		most = max(most, s.Len)
	}
	buf, scratch := make([]byte, most), make([]byte, most)
	for {
		select {
		case <-g.all.calm:
			return
		default:
		}
		c, err := g.connected(ctx)
		if err != nil {
			select {
			case <-time.After(50 * time.Millisecond): // the gateway is away
				continue
			case <-g.all.calm:
				return
			}
		}
		if err := g.step(c, id, rng, buf, scratch); errors.Is(err, nbdclient.ErrEnded) {
			g.forget(c)
		}
		if t := g.all.cfg.Think; t > 0 {
			time.Sleep(time.Duration(rng.Int64N(int64(2 * t))))
		}
	}
}

// connected is the connection of the guest, made anew if it has ended.
func (g *guest) connected(ctx context.Context) (*nbdclient.Client, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.client != nil {
		return g.client, nil
	}
	c, err := nbdclient.Dial(ctx, g.all.cfg.Sockets[g.gateway], g.all.cfg.Export)
	if err == nil {
		g.client = c
	}
	return c, err
}

func (g *guest) forget(c *nbdclient.Client) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.client == c {
		g.client = nil
		g.log.Lock()
		g.Lost++
		g.log.Unlock()
	}
}

func (g *guest) hangUp(late bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.client == nil {
		return
	}
	if late {
		g.log.Lock()
		g.Stuck += g.client.Waiting()
		g.log.Unlock()
	}
	g.client.Close()
}

// step makes one request and notes it.
func (g *guest) step(c *nbdclient.Client, id int, rng *rand.Rand, buf, scratch []byte) error {
	no := rng.IntN(len(g.all.cfg.Spans))
	span := g.all.cfg.Spans[no]
	p := buf[:span.Len]
	o := register.Op{Client: id}
	switch n := rng.IntN(20); {
	case n == 0:
		return g.flush(c)
	case n < 11:
		o.Write, o.Value = true, register.Value(g.all.values.Add(1))
		encode(p, no, o.Value)
		o.Call = g.all.Now()
		err := c.Write(p, span.Off)
		o.Return = g.all.Now()
		if err != nil {
			o.Return = register.Never
			g.refuse(o, err)
		}
		g.noteWrite(no, o)
		return err
	}
	o.Call = g.all.Now()
	err := c.Read(p, span.Off)
	o.Return = g.all.Now()
	if err != nil {
		g.refuse(o, err)
		return err
	}
	g.noteRead(no, o, p, scratch)
	return nil
}

// noteWrite notes a write of a span, which is one of each of its registers.
func (g *guest) noteWrite(no int, o register.Op) {
	g.log.Lock()
	defer g.log.Unlock()
	for i := range g.all.cfg.Spans[no].cuts() {
		o.Register = no*partsPerSpan + i
		g.Ops, g.Gateways = append(g.Ops, o), append(g.Gateways, g.gateway)
	}
}

// noteRead notes what a read of a span found in each of its registers.
func (g *guest) noteRead(no int, o register.Op, p, scratch []byte) {
	cuts := append(g.all.cfg.Spans[no].cuts(), len(p)/sector)
	g.log.Lock()
	defer g.log.Unlock()
	for i, first := range cuts[:len(cuts)-1] {
		o.Register = no*partsPerSpan + i
		var err error
		if o.Value, err = decode(p[first*sector:cuts[i+1]*sector], no, first, scratch); err != nil {
			g.Wrong = append(g.Wrong, fmt.Errorf("%v: %w", o, err))
			continue
		}
		g.Ops, g.Gateways = append(g.Ops, o), append(g.Gateways, g.gateway)
	}
}

func (g *guest) flush(c *nbdclient.Client) error {
	call := g.all.Now()
	err := c.Flush()
	if err != nil {
		g.refuse("flush", err)
		return err
	}
	g.log.Lock()
	defer g.log.Unlock()
	g.Flushes = append(g.Flushes, register.Flush{Call: call, Return: g.all.Now()})
	return nil
}

// refuse notes an error that the server answered; the end of a connection is
// none.
func (g *guest) refuse(what any, err error) {
	if errors.Is(err, nbdclient.ErrEnded) {
		return
	}
	g.log.Lock()
	defer g.log.Unlock()
	g.Refused = append(g.Refused, fmt.Errorf("gateway %d: %v: %w", g.gateway, what, err))
}

// Look reads every register once and returns what it holds.
func Look(ctx context.Context, socket, export string, spans []Span) (map[int]register.Value, error) {
	c, err := nbdclient.Dial(ctx, socket, export)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	found := map[int]register.Value{}
	for no, span := range spans {
		p, scratch := make([]byte, span.Len), make([]byte, span.Len)
		if err := c.Read(p, span.Off); err != nil {
			return nil, err
		}
		cuts := append(span.cuts(), span.Len/sector)
		for i, first := range cuts[:len(cuts)-1] {
			v, err := decode(p[first*sector:cuts[i+1]*sector], no, first, scratch)
			if err != nil {
				return nil, err
			}
			found[no*partsPerSpan+i] = v
		}
	}
	return found, nil
}
