package node

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"sheepdog"
	"sheepdog/cluster/ring"
	"sheepdog/coded"
	"sheepdog/gateway"
	"sheepdog/recovery"
	"sheepdog/vdi/directory"
)

// objects is the way to objects as vdi sees it: coded layers are read from
// strips, everything else from replicas.
type objects struct {
	*gateway.Gateway
	coded *coded.Client
}

func (o objects) Read(ctx context.Context, req *sheepdog.ReadRequest) error {
	if req.Policy.IsStrips() {
		return o.coded.Read(ctx, req)
	}
	return o.Gateway.Read(ctx, req)
}

func (o objects) Records(ctx context.Context, s sheepdog.Scope, obj sheepdog.ObjectID, layers []sheepdog.LayerID, start sheepdog.BlockNo, count uint32) ([]sheepdog.Record, error) {
	if !s.Policy.IsStrips() {
		return o.Gateway.Records(ctx, s, obj, layers, start, count)
	}
	states := make([]sheepdog.BlockState, count)
	out := make([]sheepdog.Record, count)
	for _, layer := range layers { // a family of strips has one
		if err := o.coded.States(ctx, layer, obj, start, states); err != nil {
			return nil, err
		}
	}
	for i, state := range states {
		out[i].State = state
	}
	return out, nil
}

func (o objects) LayerIndexes(ctx context.Context, s sheepdog.Scope, layer sheepdog.LayerID, visit func(sheepdog.Index)) error {
	if s.Policy.IsStrips() {
		return o.coded.Indexes(ctx, layer, visit)
	}
	return o.Gateway.LayerIndexes(ctx, s, layer, visit)
}

// coder encodes when guests leave room for it.
type coder struct{ *coded.Client }

func (l layers) Coded(id sheepdog.LayerID) (coded.Layer, bool) {
	layer, ok := l.dir.Coded(id)
	if !ok {
		return coded.Layer{}, false
	}
	return l.coded(&layer)
}

func (l layers) coded(layer *directory.Layer) (coded.Layer, bool) {
	f, ok := l.dir.Family(layer.Family)
	return coded.Layer{ID: layer.ID, Family: layer.Family, Policy: f.Policy, Shift: f.BlockSizeShift,
		Objects: layer.Objects, Complete: layer.Complete(), Based: layer.Base != 0, Lost: layer.Lost, Left: layer.Left}, ok
}

func (l layers) AllCoded() []coded.Layer {
	var out []coded.Layer
	all := l.dir.AllCoded()
	for i := range all {
		if c, ok := l.coded(&all[i]); ok {
			out = append(out, c)
		}
	}
	return out
}

func (l layers) CodedVersion() uint64 { return l.dir.CodedVersion() }

// rings keeps the placement of strips for the newest members, by width.
type rings struct {
	mu    sync.Mutex
	epoch sheepdog.Epoch
	rows  map[int][][]sheepdog.NodeID
}

func (r *rings) place(v *sheepdog.View, width int) [][]sheepdog.NodeID {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rows == nil || r.epoch != v.Epoch {
		r.epoch, r.rows = v.Epoch, make(map[int][][]sheepdog.NodeID)
	}
	rows := r.rows[width]
	if rows == nil {
		rows = ring.Place(v.Members, width)
		r.rows[width] = rows
	}
	return rows
}

// checkPolicy refuses policies with parity that no VDI may have. With too few
// zones data stay replicated, as copies make do with fewer too.
func checkPolicy(p sheepdog.Policy) error {
	if p.Parity == 0 {
		return nil
	}
	return directory.CheckPolicy(p)
}

// enoughZones refuses to have data encoded that are there when there are too few
// zones for the strips.
func enoughZones(p sheepdog.Policy, zones int) error {
	if err := checkPolicy(p); err != nil {
		return err
	}
	if p.Zones() > zones {
		return fmt.Errorf("erasure coding %s needs %d zones with storage and there are %d; add nodes in other zones, or choose fewer strips: %w",
			p, p.Zones(), zones, sheepdog.ErrInvalid)
	}
	return nil
}

// wireStrips makes what reads, writes and keeps strips.
func (n *Node) wireStrips() {
	n.strips = coded.NewServer(n.replica, n.engine, n.layers())
	n.coded = coded.NewClient(coded.Config{Self: n.self.ID, Views: n.cluster, Peers: peers{n}, Layers: n.layers(),
		Ring: n.rings.place, Suspect: n.suspect, Log: n.log.With("part", "coded")})
	delay := n.cfg.RecoveryDelay
	if delay == 0 {
		delay = recovery.DefaultDelay
	}
	n.keeper = coded.NewKeeper(n.coded, coded.KeeperConfig{Engine: n.engine, Delay: delay})
}

// keepStrips runs the keeper until the node ends.
func (n *Node) keepStrips() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	n.onClose(func() { cancel(); <-done })
	n.spawn(func() {
		defer close(done)
		n.keeper.Run(ctx)
	})
}

// scrubStrips checks the strips of some partitions that are this node's to check.
func (n *Node) scrubStrips(ctx context.Context, want func(sheepdog.Partition) bool, pace func(context.Context, uint64) error) (recovery.Summary, error) {
	var sum recovery.Summary
	req := coded.CheckRequest{Want: want, Mine: true, Pace: pace}
	for _, l := range n.layers().AllCoded() {
		if !l.Complete {
			continue
		}
		strips, err := n.coded.Check(ctx, l.ID, req, func(f coded.Finding) { addStrip(&sum, f) })
		sum.Objects += strips
		if err != nil && !errors.Is(err, sheepdog.ErrNotFound) { // not deleted meanwhile
			return sum, err
		}
	}
	return sum, nil
}

// addStrip counts a finding as blocks of replicas are counted. A strip that is
// missing is made anew by a keeper.
func addStrip(sum *recovery.Summary, f coded.Finding) {
	blocks := uint64(max(f.Blocks, 1))
	switch {
	case f.Fault == coded.Missing:
		sum.Missing += blocks
		return
	case f.Fault == coded.Differing:
		sum.Differing += blocks
	default:
		sum.Bad += blocks
	}
	switch {
	case f.Healed:
		sum.Healed += blocks
	case f.Lost:
		sum.Lost += blocks
		sum.Unrepaired += blocks
	default:
		sum.Unrepaired += blocks
	}
}
