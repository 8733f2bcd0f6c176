package recovery

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sheepdog"
	"sheepdog/replica"
	"sheepdog/replica/replicatest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	fam  = sheepdog.FamilyID(7)
	base = sheepdog.LayerID(1) // frozen
	top  = sheepdog.LayerID(2)
)

var policy = replicatest.Policy

func nodes(ids ...sheepdog.NodeID) []sheepdog.NodeID { return ids }

func object(i int) sheepdog.ObjectID {
	return sheepdog.ObjectID{Family: fam, Index: sheepdog.Index(i)}
}

// node is one node of a cluster.
type node struct {
	id     sheepdog.NodeID
	engine *replicatest.Engine
	server *replica.Server
	agent  *Agent
}

// cluster is some nodes with one directory and views that commits step. It
// commits as the real table does.
type cluster struct {
	t      testing.TB
	nodes  map[sheepdog.NodeID]*node
	layers *replicatest.Layers
	views  *replicatest.Views

	mu     sync.Mutex
	down   map[sheepdog.NodeID]bool
	onCall func(to sheepdog.NodeID, op string) // before a call to a peer
	// onFetched, if set, sees what nodes answer before who asked does.
	onFetched func(*sheepdog.FetchRequest, *sheepdog.FetchReply)
	proposed  []Move
	promoted  int
	commits   int
	refuse    error
	suspected []sheepdog.NodeID
	settled   []sheepdog.FamilyID
	merged    []sheepdog.LayerID
	seq       uint64
}

// newCluster has two layers, and the view that it is given.
func newCluster(t testing.TB, v *sheepdog.View, edit func(*Config)) *cluster {
	c := &cluster{t: t, nodes: make(map[sheepdog.NodeID]*node), layers: replicatest.NewLayers(), views: replicatest.NewViews(v),
		down: make(map[sheepdog.NodeID]bool)}
	c.layers.Add(base, fam, 0)
	c.layers.Add(top, fam, base)
	c.layers.Appoint(fam, 3)
	for _, m := range v.Members {
		n := &node{id: m.ID, engine: replicatest.NewEngine()}
		n.server = replica.New(replica.Config{Self: m.ID, Incarnation: m.Incarnation, Engine: n.engine, Views: c.views, Layers: c.layers, CatchUp: 50 * time.Millisecond})
		cfg := Config{Self: m.ID, Incarnation: m.Incarnation, Store: n.engine, Local: n.server, Peers: c, Views: c.views, Layers: c.layers,
			Committer: c, Retry: 5 * time.Millisecond, Delay: -1, Hooks: c.hooks()}
		if edit != nil {
			edit(&cfg)
		}
		n.agent = New(cfg)
		c.nodes[m.ID] = n
	}
	return c
}

func (c *cluster) hooks() Hooks {
	return Hooks{
		Suspect: func(id sheepdog.NodeID, _ error) { c.locked(func() { c.suspected = append(c.suspected, id) }) },
		Settle:  func(id sheepdog.FamilyID) { c.locked(func() { c.settled = append(c.settled, id) }) },
		Merged: func(_ context.Context, l []sheepdog.LayerID) error {
			c.locked(func() { c.merged = append(c.merged, l...) })
			return nil
		},
	}
}

func (c *cluster) locked(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

// run works with the agents of some nodes until done is true.
func (c *cluster) run(done func() bool, ids ...sheepdog.NodeID) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, id := range ids {
		wg.Go(func() { _ = c.nodes[id].agent.Run(ctx) })
	}
	defer wg.Wait()
	defer cancel()
	deadline := time.Now().Add(20 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			c.t.Error("recovery did not get there in 20 s")
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// complete reports whether all partitions are.
func (c *cluster) complete() bool {
	for _, pl := range c.views.View().Tables[policy] {
		if !pl.Complete() {
			return false
		}
	}
	return true
}

func (c *cluster) placement(obj sheepdog.ObjectID) *sheepdog.Placement {
	pl, _ := c.views.View().Placement(policy, obj.Partition())
	return pl
}

// step publishes the next view; every row is placed anew.
func (c *cluster) step(pl sheepdog.Placement) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.views.Publish(replicatest.Next(c.views.View(), func(v *sheepdog.View, table sheepdog.Table) {
		pl.Since = v.Revision
		for p := range table {
			table[p] = &pl
		}
	}))
}

// Promote implements Committer.
func (c *cluster) Promote(_ context.Context, m *Move) ([]sheepdog.Partition, error) {
	return c.commit(m, func(pl *sheepdog.Placement) {
		pl.Acting = append(slices.Clone(pl.Acting), m.Node)
		for _, id := range pl.Target {
			if !slices.Contains(pl.Acting, id) {
				return
			}
		}
		pl.Acting = pl.Target
	})
}

// Clean implements Committer.
func (c *cluster) Clean(_ context.Context, m *Move) ([]sheepdog.Partition, error) {
	return c.commit(m, func(pl *sheepdog.Placement) { pl.State = sheepdog.Clean })
}

func (c *cluster) commit(m *Move, change func(*sheepdog.Placement)) (refused []sheepdog.Partition, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.proposed = append(c.proposed, Move{Policy: m.Policy, Node: m.Node, Items: slices.Clone(m.Items)})
	if c.refuse != nil {
		return nil, c.refuse
	}
	c.commits++
	next := replicatest.Next(c.views.View(), func(v *sheepdog.View, table sheepdog.Table) {
		made := make(map[*sheepdog.Placement]*sheepdog.Placement)
		for _, item := range m.Items {
			old := table[item.Partition]
			if old.Since != item.Since {
				refused = append(refused, item.Partition)
				continue
			}
			if made[old] == nil {
				pl := *old
				pl.Since = v.Revision
				change(&pl)
				made[old] = &pl
			}
			table[item.Partition] = made[old]
			c.promoted++
		}
	})
	c.views.Publish(next)
	return refused, nil
}

// Replica implements Peers.
func (c *cluster) Replica(id sheepdog.NodeID) sheepdog.Replica { return &peer{c, id} }

// peer is the way to another node.
type peer struct {
	c  *cluster
	id sheepdog.NodeID
}

func (p *peer) to(op string) (sheepdog.Replica, error) {
	var hook func(sheepdog.NodeID, string)
	var down bool
	p.c.locked(func() { hook, down = p.c.onCall, p.c.down[p.id] })
	if hook != nil {
		hook(p.id, op)
	}
	if down || p.c.nodes[p.id] == nil {
		return nil, fmt.Errorf("node %d: %w", p.id, sheepdog.ErrUnreachable)
	}
	return p.c.nodes[p.id].server, nil
}

func (p *peer) Write(ctx context.Context, reqs []*sheepdog.WriteRequest, done func(int, error)) {
	r, err := p.to("write")
	if err == nil {
		r.Write(ctx, reqs, done)
		return
	}
	for i := range reqs {
		done(i, err)
	}
}

func (p *peer) Read(ctx context.Context, req *sheepdog.ReadRequest) error {
	r, err := p.to("read")
	if err != nil {
		return err
	}
	return r.Read(ctx, req)
}

func (p *peer) Flush(ctx context.Context, req *sheepdog.FlushRequest) error {
	r, err := p.to("flush")
	if err != nil {
		return err
	}
	return r.Flush(ctx, req)
}

func (p *peer) Seal(ctx context.Context, req *sheepdog.SealRequest) (*sheepdog.SealReply, error) {
	r, err := p.to("seal")
	if err != nil {
		return nil, err
	}
	return r.Seal(ctx, req)
}

func (p *peer) List(ctx context.Context, req *sheepdog.ListRequest) (*sheepdog.ListReply, error) {
	r, err := p.to("list")
	if err != nil {
		return nil, err
	}
	return r.List(ctx, req)
}

func (p *peer) Fetch(ctx context.Context, req *sheepdog.FetchRequest) (*sheepdog.FetchReply, error) {
	r, err := p.to("fetch")
	if err != nil {
		return nil, err
	}
	reply, err := r.Fetch(ctx, req)
	if err == nil && p.c.onFetched != nil {
		p.c.onFetched(req, reply)
	}
	return reply, err
}

// fill is the content of a block written with a stamp.
func fill(s sheepdog.Stamp) []byte {
	return bytes.Repeat([]byte{byte(s.Token)<<4 ^ byte(s.Seq), byte(s.Seq >> 4)}, sheepdog.BlockSize/2)
}

// put writes a block into the engine of a node behind the back of its server.
func (c *cluster) put(id sheepdog.NodeID, obj sheepdog.ObjectID, layer sheepdog.LayerID, at sheepdog.BlockNo, token sheepdog.Token, seq uint64) {
	s := sheepdog.Stamp{Token: token, Seq: seq}
	ops := []sheepdog.Op{{Object: obj, Layer: layer, Start: at, Count: 1, Data: fill(s), Stamp: s, Force: true}}
	errs := make([]error, 1)
	c.nodes[id].engine.Write(ops, errs)
	if errs[0] != nil {
		c.t.Fatal(errs[0])
	}
}

// write is a guest write of one block: it goes to all writers until all of them
// accept it in one view. Its stamp is new.
func (c *cluster) write(obj sheepdog.ObjectID, at sheepdog.BlockNo) {
	c.mu.Lock()
	c.seq++
	s := sheepdog.Stamp{Token: 3, Seq: c.seq}
	c.mu.Unlock()
	for !c.writeOnce(c.views.View(), obj, at, s) {
	}
}

func (c *cluster) writeOnce(v *sheepdog.View, obj sheepdog.ObjectID, at sheepdog.BlockNo, s sheepdog.Stamp) bool {
	pl, _ := v.Placement(policy, obj.Partition())
	ok := true
	for _, m := range v.Members {
		if !pl.IsWriter(m.ID) {
			continue
		}
		r := &sheepdog.WriteRequest{Fence: sheepdog.Fence{Revision: v.Revision, Token: s.Token}, Policy: policy, Object: obj, Layer: top,
			Start: at, Count: 1, Data: fill(s), Stamp: s}
		c.nodes[m.ID].server.Write(context.Background(), []*sheepdog.WriteRequest{r}, func(_ int, err error) { ok = ok && err == nil })
	}
	return ok
}

// dump is what a node holds of partitions in which it acts.
func (c *cluster) dump(id sheepdog.NodeID) []string {
	return c.nodes[id].engine.Dump(func(obj sheepdog.ObjectID) bool { return c.placement(obj).IsActing(id) })
}

// sameAs fails unless two nodes hold the same.
func (c *cluster) sameAs(want, got sheepdog.NodeID) {
	c.t.Helper()
	w, g := c.dump(want), c.dump(got)
	if slices.Equal(w, g) {
		return
	}
	for _, line := range w {
		if !slices.Contains(g, line) {
			c.t.Errorf("node %d lacks %s", got, line)
		}
	}
	for _, line := range g {
		if !slices.Contains(w, line) {
			c.t.Errorf("node %d has too much: %s", got, line)
		}
	}
}
