package vdi

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// world is a cluster without nodes: one directory and one set of blocks, shared
// by as many managers as a test wants.
type world struct {
	dir *directory.Directory

	mu       sync.Mutex
	index    uint64
	view     *sheepdog.View
	changed  chan struct{}
	blocks   map[blockKey]block
	sealed   map[sheepdog.FamilyID]sheepdog.Token
	origins  map[sheepdog.FamilyID][]sheepdog.Origin
	lost     error // what a takeover says of them
	volatile int   // writes since the last flush
	flushes  int
	settled  uint64 // the latest flush that replicas know to be complete
	reads    int    // read requests for frozen layers
	hold     chan struct{}
	full     error // why writes that are held wait for space
	slow     bool  // nothing is at hand
	away     bool  // replicas do not answer to flushes
	managers map[sheepdog.NodeID]*Manager
	cut      map[sheepdog.NodeID]bool // unreachable
	unknown  map[string]bool          // control methods that no coordinator knows, as one of an older build

	flushing  func()                              // called by every flush of replicas, without the lock
	sealing   func(ctx context.Context)           // called by every takeover, without the lock
	committed func(kind string) error             // what the proposer hears of a command that was committed
	listing   func(ctx context.Context)           // called by every list, without the lock
	listed    func(layer sheepdog.LayerID) error  // what replicas say to a list
	broken    func(r *sheepdog.ReadRequest) error // what they say to a read of a frozen layer
}

// written is the number of writes that reached replicas since the last flush.
func (w *world) written() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.volatile
}

type blockKey struct {
	obj   sheepdog.ObjectID
	layer sheepdog.LayerID
	no    sheepdog.BlockNo
}

type block struct {
	state sheepdog.BlockState
	stamp sheepdog.Stamp
	data  []byte
}

func newWorld() *world {
	w := &world{dir: directory.New(), changed: make(chan struct{}), blocks: map[blockKey]block{},
		sealed: map[sheepdog.FamilyID]sheepdog.Token{}, origins: map[sheepdog.FamilyID][]sheepdog.Origin{},
		managers: map[sheepdog.NodeID]*Manager{}, cut: map[sheepdog.NodeID]bool{}}
	w.setMembers()
	return w
}

func (w *world) setMembers(ids ...sheepdog.NodeID) {
	v := &sheepdog.View{Revision: 1}
	if w.view != nil {
		v.Revision = w.view.Revision + 1
	}
	for _, id := range ids {
		v.Members = append(v.Members, sheepdog.Member{ID: id, Incarnation: sheepdog.Incarnation(id * 100)})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.view = v
	close(w.changed)
	w.changed = make(chan struct{})
}

// manager starts a node's manager.
func (w *world) manager(t *testing.T, id sheepdog.NodeID) *Manager {
	t.Helper()
	n := &node{w: w, id: id, lease: true}
	m := NewManager(Options{Self: id, Incarnation: sheepdog.Incarnation(id * 100), Directory: w.dir, Objects: n, Cluster: n, Peers: n,
		BaseCache: 1 << 20, FlushEvery: time.Hour, Logger: slog.New(slog.DiscardHandler)})
	w.managers[id] = m
	var ids []sheepdog.NodeID
	for i := sheepdog.NodeID(1); i < 9; i++ {
		if w.managers[i] != nil {
			ids = append(ids, i)
		}
	}
	w.setMembers(ids...)
	t.Cleanup(m.Close)
	return m
}

// node is what one manager sees of the world.
type node struct {
	w     *world
	id    sheepdog.NodeID
	mu    sync.Mutex
	lease bool
}

func (n *node) LeaseValid() bool { n.mu.Lock(); defer n.mu.Unlock(); return n.lease }

func (n *node) View() *sheepdog.View { n.w.mu.Lock(); defer n.w.mu.Unlock(); return n.w.view }

func (n *node) Changed(v *sheepdog.View) <-chan struct{} {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	if v != n.w.view {
		done := make(chan struct{})
		close(done)
		return done
	}
	return n.w.changed
}

// place has every partition of a policy be so in the next view.
func (w *world) place(policy sheepdog.Policy, pl sheepdog.Placement) {
	w.mu.Lock()
	defer w.mu.Unlock()
	v := *w.view
	v.Revision++
	rows := make(sheepdog.Table, sheepdog.Partitions)
	for i := range rows {
		rows[i] = &pl
	}
	v.Tables = map[sheepdog.Policy]sheepdog.Table{policy: rows}
	w.view = &v
	close(w.changed)
	w.changed = make(chan struct{})
}

func (n *node) Barrier(context.Context) error { return nil }

// Propose applies the command, after the check that the leader makes: a live
// coordinator is not replaced.
func (n *node) Propose(ctx context.Context, kind string, body []byte) ([]byte, error) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	out, err := n.w.propose(kind, body)
	if err == nil && n.w.committed != nil {
		err = n.w.committed(kind)
	}
	return out, err
}

// propose applies a command; mu is held.
func (w *world) propose(kind string, body []byte) ([]byte, error) {
	w.index++
	return w.dir.Apply(w.index, kind, body)
}

// apply is somebody else's command, at a moment at which mu is held.
func (w *world) apply(cmd directory.Command) {
	kind, body, err := directory.Encode(cmd)
	if err == nil {
		_, err = w.propose(kind, body)
	}
	if err != nil {
		panic(err)
	}
}

func (n *node) Forwarder(m sheepdog.Member) sheepdog.Forwarder { return forwarder{n.w, m.ID} }

func (n *node) Call(ctx context.Context, m sheepdog.Member, method string, body []byte) ([]byte, error) {
	n.w.mu.Lock()
	cut, unknown := n.w.cut[m.ID], n.w.unknown[method]
	n.w.mu.Unlock()
	if cut {
		return nil, sheepdog.ErrUnreachable
	}
	if unknown {
		return nil, overWire(fmt.Errorf("control method %q: %w", method, sheepdog.ErrInvalid))
	}
	reply, err, _ := n.w.managers[m.ID].HandleControl(ctx, method, body)
	return reply, overWire(err)
}

// overWire is what is left of an error at the far end of a connection.
func overWire(err error) error {
	if err == nil {
		return nil
	}
	return sheepdog.WireError(sheepdog.ErrorCode(err), err.Error())
}

type forwarder struct {
	w  *world
	id sheepdog.NodeID
}

func (f forwarder) Forward(ctx context.Context, req *sheepdog.ForwardRequest, buf []byte) error {
	f.w.mu.Lock()
	cut := f.w.cut[f.id]
	f.w.mu.Unlock()
	if cut {
		return sheepdog.ErrUnreachable
	}
	return overWire(f.w.managers[f.id].Forward(ctx, req, buf))
}

func (n *node) fence(f sheepdog.FamilyID, token sheepdog.Token) error {
	if token < n.w.sealed[f] {
		return sheepdog.ErrFenced
	}
	return nil
}

func (n *node) Write(ctx context.Context, r *sheepdog.WriteRequest) error {
	n.w.mu.Lock()
	hold := n.w.hold
	n.w.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	if err := n.fence(r.Object.Family, r.Token); err != nil {
		return err
	}
	if l, ok := n.w.dir.Layer(r.Layer); !ok || l.Frozen || !l.Written {
		return fmt.Errorf("layer %d: %w", r.Layer, sheepdog.ErrFrozen)
	}
	n.w.origins[r.Object.Family] = append(n.w.origins[r.Object.Family], r.Origin)
	n.w.volatile++
	for i := range r.Count {
		k := blockKey{r.Object, r.Layer, r.Start + sheepdog.BlockNo(i)}
		if !n.w.blocks[k].stamp.Less(r.Stamp) {
			continue
		}
		b := block{state: sheepdog.Zero, stamp: r.Stamp}
		if r.Data != nil {
			b.state, b.data = sheepdog.Data, bytes.Clone(r.Data[i*sheepdog.BlockSize:(i+1)*sheepdog.BlockSize])
		}
		n.w.blocks[k] = b
	}
	return nil
}

func (n *node) Start(ctx context.Context, reqs []*sheepdog.WriteRequest, done func(i int, err error)) {
	for i, r := range reqs {
		go func() { done(i, n.Write(ctx, r)) }()
	}
}

func (n *node) Read(_ context.Context, r *sheepdog.ReadRequest) error {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	if r.Token == 0 {
		n.w.reads++
		if n.w.broken != nil {
			if err := n.w.broken(r); err != nil {
				return err
			}
		}
	} else if err := n.fence(r.Object.Family, r.Token); err != nil {
		return err
	}
	chain, _ := n.w.dir.Chain(r.Layer)
	for i := range r.Count {
		r.States[i] = sheepdog.Absent
		dst := r.Buf[i*sheepdog.BlockSize : (i+1)*sheepdog.BlockSize]
		clear(dst)
		for _, l := range chain {
			if b, ok := n.w.blocks[blockKey{r.Object, l, r.Start + sheepdog.BlockNo(i)}]; ok {
				r.States[i] = b.state
				copy(dst, b.data)
				break
			}
		}
	}
	return nil
}

// TryRead has at hand what the world does not hold back.
func (n *node) TryRead(r *sheepdog.ReadRequest) bool {
	n.w.mu.Lock()
	slow := n.w.slow
	n.w.mu.Unlock()
	return !slow && n.Read(context.Background(), r) == nil
}

func (n *node) Records(_ context.Context, _ sheepdog.Scope, obj sheepdog.ObjectID, layers []sheepdog.LayerID, start sheepdog.BlockNo, count uint32) ([]sheepdog.Record, error) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	out := make([]sheepdog.Record, count)
	for i := range out {
		for _, l := range layers {
			if b, ok := n.w.blocks[blockKey{obj, l, start + sheepdog.BlockNo(i)}]; ok {
				out[i] = sheepdog.Record{State: b.state, Stamp: b.stamp}
				break
			}
		}
	}
	return out, nil
}

func (n *node) Flush(ctx context.Context, _ sheepdog.Scope, _ []sheepdog.Partition, _ uint64) error {
	if n.w.flushing != nil {
		n.w.flushing()
	}
	n.w.mu.Lock()
	away := n.w.away
	n.w.mu.Unlock()
	if away {
		<-ctx.Done()
	}
	if ctx.Err() != nil { // as the gateway says it
		return fmt.Errorf("%w (last: %w)", context.Cause(ctx), sheepdog.ErrNotActing)
	}
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	n.w.flushes++
	n.w.volatile = 0
	return nil
}

// WaitsForSpace answers for a store that the test has made full.
func (n *node) WaitsForSpace(sheepdog.FamilyID) error {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return n.w.full
}

func (n *node) Settled(_ context.Context, _ sheepdog.Scope, flushed uint64) error {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	n.w.settled = flushed
	return nil
}

func (n *node) Takeover(ctx context.Context, s sheepdog.Scope) (out sheepdog.Succession, err error) {
	if n.w.sealing != nil {
		n.w.sealing(ctx)
	}
	if ctx.Err() != nil {
		return out, context.Cause(ctx)
	}
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	n.w.sealed[s.Family] = s.Token
	return sheepdog.Succession{Origins: n.w.origins[s.Family], Lost: n.w.lost}, nil
}

func (n *node) Origins(_ context.Context, s sheepdog.Scope) ([]sheepdog.Origin, error) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return n.w.origins[s.Family], nil
}

func (n *node) LayerIndexes(ctx context.Context, s sheepdog.Scope, layer sheepdog.LayerID, visit func(sheepdog.Index)) error {
	if n.w.listing != nil {
		n.w.listing(ctx)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	if n.w.listed != nil {
		if err := n.w.listed(layer); err != nil {
			return err
		}
	}
	for k := range n.w.blocks {
		if owner, ok := n.w.dir.Owner(k.layer); ok && k.obj.Family == s.Family && owner == layer {
			visit(k.obj.Index)
		}
	}
	return nil
}

// Helpers of tests.

const testShift = 20 // objects of 1 MiB

func create(t *testing.T, m *Manager, name string, size uint64) {
	t.Helper()
	if _, err := m.Create(t.Context(), directory.Create{Name: name, Size: size, Policy: sheepdog.Policy{Copies: 3}, BlockSizeShift: testShift}); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, m *Manager, name, ref string) *Volume {
	t.Helper()
	v, err := m.Open(name, ref)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close(context.Background()) })
	return v
}

// oneVDI is a world of one node with an open VDI named v of size bytes.
func oneVDI(t *testing.T, size uint64) (*world, *Manager, *Volume) {
	t.Helper()
	w := newWorld()
	m := w.manager(t, 1)
	create(t, m, "v", size)
	return w, m, open(t, m, "v", "")
}

func write(t *testing.T, v *Volume, off uint64, p []byte) {
	t.Helper()
	if err := v.WriteAt(t.Context(), p, off); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, v *Volume, off uint64, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if err := v.ReadAt(t.Context(), got, off); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("%s: byte %d is %#x, want %#x", v.name, off+uint64(i), got[i], want[i])
			}
		}
	}
}

func fill(n int, b byte) []byte { return bytes.Repeat([]byte{b}, n) }
