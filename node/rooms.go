package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"sheepdog"
	"sheepdog/cluster"
	"sheepdog/cluster/state"
	"sheepdog/vdi/directory"
)

// machine is the directory as the cluster's state machine sees it.
type machine struct{ *directory.Directory }

// Reset is called when the cluster is formatted again: ids go on, so that no
// cache takes something old for something new.
func (m machine) Reset() { m.Clear() }

// Snapshot leaves it to the caller to encode the directory, which takes a while.
func (m machine) Snapshot() (encode func() ([]byte, error)) { return m.Freeze() }

// newMachine is an empty directory, on which a log can be replayed.
func newMachine() cluster.Machine { return machine{directory.New()} }

// layers is the directory as replicas and recovery see it.
type layers struct{ dir *directory.Directory }

func (l layers) Chain(id sheepdog.LayerID) []sheepdog.LayerID {
	chain, _ := l.dir.Chain(id)
	return chain
}

func (l layers) Departed(after uint64) ([]sheepdog.LayerID, uint64, bool) {
	return l.dir.Departed(after)
}

func (l layers) Logical(id sheepdog.LayerID) []sheepdog.LayerID { return l.dir.Logical(id) }

func (l layers) Owner(id sheepdog.LayerID) (sheepdog.LayerID, bool) { return l.dir.Owner(id) }

func (l layers) Frozen(id sheepdog.LayerID) (frozen, known bool) {
	layer, ok := l.dir.Layer(id)
	return layer.Frozen, ok
}

func (l layers) NextLayer() sheepdog.LayerID { return l.dir.NextLayer() }

func (l layers) Family(id sheepdog.LayerID) (sheepdog.FamilyID, bool) {
	layer, ok := l.dir.Layer(id)
	return layer.Family, ok
}

func (l layers) Policy(id sheepdog.FamilyID) (sheepdog.Policy, bool) {
	f, ok := l.dir.Family(id)
	return f.Policy, ok
}

func (l layers) ObjectShift(id sheepdog.FamilyID) (uint8, bool) {
	f, ok := l.dir.Family(id)
	return f.BlockSizeShift, ok
}

func (l layers) Token(id sheepdog.FamilyID) sheepdog.Token {
	f, _ := l.dir.Family(id)
	return f.Token
}

func (l layers) Coordinator(id sheepdog.FamilyID) sheepdog.NodeID {
	f, _ := l.dir.Family(id)
	return f.Coordinator.Node
}

func (l layers) Version() (uint64, bool) { return l.dir.Version() }

func (l layers) Changed() <-chan struct{} { return l.dir.Changed() }

// peers is the way to other nodes, and to this node's own rooms, as gateway, vdi
// and recovery see it.
type peers struct{ n *Node }

func (p peers) Replica(m sheepdog.Member) sheepdog.Replica {
	var r sheepdog.Replica = p.n.strips
	if m.ID != p.n.self.ID {
		r = p.n.pool.Replica(m)
	}
	if p.n.cfg.Wrap != nil {
		r = p.n.cfg.Wrap(m, r)
	}
	return r
}

func (p peers) Forwarder(m sheepdog.Member) sheepdog.Forwarder {
	if m.ID == p.n.self.ID {
		return p.n.vdis
	}
	return p.n.pool.Client(m)
}

func (p peers) Call(ctx context.Context, m sheepdog.Member, method string, body []byte) ([]byte, error) {
	return p.n.pool.Client(m).Call(ctx, method, body)
}

// handler serves what arrives from other nodes.
type handler struct{ n *Node }

func (h handler) Write(ctx context.Context, reqs []*sheepdog.WriteRequest, done func(i int, err error)) {
	zeros := uint64(0)
	for _, r := range reqs {
		if r.Data == nil {
			zeros++
		}
	}
	n, c := uint64(len(reqs)), &h.n.stats.peer
	c.active.Add(int64(n))
	c.write.requests.Add(n - zeros)
	if zeros > 0 {
		c.remove.requests.Add(zeros)
	}
	w := newCounted()
	w.c, w.reqs, w.done, w.began = c, reqs, done, time.Now()
	w.left.Store(int64(n))
	h.n.strips.Write(ctx, reqs, w.answer)
}

// countedWrite is a Write whose requests are counted when they are done.
type countedWrite struct {
	c      *counters
	reqs   []*sheepdog.WriteRequest
	done   func(i int, err error)
	began  time.Time
	left   atomic.Int64
	answer func(i int, err error) // its method answered, made once
}

var counted sync.Pool // of *countedWrite

func newCounted() *countedWrite {
	w, _ := counted.Get().(*countedWrite)
	if w == nil {
		w = new(countedWrite)
		w.answer = w.answered
	}
	return w
}

func (w *countedWrite) answered(i int, err error) {
	r, c, done := w.reqs[i], w.c, w.done
	o, began := &c.write, w.began
	if r.Data == nil {
		o = &c.remove
	}
	if r.Repair {
		began = time.Time{}
	}
	c.end(o, began, err, len(r.Data))
	if w.left.Add(-1) == 0 {
		w.reqs, w.done = nil, nil
		counted.Put(w)
	}
	done(i, err)
}

func (h handler) Read(ctx context.Context, req *sheepdog.ReadRequest) error {
	c := &h.n.stats.peer
	c.begin(&c.read)
	began := time.Now()
	err := h.n.strips.Read(ctx, req)
	c.end(&c.read, began, err, len(req.Buf))
	return err
}

func (h handler) Flush(ctx context.Context, req *sheepdog.FlushRequest) error {
	c := &h.n.stats.peer
	c.begin(&c.flush)
	began := time.Now()
	err := h.n.strips.Flush(ctx, req)
	c.end(&c.flush, began, err, 0)
	return err
}

func (h handler) Seal(ctx context.Context, req *sheepdog.SealRequest) (*sheepdog.SealReply, error) {
	c := &h.n.stats.peer
	c.begin(&c.other)
	reply, err := h.n.strips.Seal(ctx, req)
	c.end(&c.other, time.Time{}, err, 0)
	return reply, err
}

func (h handler) List(ctx context.Context, req *sheepdog.ListRequest) (*sheepdog.ListReply, error) {
	c := &h.n.stats.peer
	c.begin(&c.other)
	reply, err := h.n.strips.List(ctx, req)
	c.end(&c.other, time.Time{}, err, 0)
	return reply, err
}

func (h handler) Fetch(ctx context.Context, req *sheepdog.FetchRequest) (*sheepdog.FetchReply, error) {
	c := &h.n.stats.peer
	c.begin(&c.read)
	reply, err := h.n.strips.Fetch(ctx, req)
	moved := 0
	if reply != nil {
		moved = len(reply.Data)
	}
	c.end(&c.read, time.Time{}, err, moved)
	return reply, err
}

func (h handler) Forward(ctx context.Context, req *sheepdog.ForwardRequest, buf []byte) error {
	return h.n.vdis.Forward(ctx, req, buf)
}

// Control goes to the room whose method it is.
func (h handler) Control(ctx context.Context, _ sheepdog.NodeID, method string, body []byte) ([]byte, error) {
	if reply, err, ok := h.n.cluster.HandleControl(ctx, method, body); ok {
		return reply, err
	}
	if reply, err, ok := h.n.vdis.HandleControl(ctx, method, body); ok {
		return reply, err
	}
	return h.n.control(ctx, method, body)
}

// gate runs on the Raft leader before a directory command is committed. A
// coordinator that is still a member is not replaced by another; after one that
// is not, its lease must be over. (docs/protocol.md rule 6)
func (n *Node) gate(ctx context.Context, kind string, body []byte) error {
	select {
	case <-n.wired:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if cmd, ok, err := directory.ParsePrune(kind, body); ok {
		return errors.Join(err, n.gatePrune(cmd))
	}
	if cmd, ok, err := directory.ParseRetire(kind, body); ok {
		return errors.Join(err, n.gateRetire(cmd))
	}
	cmd, ok, err := directory.ParseAcquire(kind, body)
	if !ok || err != nil {
		return err
	}
	f, ok := n.dir.Family(cmd.Family)
	if !ok || f.Coordinator.IsZero() || f.Coordinator.Incarnation == cmd.Incarnation {
		return nil
	}
	if m, ok := n.cluster.View().Member(f.Coordinator.Node); ok && m.Incarnation == f.Coordinator.Incarnation {
		return fmt.Errorf("VDI %q is coordinated by node %s: %w", f.Name, m.ID, sheepdog.ErrBusy)
	}
	return n.cluster.LeaseOver(ctx, state.MemberRef{ID: f.Coordinator.Node, Incarnation: f.Coordinator.Incarnation})
}

// factGeneration is where the store remembers which format of the cluster its
// content belongs to.
const factGeneration = "generation"

// adoptGeneration wipes the store when the cluster was formatted anew. Older
// generations come again while the log is replayed at start.
func (n *Node) adoptGeneration(generation uint64) error {
	b, err := n.engine.Get(factGeneration)
	if err != nil {
		return err
	}
	if len(b) == 8 && binary.LittleEndian.Uint64(b) >= generation {
		return nil
	}
	if err := n.engine.Wipe(); err != nil {
		return fmt.Errorf("wipe the store for a newly formatted cluster: %w", err)
	}
	return n.engine.Put(factGeneration, binary.LittleEndian.AppendUint64(nil, generation))
}
