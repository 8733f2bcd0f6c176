// Package sim is what clusters of the tests run on instead of the real world.
// Net is a network in memory: hosts with names, streams and packets with
// latency and loss, partitions, killed and frozen hosts.
//
// It is meant for testing/synctest: nothing in it waits for anything but
// channels and timers, and it starts no goroutine. It is not a model of TCP:
// there is no bandwidth, and what a partition held up arrives at once when it
// heals.
package sim

import (
	"cmp"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"sheepdog"
)

// NetOptions are the qualities of a Net. Zero values mean the defaults.
type NetOptions struct {
	Latency     time.Duration // one way; 100 us
	Jitter      time.Duration // up to so much more, drawn per segment and packet; 0
	Loss        float64       // of packets, 0 to 1; streams lose nothing
	Duplicates  float64       // packets that arrive twice, 0 to 1
	Window      int           // bytes in flight per direction of a stream; 256 KiB
	DialTimeout time.Duration // after which an unanswered dial fails; 10 s
}

// Net is a network. Make it inside the synctest bubble in which it is used.
// Methods are safe for concurrent use.
type Net struct {
	opts NetOptions

	mu      sync.Mutex
	rng     *rand.Rand
	hosts   map[string]*Host // the living ones
	cuts    map[link]bool
	frozen  map[string]bool
	changed chan struct{} // closed when cuts or frozen change
	streams map[*stream]struct{}
	made    uint64 // streams ever
	// ports in use, by address
	listeners map[Addr]*listener
	packets   map[Addr]*packetConn
	nextPort  map[string]int
}

// link is one direction between two hosts.
type link struct{ from, to string }

// NewNet makes a network whose chances are drawn from seed.
func NewNet(seed uint64, opts NetOptions) *Net {
	if opts.Latency <= 0 {
		opts.Latency = 100 * time.Microsecond
	}
	if opts.Window <= 0 {
		opts.Window = 256 << 10
	}
	if opts.DialTimeout <= 0 {
		opts.DialTimeout = 10 * time.Second
	}
	return &Net{
		opts: opts, rng: rand.New(rand.NewPCG(seed, 0x5eed)), hosts: make(map[string]*Host),
		cuts: make(map[link]bool), frozen: make(map[string]bool), changed: make(chan struct{}),
		streams: make(map[*stream]struct{}), listeners: make(map[Addr]*listener),
		packets: make(map[Addr]*packetConn), nextPort: make(map[string]int),
	}
}

var _ sheepdog.Network = (*Host)(nil)

// Host is the network as the host of that name sees it: its own addresses are
// NAME:PORT, and `:PORT`, 0.0.0.0, 127.0.0.1 and localhost mean itself. After
// Kill the returned Host stays dead; call Host again for the next life.
func (n *Net) Host(name string) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.hosts[name]
	if h == nil {
		h = &Host{net: n, name: name, dead: make(chan struct{})}
		n.hosts[name] = h
	}
	return h
}

// Cut stops everything from one host to another; the other direction goes on.
// Streams stall, and so do dials, which need both directions. Packets are lost.
func (n *Net) Cut(from, to string) {
	n.settle(link{from, to})
	n.change(func() { n.cuts[link{from, to}] = true })
}

// Heal undoes Cut. What stalled arrives.
func (n *Net) Heal(from, to string) {
	n.change(func() { delete(n.cuts, link{from, to}) })
}

// Partition cuts all links between the two groups, both ways.
func (n *Net) Partition(a, b []string) {
	for _, x := range a {
		for _, y := range b {
			n.Cut(x, y)
			n.Cut(y, x)
		}
	}
}

// HealAll undoes every Cut.
func (n *Net) HealAll() {
	n.change(func() { clear(n.cuts) })
}

// Freeze stops a host like SIGSTOP: others can still connect and send until
// windows are full, but it reads, accepts and sends nothing. Its goroutines and
// timers do run on; what they do reaches nobody before Thaw.
func (n *Net) Freeze(host string) {
	n.change(func() { n.frozen[host] = true })
}

// Thaw undoes Freeze.
func (n *Net) Thaw(host string) {
	n.change(func() { delete(n.frozen, host) })
}

// Kill ends the host's process: its ports are gone, the far ends of its streams
// see a reset, its own calls fail. Dials to it are refused until Host is called
// for the name again and somebody listens.
func (n *Net) Kill(host string) {
	n.mu.Lock()
	h := n.hosts[host]
	if h == nil {
		n.mu.Unlock()
		return
	}
	delete(n.hosts, host)
	delete(n.frozen, host)
	close(h.dead)
	var ports []io.Closer
	for a, l := range n.listeners {
		if a.host == host {
			ports = append(ports, l)
		}
	}
	for a, p := range n.packets {
		if a.host == host {
			ports = append(ports, p)
		}
	}
	streams := n.streamsOf(func(s *stream) bool { return s.from == host || s.to == host })
	n.wake()
	n.mu.Unlock()
	for _, p := range ports {
		p.Close()
	}
	for _, s := range streams {
		s.reset(s.from == host)
	}
}

// streamsOf lists streams in the order in which they were made, so that the
// same seed gives the same run. mu is held.
func (n *Net) streamsOf(want func(*stream) bool) []*stream {
	var out []*stream
	for s := range n.streams {
		if want(s) {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b *stream) int { return cmp.Compare(a.id, b.id) })
	return out
}

// change applies a change of the faults and wakes all who wait on them.
func (n *Net) change(apply func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	apply()
	n.wake()
}

func (n *Net) wake() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// settle marks what has arrived before a cut, which the cut does not take away.
// A second cut of the same link finds nothing new.
func (n *Net) settle(l link) {
	n.mu.Lock()
	var cut []*stream
	if !n.cuts[l] {
		cut = n.streamsOf(func(s *stream) bool { return l == link{s.from, s.to} })
	}
	n.mu.Unlock()
	for _, s := range cut {
		s.settle()
	}
}

// paths is what a waiter has to know of the faults.
type paths struct {
	forth, back bool // the directions from -> to and to -> from are whole
	fromFrozen  bool
	toFrozen    bool
	changed     <-chan struct{}
}

func (n *Net) paths(from, to string) paths {
	n.mu.Lock()
	defer n.mu.Unlock()
	return paths{
		forth: !n.cuts[link{from, to}], back: !n.cuts[link{to, from}],
		fromFrozen: n.frozen[from], toFrozen: n.frozen[to], changed: n.changed,
	}
}

// delay draws how long something takes on its way.
func (n *Net) delay() time.Duration {
	d := n.opts.Latency
	if n.opts.Jitter > 0 {
		n.mu.Lock()
		d += time.Duration(n.rng.Int64N(int64(n.opts.Jitter) + 1))
		n.mu.Unlock()
	}
	return d
}

// lost draws whether a packet is lost.
func (n *Net) lost() bool { return n.happens(n.opts.Loss) }

func (n *Net) happens(probability float64) bool {
	if probability <= 0 {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.rng.Float64() < probability
}
