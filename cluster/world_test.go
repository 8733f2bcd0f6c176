package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
	"sheepdog/cluster/state"
)

// logMachine remembers every command that was applied.
type logMachine struct {
	hold    chan struct{} // Apply waits until it is closed
	mu      sync.Mutex
	applied []string
	resets  int
	skips   int
	gens    []uint64 // generations that the node was told to adopt
}

func (m *logMachine) Apply(_ uint64, kind string, body []byte) ([]byte, error) {
	m.mu.Lock()
	hold := m.hold
	m.mu.Unlock()
	if hold != nil {
		<-hold
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if kind == "refuse" {
		return nil, fmt.Errorf("%s: %w", body, sheepdog.ErrExists)
	}
	m.applied = append(m.applied, string(body))
	return []byte("did " + string(body)), nil
}

func (m *logMachine) Snapshot() func() ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	applied := slices.Clone(m.applied)
	return func() ([]byte, error) { return json.Marshal(applied) }
}

func (m *logMachine) Restore(b []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.applied = nil
	return json.Unmarshal(b, &m.applied)
}

func (m *logMachine) Reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.applied = nil
	m.resets++
}

func (m *logMachine) Skip() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.skips++
}

func (m *logMachine) adopt(generation uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gens = append(m.gens, generation)
	return nil
}

func (m *logMachine) generations() []uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.gens)
}

func (m *logMachine) list() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.applied)
}

// world is a simulated set of nodes, numbered from 1.
type world struct {
	t     *testing.T
	net   *simNetwork
	nodes map[int]*simNode
	start time.Time
	seeds []int
	lives uint64
	disks bool // nodes keep their log in directories
	gate  func(ctx context.Context, n *simNode, kind string) error
	told  *messages // what nodes log, if not nil
}

type simNode struct {
	*Cluster
	world   *world
	n       int
	self    sheepdog.Member
	memory  *Memory
	dir     string // instead of memory
	machine *logMachine
	host    *simHost
}

func newWorld(t *testing.T) *world {
	return &world{t: t, net: newSimNetwork(), nodes: map[int]*simNode{}, start: time.Now(), seeds: []int{1, 2}}
}

// simulate runs f in a bubble of simulated time and stops all nodes after it.
func simulate(t *testing.T, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer func() {
			for _, n := range w.nodes {
				n.stop()
			}
			// The libraries' goroutines end with their timers. One that did not
			// would be reported as a deadlock of the bubble.
			time.Sleep(5 * time.Second)
		}()
		f(w)
	})
}

// messages counts what is logged, of level info and above, by its message.
type messages struct {
	mu   sync.Mutex
	seen map[string]int
}

func (m *messages) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }
func (m *messages) WithAttrs([]slog.Attr) slog.Handler           { return m }
func (m *messages) WithGroup(string) slog.Handler                { return m }

func (m *messages) Handle(_ context.Context, r slog.Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen[r.Message]++
	return nil
}

func (m *messages) count(message string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen[message]
}

func addrOf(n int) string { return fmt.Sprintf("10.0.0.%d:7000", n) }

// add starts node n in its own zone, or in the given one.
func (w *world) add(n int, zone ...sheepdog.Zone) *simNode {
	w.t.Helper()
	z := sheepdog.Zone(n)
	if len(zone) > 0 {
		z = zone[0]
	}
	node := &simNode{world: w, n: n, memory: NewMemory(), self: sheepdog.Member{
		ID: sheepdog.NodeID(n), Addr: addrOf(n), Zone: z, VNodes: 128,
	}}
	if w.disks {
		node.dir = w.t.TempDir()
	}
	w.nodes[n] = node
	node.boot()
	return node
}

func (w *world) addAll(count int) {
	for n := 1; n <= count; n++ {
		w.add(n)
	}
}

// boot starts a new life of the node.
func (n *simNode) boot() {
	n.world.t.Helper()
	w := n.world
	w.lives++
	n.self.Incarnation = sheepdog.Incarnation(1000*w.lives) + sheepdog.Incarnation(n.n)
	n.host = w.net.boot(n.self.Addr)
	n.machine = &logMachine{}
	level := slog.LevelError + 8
	if os.Getenv("CLUSTER_LOG") != "" {
		level = slog.LevelInfo
		if os.Getenv("CLUSTER_LOG") == "debug" {
			level = slog.LevelDebug
		}
	}
	var logs slog.Handler = slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})
	if w.told != nil {
		logs = w.told
	}
	c, err := Start(Options{
		Self: n.self, Network: n.host, RaftConns: n.host.listeners[StreamRaft], GossipConns: n.host.listeners[StreamGossip],
		Dial: n.host.dialStream, Caller: n.host, Memory: n.memory, Dir: n.dir, Machine: n.machine,
		NewMachine: func() Machine { return &logMachine{} },
		Seeds: func() (out []string) {
			for _, s := range w.seeds {
				out = append(out, addrOf(s))
			}
			return out
		},
		Gate: func(ctx context.Context, kind string, _ []byte) error {
			if w.gate == nil {
				return nil
			}
			return w.gate(ctx, n, kind)
		},
		Clock:        func() time.Duration { return time.Since(w.start) },
		OnGeneration: n.machine.adopt,
		Logger:       slog.New(logs).With("n", n.n),
	})
	if err != nil {
		w.t.Fatalf("start node %d: %v", n.n, err)
	}
	w.net.mu.Lock()
	n.Cluster, n.host.control = c, c.HandleControl
	w.net.mu.Unlock()
}

// kill ends the process as kill -9 does.
func (n *simNode) kill() {
	if n.Cluster == nil {
		return
	}
	n.host.kill()
	if err := n.Shutdown(); err != nil {
		n.world.t.Errorf("shutdown of node %d: %v", n.n, err)
	}
	n.Cluster = nil
}

func (n *simNode) stop() { n.kill() }

// eventually waits, in simulated time, until cond holds.
func (w *world) eventually(limit time.Duration, what string, cond func() bool) time.Duration {
	w.t.Helper()
	began := time.Now()
	for !cond() {
		if time.Since(began) > limit {
			w.dump()
			w.t.Fatalf("after %v still not: %s", limit, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(began)
}

func (w *world) dump() {
	for i, n := range w.nodes {
		if n.Cluster == nil {
			w.t.Logf("node %d: down", i)
			continue
		}
		leader, _ := n.Leader()
		w.t.Logf("node %d: %s, leader %q, epoch %v, members %v, lease %v", i, n.Status(), leader, n.epoch(), n.members(), n.LeaseLeft())
	}
}

func (n *simNode) epoch() sheepdog.Epoch {
	if v := n.View(); v != nil {
		return v.Epoch
	}
	return 0
}

func (n *simNode) members() (out []int) {
	v := n.View()
	if v == nil {
		return nil
	}
	for _, m := range v.Members {
		out = append(out, int(m.ID))
	}
	return out
}

func (n *simNode) ref() state.MemberRef {
	return state.MemberRef{ID: n.self.ID, Incarnation: n.self.Incarnation}
}

func (w *world) up() (out []*simNode) {
	for _, n := range w.nodes {
		if n.Cluster != nil {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b *simNode) int { return a.n - b.n })
	return out
}

func (w *world) leader() *simNode {
	for _, n := range w.up() {
		if n.office.Load() != nil {
			return n
		}
	}
	return nil
}

// besides lists the running nodes but for one.
func (w *world) besides(one *simNode) []*simNode {
	return slices.DeleteFunc(w.up(), func(n *simNode) bool { return n == one })
}

// agreed reports whether all running nodes run and list exactly themselves
// under their present incarnations.
func (w *world) agreed() bool {
	up := w.up()
	for _, n := range up {
		v := n.View()
		if v == nil || len(v.Members) != len(up) || n.Status() != StatusRunning || !n.LeaseValid() {
			return false
		}
		for _, o := range up {
			if !listed(v, o.ref()) {
				return false
			}
		}
	}
	return true
}

var testConfig = sheepdog.Config{Policy: sheepdog.Policy{Copies: 3}, BlockSizeShift: sheepdog.DefaultObjectShift}

func (w *world) ctx(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(w.t.Context(), d)
	w.t.Cleanup(cancel)
	return ctx
}

// formatted starts count nodes and formats them.
func (w *world) formatted(count int) {
	w.t.Helper()
	w.addAll(count)
	// A rumour may miss somebody; the next full exchange, after 5 s, does not.
	w.eventually(15*time.Second, "all nodes in gossip", func() bool {
		for _, n := range w.up() {
			if len(n.Alive()) != count {
				return false
			}
		}
		return true
	})
	if err := w.nodes[1].Format(w.ctx(5*time.Second), testConfig); err != nil {
		w.t.Fatalf("format: %v", err)
	}
	w.settle()
}

// settle waits until everybody agrees and the voters are chosen.
func (w *world) settle() {
	w.t.Helper()
	w.eventually(20*time.Second, "all nodes agree", w.agreed)
	w.eventually(20*time.Second, "voters are chosen", func() bool {
		l := w.leader()
		return l != nil && len(w.voters()) == wantedVoters(len(w.up()))
	})
}

func (w *world) voters() (out []int) {
	l := w.leader()
	if l == nil {
		return nil
	}
	servers, err := l.consensus.Load().servers()
	if err != nil {
		return nil
	}
	for _, s := range servers {
		if s.Suffrage == 0 {
			id, _, _ := splitRaftAddress(s.Address)
			out = append(out, int(id))
		}
	}
	slices.Sort(out)
	return out
}

var errTest = errors.New("test")
