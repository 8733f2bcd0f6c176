package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/cluster"
	"sheepdog/coded"
	"sheepdog/gateway"
	"sheepdog/internal/shelf"
	"sheepdog/nbd"
	"sheepdog/objectstore"
	"sheepdog/peer"
	"sheepdog/recovery"
	"sheepdog/replica"
	"sheepdog/vdi"
	"sheepdog/vdi/directory"
)

// timing holds the bounds of what a node waits for.
type timing struct {
	Leave    time.Duration // hand-over and leave at SIGTERM, together
	Detach   time.Duration // hand-over when the last client of a VDI leaves
	Drain    time.Duration // requests of NBD clients at stop
	HandOver time.Duration // the same where clients are kept for the next process
	Flush    time.Duration // between flushes of a coordinator
	Meet     time.Duration // the first look for other nodes
}

func defaultTiming() timing {
	return timing{Leave: 4 * time.Second, Detach: 10 * time.Second, Drain: time.Second, HandOver: 5 * time.Second, Flush: 5 * time.Second, Meet: 2 * time.Second}
}

// Node is one sheep. Start makes it, Close ends it.
type Node struct {
	cfg     Config
	timing  timing
	log     *slog.Logger
	self    sheepdog.Member
	started time.Time

	engine   sheepdog.Engine
	store    *objectstore.Disk // engine, unless a test brought its own
	badDisks chan string       // directories of disks that failed
	dir      *directory.Directory
	mux      *peer.Mux
	streams  map[peer.Kind]net.Listener
	pool     *peer.Pool
	server   *peer.Server
	cluster  *cluster.Cluster
	replica  *replica.Server
	strips   *coded.Server // around replica
	coded    *coded.Client
	keeper   *coded.Keeper
	rings    rings
	recovery *recovery.Agent
	gateway  *gateway.Gateway
	vdis     *vdi.Manager
	shelf    *shelf.Shelf[vdi.Chunk] // nil: none
	nbd      *nbd.Server
	adoption adoption
	merges   merges
	spaces   spaceCache
	stuck    atomic.Pointer[stuck] // of the newest view that anybody asked about
	stats    stats
	// redundancy is of the newest view whose metrics were asked for.
	redundancy atomic.Pointer[redundancy]
	nbdAddr    string         // TCP address of NBD; empty: none
	doors      []net.Listener // of NBD: the unix socket, and TCP if there is that
	http       *http.Server

	joined  atomic.Pointer[cluster.Cluster] // cluster, for those who may ask before it is there
	wired   chan struct{}                   // closed when every room is in place
	ctx     context.Context
	stop    context.CancelCauseFunc // why the node stops: errLeave, errShutdown or a failure
	wg      sync.WaitGroup
	closers []func() // in reverse order
}

// Reasons to stop.
var (
	errLeave    = errors.New("node was told to leave")
	errShutdown = errors.New("cluster is shutting down")
	errStore    = errors.New("this node's store failed and the node leaves; its data are on the others")
)

// Start brings a node up. It returns when the node serves its API and has tried
// to reach the nodes that it was told of, so that a format sent to any of several
// nodes started in a row finds them all. The caller must Close it.
func Start(cfg Config) (*Node, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, timing: defaultTiming(), log: cfg.Logger, started: time.Now(), dir: directory.New(), badDisks: make(chan string, 64), streams: make(map[peer.Kind]net.Listener), wired: make(chan struct{})}
	n.ctx, n.stop = context.WithCancelCause(context.Background())
	for _, step := range []func() error{n.openStore, n.listen, n.join, n.wire, n.serve, n.meet} {
		if err := step(); err != nil {
			n.stop(err)
			n.closeAll()
			return nil, err
		}
	}
	return n, nil
}

// onClose has closer called when the node ends, last in first out.
func (n *Node) onClose(closer func()) { n.closers = append(n.closers, closer) }

func (n *Node) closeAll() {
	for i := len(n.closers) - 1; i >= 0; i-- {
		n.closers[i]()
	}
	n.closers = nil
	n.wg.Wait()
}

// abandonLimit is how long a node whose META failed may take to end. What waits
// for a disk that does not answer waits until the process ends.
const abandonLimit = 5 * time.Second

func (n *Node) closeWithin(limit time.Duration) {
	done := make(chan struct{})
	go func() {
		n.closeAll()
		close(done)
	}()
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
		n.log.Error("not all of the node ended; something waits for its disk", "meta", n.cfg.Meta)
	}
}

// spawn runs a loop until the node ends.
func (n *Node) spawn(loop func()) { n.wg.Go(loop) }

// openStore locks the directory and opens what it holds.
func (n *Node) openStore() error {
	n.self = sheepdog.Member{ID: n.cfg.Identity, Incarnation: sheepdog.Incarnation(random()), Addr: n.cfg.addr(),
		Zone: sheepdog.Zone(*n.cfg.Zone), VNodes: uint16(n.cfg.VNodes)}
	if n.cfg.Engine != nil {
		n.engine = n.cfg.Engine
		return n.beginLife()
	}
	if err := os.MkdirAll(n.cfg.Meta, 0o700); err != nil {
		return fmt.Errorf("metadata directory: %w", err)
	}
	// The identity is made after the store. A node without its store that kept its
	// identity would be taken for one that holds what others have written to it.
	known, err := hasIdentity(n.cfg.Meta)
	if err != nil {
		return err
	}
	store, err := objectstore.Open(objectstore.Options{Meta: n.cfg.Meta, Existing: known, Disks: n.cfg.Disks, NoSync: n.cfg.NoSync, ReserveBytes: n.cfg.Reserve, LogReadyBytes: logReady,
		DefragmentRate: max(n.cfg.DefragmentRate, 0), Busy: n.stats.busyMeter(),
		OnDiskFailed: n.diskFailed, OnFailed: n.storeFailed, Logger: n.log.With("part", "store")})
	if err != nil {
		return err
	}
	n.engine, n.store = store, store
	n.onClose(n.closeStore)
	if n.self.ID, err = loadIdentity(n.cfg.Meta); err != nil {
		return err
	}
	return n.beginLife()
}

// logReady is how much of a store's log is there before anybody writes, in bytes: some
// tenths of a second of the smallest writes. With it a node that has no data takes less
// than 64 MiB of disk.
const logReady = 24 << 20

func (n *Node) closeStore() {
	if errors.Is(context.Cause(n.ctx), errStore) {
		n.store.Abandon()
		return
	}
	if err := n.store.Close(); err != nil {
		n.log.Error("store did not close cleanly", "err", err)
	}
}

// listen takes the node's port and sorts what comes in.
func (n *Node) listen() error {
	if n.cfg.Network == nil {
		n.cfg.Network = peer.HostNetwork()
	}
	l, err := n.cfg.Network.Listen(n.cfg.listenAddr())
	switch {
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w; this host has no such address: see -y and -b", err)
	case err != nil:
		return fmt.Errorf("%w; is another sheep running? choose another port with -p", err)
	}
	n.mux = peer.NewMux(l, peer.MuxOptions{Cluster: n.clusterID, Logger: n.log.With("part", "port")})
	n.onClose(func() { n.mux.Close() })
	if err := n.sort(); err != nil {
		return err
	}
	opts := peer.Options{Node: n.self.ID, Incarnation: n.self.Incarnation, Cluster: n.clusterID, OnBroken: n.broken, Logger: n.log.With("part", "peer")}
	n.pool = peer.NewPool(n.cfg.Network, opts)
	n.onClose(n.pool.Close)
	n.server = peer.NewServer(handler{n}, opts)
	n.onClose(n.server.Close)
	return nil
}

// sort has the port's connections delivered by kind.
func (n *Node) sort() error {
	for _, k := range []peer.Kind{peer.KindPeer, peer.KindHTTP, peer.KindRaft, peer.KindGossip} {
		l, err := n.mux.Listen(k)
		if err != nil {
			return err
		}
		n.streams[k] = l
	}
	return nil
}

// clusterID is what the node's connections claim; zero before format.
func (n *Node) clusterID() sheepdog.ClusterID {
	if c := n.joined.Load(); c != nil {
		return c.ID()
	}
	return sheepdog.ClusterID{}
}

// broken passes refused and reset connections on as suspicions.
func (n *Node) broken(e *peer.BrokenError) {
	select {
	case <-n.wired:
	default:
		return
	}
	if e.Reason != peer.Refused && e.Reason != peer.Reset {
		return
	}
	if v := n.cluster.View(); v != nil {
		if m, ok := v.Member(e.Node); ok {
			n.cluster.Suspect(m.ID, m.Incarnation)
		}
	}
}

// suspect is told by the gateway of members that it could not reach.
func (n *Node) suspect(m sheepdog.Member) { n.cluster.Suspect(m.ID, m.Incarnation) }

// join starts gossip and Raft.
func (n *Node) join() error {
	dialer := peer.Dialer{Network: n.cfg.Network, Cluster: n.clusterID}
	opts := cluster.Options{
		Self: n.self, Network: n.cfg.Network, Bind: n.cfg.listenAddr(),
		RaftConns: n.streams[peer.KindRaft], GossipConns: n.streams[peer.KindGossip],
		Dial: func(ctx context.Context, s cluster.Stream, addr string) (net.Conn, error) {
			kind := peer.KindRaft
			if s == cluster.StreamGossip {
				kind = peer.KindGossip
			}
			return dialer.Dial(ctx, kind, addr)
		},
		Caller: n.pool, Machine: machine{n.dir}, NewMachine: newMachine, Gate: n.gate, Seeds: n.seeds, Timing: n.cfg.Timing, Clock: n.cfg.Clock, Now: n.cfg.Now,
		Memory: n.cfg.RaftMemory, OnGeneration: n.adoptGeneration, OnFailed: n.storeFailed, Info: n.hints, Logger: n.log.With("part", "cluster"),
	}
	if n.cfg.RaftMemory == nil {
		opts.Dir = filepath.Join(n.cfg.Meta, raftDir)
	}
	earlier, err := n.registerLocal()
	if err != nil {
		return err
	}
	if n.cfg.LocalByDefault && n.cfg.standIn == nil {
		opts.Newcomer = func() error { return n.checkNeighbours(earlier) }
	}
	c, err := cluster.Start(opts)
	if err != nil {
		return err
	}
	n.cluster = c
	n.joined.Store(c)
	n.onClose(func() {
		if err := c.Shutdown(); err != nil {
			n.log.Error("cluster did not stop cleanly", "err", err)
		}
	})
	return nil
}

// meet waits, bounded, until gossip has tried the addresses it knows.
func (n *Node) meet() error {
	t := time.NewTimer(n.timing.Meet)
	defer t.Stop()
	select {
	case <-n.cluster.Looked():
	case <-t.C:
	case <-n.ctx.Done():
	}
	return nil
}

// registerLocal makes the node known to the sheep of this host, and tells where earlier
// ones are.
func (n *Node) registerLocal() (earlier []string, err error) {
	if n.cfg.LocalFile == "" {
		return nil, nil
	}
	f := localFile(n.cfg.LocalFile)
	if earlier, err = f.add(n.self.Addr); err != nil {
		return nil, err
	}
	n.onClose(func() {
		if err := f.remove(n.self.Addr); err != nil {
			n.log.Warn("could not leave the file of local sheep", "err", err)
		}
	})
	return earlier, nil
}

func (n *Node) seeds() []string {
	var all []string
	if n.cfg.LocalFile != "" {
		all = slices.DeleteFunc(localFile(n.cfg.LocalFile).list(), func(s string) bool { return s == n.self.Addr })
	}
	if n.cfg.LocalByDefault {
		all = n.neighboursAmong(all)
	}
	return append(all, slices.DeleteFunc(slices.Clone(n.cfg.Seeds), func(s string) bool { return s == n.self.Addr })...)
}

// wire joins what serves data.
func (n *Node) wire() error {
	n.replica = replica.New(replica.Config{Self: n.self.ID, Incarnation: n.self.Incarnation, Engine: n.engine, Views: n.cluster,
		Layers: layers{n.dir}, NoSync: n.cfg.NoSync, Heal: n.heal, Log: n.log.With("part", "replica")})
	n.wireStrips()
	n.gateway = gateway.New(n.self.ID, n.cluster, peers{n}, n.suspect, gateway.DefaultTiming(), n.log.With("part", "gateway"))
	n.vdis = vdi.NewManager(vdi.Options{Self: n.self.ID, Incarnation: n.self.Incarnation, Directory: n.dir, Objects: objects{n.gateway, n.coded},
		Cluster: n.cluster, Peers: peers{n}, BaseCache: baseCache, Shelf: n.openShelf(), FlushEvery: n.timing.Flush, Coder: coder{n.coded}, Recode: n.cfg.Recode, Now: n.cfg.Now, Logger: n.log.With("part", "vdi")})
	n.onClose(n.vdis.Close)
	close(n.wired)
	n.spawn(n.followViews)
	n.spawn(n.pruneLoop)
	n.spawn(n.watchSpace)
	n.spawn(n.loseDisks)
	if e, ok := n.engine.(sheepdog.SpoiledEngine); ok {
		n.spawn(func() { n.tendSpoiled(e) })
	}
	n.spawn(n.expireOften)
	n.keepStrips()
	return n.startRecovery()
}

// followViews closes the connections to nodes that are no members any more, so
// that nobody waits for them.
func (n *Node) followViews() {
	for {
		v := n.cluster.View()
		if v != nil {
			n.pool.Retain(v.Members)
		}
		select {
		case <-n.cluster.Changed(v):
		case <-n.ctx.Done():
			return
		}
	}
}

// serve opens the doors: peers, API, profiles, NBD.
func (n *Node) serve() error {
	n.spawn(func() { n.server.Serve(n.streams[peer.KindPeer]) })
	n.http = api.NewServer(backend{n}, api.Options{Logger: n.log.With("part", "api")}).HTTPServer(n.ctx)
	n.spawn(func() { n.http.Serve(n.streams[peer.KindHTTP]) })
	n.onClose(func() { closeHTTP(n.http) })
	n.serveLocalAPI()
	if n.cfg.NoNBD {
		return nil
	}
	if err := n.serveProfiles(); err != nil {
		return err
	}
	return n.serveNBD()
}

// serveLocalAPI lets programs of this host find the API where they look for it. Another
// sheep of this host may be there already, which does as well.
func (n *Node) serveLocalAPI() {
	if n.cfg.APIAddr == "" {
		return
	}
	l, err := net.Listen("tcp", n.cfg.APIAddr)
	if err != nil {
		n.log.Warn("programs of this host that name no address do not find the API of this node", "err", err)
		return
	}
	n.spawn(func() { n.http.Serve(l) })
}

// answerLimit is for how long a node that ends sends answers to requests of its API.
const answerLimit = 500 * time.Millisecond

// closeHTTP lets the answers out that are being given: that to the request to stop is
// one of them.
func closeHTTP(s *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), answerLimit)
	defer cancel()
	if s.Shutdown(ctx) != nil {
		s.Close()
	}
}

// ready waits until this node has applied everything committed so far, and is a
// member. A node that was just started waits for a quorum.
func (n *Node) ready(ctx context.Context) error {
	if n.cluster.Status() == cluster.StatusUnformatted {
		return sheepdog.ErrNotFormatted
	}
	if err := n.cluster.Barrier(ctx); err != nil {
		return err
	}
	return n.cluster.Listed(ctx)
}

// call runs a control method on a member, this node included, and decodes its
// JSON reply into out unless that is nil.
func (n *Node) call(ctx context.Context, m sheepdog.Member, method string, body []byte, out any) error {
	var reply []byte
	var err error
	if m.ID == n.self.ID {
		reply, err = n.control(ctx, method, body)
	} else {
		reply, err = n.pool.Client(m).Call(ctx, method, body)
	}
	if err != nil || out == nil {
		return err
	}
	return json.Unmarshal(reply, out)
}

// Done is closed when the node was told to stop, or cannot go on.
func (n *Node) Done() <-chan struct{} { return n.ctx.Done() }

// Close ends the node. If ctx is not over it first hands its VDIs over; unless
// the whole cluster is shutting down it then leaves by a commit.
func (n *Node) Close(ctx context.Context) error {
	n.stop(errLeave) // a reason given before stays
	cause := context.Cause(n.ctx)
	if n.nbd != nil {
		n.stopNBD(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, n.timing.Leave)
	defer cancel()
	if !errors.Is(cause, errStore) { // without a store nothing can be flushed
		if err := n.vdis.ReleaseAll(ctx); err != nil {
			n.log.Warn("not everything was handed over", "err", err)
		}
	}
	if errors.Is(cause, errLeave) || errors.Is(cause, errStore) {
		last, err := n.cluster.Leave(ctx)
		if err != nil {
			n.log.Warn("could not leave gracefully; the others will notice", "err", err)
		}
		if errors.Is(cause, errLeave) {
			n.sayLast(last)
		}
	}
	if errors.Is(cause, errStore) {
		n.closeWithin(abandonLimit)
		return cause
	}
	n.closeAll()
	if errors.Is(cause, errLeave) || errors.Is(cause, errShutdown) {
		return nil
	}
	return cause
}

// Kill ends the node as a crash would: nothing is handed over or flushed.
func (n *Node) Kill() {
	n.stop(errors.New("killed"))
	n.closeAll()
}
