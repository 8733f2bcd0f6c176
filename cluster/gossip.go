package cluster

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"sheepdog"
	"sheepdog/cluster/state"
	"sheepdog/internal/pause"
)

// gossip finds nodes and notices when they fall silent. This is the only file
// that knows memberlist. Every process life is a member of its own, named by id
// and incarnation, so that a restarted node is neither in conflict with its
// former life nor hides its death.
type gossip struct {
	list      *memberlist.Memberlist
	transport *gossipTransport
	describe  func() GossipMember
	cluster   func() sheepdog.ClusterID // of this node, zero while it has none
	wake      func()                    // something happened
	// successor is told of a member of another cluster that was this one, and says
	// whether this node is going to join it.
	successor func(GossipMember) bool
	log       *slog.Logger
	clock     func() time.Duration
	timing    Timing
	stale     chan struct{} // the node's own metadata changed
	cancel    context.CancelFunc
	wg        sync.WaitGroup

	ending sync.Mutex // memberlist panics when left after its end
	ended  bool

	mu      sync.Mutex
	known   map[state.MemberRef]*gossipEntry
	refused map[string]time.Duration // when the refusal of a name was last logged
}

type gossipEntry struct {
	GossipMember
	since time.Duration // of the present state
}

const (
	gossipStream  = 2 * time.Second  // for a full exchange
	refreshEvery  = 30 * time.Second // between looks at the node's own hints
	deadKept      = 10 * time.Minute // that a dead life is remembered
	maxKnown      = 8192             // lives that are remembered
	refusalLogged = time.Minute
	maxPacket     = 64 << 10
	packetQueue   = 256
)

func newGossip(o *Options, c *Cluster) (*gossip, error) {
	transport, err := newGossipTransport(o)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	g := &gossip{
		transport: transport, describe: c.describe, cluster: c.clusterID, wake: c.kickMembership, successor: c.successor, log: o.Logger, clock: o.Clock, timing: o.Timing,
		stale: make(chan struct{}, 1), cancel: cancel,
		known: make(map[state.MemberRef]*gossipEntry), refused: make(map[string]time.Duration),
	}
	if g.list, err = memberlist.Create(g.config(o)); err != nil {
		cancel()
		return nil, errors.Join(fmt.Errorf("start gossip: %w", err), transport.Shutdown())
	}
	told := string(g.list.LocalNode().Meta) // not what is true by the time that the loop runs
	g.wg.Go(func() { g.refreshLoop(ctx, told) })
	return g, nil
}

// config tunes memberlist so that a silent node is known in about a second: a
// node probes one other per interval, and a suspicion lasts two intervals. A
// false alarm costs little, as a member is removed only if it does not confirm
// that it lives.
func (g *gossip) config(o *Options) *memberlist.Config {
	conf := memberlist.DefaultLANConfig()
	conf.Name = gossipName(state.MemberRef{ID: o.Self.ID, Incarnation: o.Self.Incarnation})
	conf.Transport = g.transport
	conf.TCPTimeout = gossipStream
	conf.ProbeInterval = g.timing.Probe
	conf.ProbeTimeout = g.timing.ProbeTimeout
	conf.GossipInterval = g.timing.Gossip
	conf.PushPullInterval = g.timing.PushPull
	conf.SuspicionMult = 2
	conf.SuspicionMaxTimeoutMult = 1
	conf.AwarenessMaxMultiplier = 1
	conf.MsgpackUseNewTimeFormat = true
	conf.EnableCompression = false // of packets of a few dozen bytes
	delegate := gossipDelegate{g}
	conf.Delegate, conf.Events, conf.Alive = delegate, delegate, delegate
	conf.DelegateProtocolVersion, conf.DelegateProtocolMax = metaVersion, metaVersion
	conf.Logger = log.New(&lineLogger{log: g.log, prefix: "gossip: ", cut: "memberlist: "}, "", 0)
	return conf
}

func gossipName(ref state.MemberRef) string { return ref.ID.String() + "-" + ref.Incarnation.String() }

// members lists all remembered lives, this one included, in no order.
func (g *gossip) members() []GossipMember {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]GossipMember, 0, len(g.known))
	for _, e := range g.known {
		out = append(out, e.GossipMember)
	}
	return out
}

// member finds one life.
func (g *gossip) member(ref state.MemberRef) (GossipMember, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	e, ok := g.known[ref]
	if !ok {
		return GossipMember{}, false
	}
	return e.GossipMember, true
}

// join exchanges everything with the nodes at the addresses, one by one.
func (g *gossip) join(addrs []string) error {
	if len(addrs) == 0 {
		return nil
	}
	_, err := g.list.Join(addrs)
	return err
}

// refresh tells the others what this node says of itself now.
func (g *gossip) refresh() { kick(g.stale) }

// refreshLoop spreads what this node says of itself when it differs from told.
func (g *gossip) refreshLoop(ctx context.Context, told string) {
	tick := time.NewTicker(refreshEvery)
	defer tick.Stop()
	for {
		select {
		case <-g.stale:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := string(encodeMeta(g.describe()))
		if now == told {
			continue
		}
		// The error only says that nobody was told yet; gossip goes on telling.
		if err := g.list.UpdateNode(g.timing.Gossip); err != nil {
			g.log.Debug("gossip: update", "err", err)
		}
		told = now
	}
}

// leave tells the others that this node goes on purpose.
func (g *gossip) leave(timeout time.Duration) {
	g.ending.Lock()
	defer g.ending.Unlock()
	if g.ended {
		return
	}
	if err := g.list.Leave(timeout); err != nil {
		g.log.Debug("gossip: leave", "err", err)
	}
}

func (g *gossip) close() error {
	g.cancel()
	g.wg.Wait()
	g.ending.Lock()
	defer g.ending.Unlock()
	g.ended = true
	return g.list.Shutdown()
}

// gossipDelegate is what memberlist calls; its methods must not call it back.
type gossipDelegate struct{ g *gossip }

var (
	_ memberlist.Delegate      = gossipDelegate{}
	_ memberlist.EventDelegate = gossipDelegate{}
	_ memberlist.AliveDelegate = gossipDelegate{}
)

func (d gossipDelegate) NodeMeta(limit int) []byte {
	b := encodeMeta(d.g.describe())
	if len(b) > limit {
		panic(fmt.Sprintf("gossip metadata of %d bytes", len(b)))
	}
	return b
}

func (gossipDelegate) NotifyMsg([]byte)                {}
func (gossipDelegate) GetBroadcasts(int, int) [][]byte { return nil }
func (gossipDelegate) LocalState(bool) []byte          { return nil }
func (gossipDelegate) MergeRemoteState([]byte, bool)   {}
func (d gossipDelegate) NotifyJoin(n *memberlist.Node) { d.g.note(n, GossipAlive) }
func (d gossipDelegate) NotifyLeave(n *memberlist.Node) {
	d.g.note(n, GossipDead)
}
func (d gossipDelegate) NotifyUpdate(n *memberlist.Node) { d.g.note(n, GossipAlive) }

// NotifyAlive refuses nodes of other clusters and what is no sheep.
func (d gossipDelegate) NotifyAlive(n *memberlist.Node) error {
	m, err := decodeMeta(n.Meta)
	if err == nil && n.Name != gossipName(state.MemberRef{ID: m.ID, Incarnation: m.Incarnation}) {
		err = fmt.Errorf("it calls itself node %v with incarnation %v", m.ID, m.Incarnation)
	}
	own := d.g.cluster() // not described: that asks the disks, and this is called for every message
	if err == nil && !own.IsZero() && !m.Cluster.IsZero() && m.Cluster != own && !(m.Former.has(own) && d.g.successor(m)) {
		err = fmt.Errorf("%w: %v, this node of %v; give each cluster its own seeds", sheepdog.ErrWrongCluster, m.Cluster, own)
		d.g.expel(state.MemberRef{ID: m.ID, Incarnation: m.Incarnation})
	}
	if err != nil {
		d.g.logRefusal(n, err)
	}
	return err
}

// expel forgets a node that turned out to be of another cluster.
func (g *gossip) expel(ref state.MemberRef) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.known, ref)
}

func (g *gossip) logRefusal(n *memberlist.Node, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	last, ok := g.refused[n.Name]
	if ok && g.clock()-last < refusalLogged {
		return
	}
	if len(g.refused) >= maxKnown {
		clear(g.refused)
	}
	g.refused[n.Name] = g.clock()
	g.log.Error("refused a node in gossip", "name", n.Name, "addr", n.Address(), "err", err)
}

func (g *gossip) note(n *memberlist.Node, s GossipState) {
	m, err := decodeMeta(n.Meta)
	if err != nil {
		return // refused before
	}
	m.State = s
	ref := state.MemberRef{ID: m.ID, Incarnation: m.Incarnation}
	e := &gossipEntry{GossipMember: m, since: g.clock()}
	g.mu.Lock()
	if old := g.known[ref]; old != nil && old.State == s {
		e.since = old.since
	}
	g.known[ref] = e
	g.forgetOld()
	g.mu.Unlock()
	g.wake()
}

// forgetOld drops lives that ended long ago; g.mu is held.
func (g *gossip) forgetOld() {
	now := g.clock()
	for ref, e := range g.known {
		if e.State == GossipDead && (now-e.since > deadKept || len(g.known) > maxKnown) {
			delete(g.known, ref)
		}
	}
}

// gossipTransport carries memberlist's packets over Options.Network and its
// streams over the node's port.
type gossipTransport struct {
	addr    netip.AddrPort
	dial    func(ctx context.Context, kind Stream, addr string) (net.Conn, error)
	packets net.PacketConn
	streams net.Listener
	conns   *connSet
	in      chan *memberlist.Packet
	accept  chan net.Conn
	ctx     context.Context // ends at shutdown
	cancel  context.CancelFunc
	wg      sync.WaitGroup
}

var _ memberlist.Transport = (*gossipTransport)(nil)

func newGossipTransport(o *Options) (*gossipTransport, error) {
	addr, err := netip.ParseAddrPort(o.Self.Addr)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("advertised address: %w", err), o.GossipConns.Close())
	}
	packets, err := o.Network.ListenPacket(o.Bind)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen for gossip packets on %s: %w", o.Bind, err), o.GossipConns.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	t := &gossipTransport{
		addr: addr, dial: o.Dial, packets: packets, streams: o.GossipConns, conns: newConnSet(),
		in: make(chan *memberlist.Packet, packetQueue), accept: make(chan net.Conn), ctx: ctx, cancel: cancel,
	}
	t.wg.Go(t.readPackets)
	t.wg.Go(t.acceptStreams)
	return t, nil
}

func (t *gossipTransport) readPackets() {
	buf := make([]byte, maxPacket)
	for t.ctx.Err() == nil {
		n, from, err := t.packets.ReadFrom(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) || pause.For(t.ctx, 10*time.Millisecond) != nil {
				return
			}
			continue // an ICMP answer to an earlier packet, for example
		}
		if n == 0 {
			continue
		}
		p := &memberlist.Packet{Buf: append([]byte(nil), buf[:n]...), From: from, Timestamp: time.Now()}
		select {
		case t.in <- p:
		case <-t.ctx.Done():
		}
	}
}

func (t *gossipTransport) acceptStreams() {
	for {
		conn, err := t.streams.Accept()
		if err != nil {
			return
		}
		tracked, ok := t.conns.add(conn)
		if !ok {
			return
		}
		select {
		case t.accept <- tracked:
		case <-t.ctx.Done():
			tracked.Close()
		}
	}
}

// FinalAdvertiseAddr is the address that the options advertise.
func (t *gossipTransport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return net.IP(t.addr.Addr().Unmap().AsSlice()), int(t.addr.Port()), nil
}

func (t *gossipTransport) WriteTo(b []byte, addr string) (time.Time, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return time.Time{}, fmt.Errorf("gossip packet to %q: %w", addr, err)
	}
	_, err = t.packets.WriteTo(b, net.UDPAddrFromAddrPort(to))
	return time.Now(), err
}

func (t *gossipTransport) PacketCh() <-chan *memberlist.Packet { return t.in }
func (t *gossipTransport) StreamCh() <-chan net.Conn           { return t.accept }

func (t *gossipTransport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(t.ctx, max(timeout, time.Millisecond))
	defer cancel()
	conn, err := t.dial(ctx, StreamGossip, addr)
	if err != nil {
		return nil, err
	}
	tracked, ok := t.conns.add(conn)
	if !ok {
		return nil, net.ErrClosed
	}
	return tracked, nil
}

// Shutdown closes everything and waits for the goroutines.
func (t *gossipTransport) Shutdown() error {
	t.cancel()
	err := errors.Join(t.packets.Close(), t.streams.Close())
	t.conns.closeAll()
	t.wg.Wait()
	return err
}

// gossipPort is the port of an address without one.
func gossipPort(addr string) string {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return net.JoinHostPort(addr, strconv.Itoa(sheepdog.DefaultPort))
	}
	return addr
}
