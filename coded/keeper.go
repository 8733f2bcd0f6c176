package coded

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"sheepdog"
)

// KeeperConfig is what a Keeper needs beside a Client.
type KeeperConfig struct {
	Engine sheepdog.Engine
	// Delay is the wait after a change of the members, for one that left may come
	// back.
	Delay time.Duration
}

// Keeper makes this node hold the strips that it should, and drops others once
// they are where they should be.
type Keeper struct {
	*Client
	cfg     KeeperConfig
	settled map[sheepdog.LayerID]sheepdog.Epoch // nothing to do for the layer in this epoch
	pending atomic.Int64
	looked  atomic.Uint64 // epoch of the last look at all layers
	again   atomic.Bool   // see LookAgain
}

// NewKeeper makes a keeper; Run does the work.
func NewKeeper(c *Client, cfg KeeperConfig) *Keeper {
	return &Keeper{Client: c, cfg: cfg, settled: make(map[sheepdog.LayerID]sheepdog.Epoch)}
}

// Pending is how many objects lacked a strip anywhere when this node looked last;
// the number of layers if it has not looked since the members changed.
func (k *Keeper) Pending() int {
	if v := k.Client.cfg.Views.View(); v != nil && uint64(v.Epoch) != k.looked.Load() {
		return len(k.Client.cfg.Layers.AllCoded())
	}
	return int(k.pending.Load())
}

// LookAgain has Run look at all layers anew: strips that this node had are gone.
func (k *Keeper) LookAgain() { k.again.Store(true) }

// keepEvery is how often the keeper looks for work.
const keepEvery = time.Second

// Run works until ctx ends. It rests until coded layers or members change when there
// is nothing left to do.
func (k *Keeper) Run(ctx context.Context) {
	var epoch sheepdog.Epoch
	var seen uint64  // of the coded layers, in a round that left nothing to do
	resting := false // there was such a round in this epoch
	since := time.Now()
	t := time.NewTicker(keepEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		v := k.Client.cfg.Views.View()
		if v == nil {
			continue
		}
		if v.Epoch != epoch {
			epoch, since, resting = v.Epoch, time.Now(), false
		}
		if k.again.Swap(false) {
			clear(k.settled)
			resting = false
		}
		if v.Config.RecoveryDisabled || time.Since(since) < k.cfg.Delay {
			continue
		}
		version := k.Client.cfg.Layers.CodedVersion()
		if resting && version == seen {
			continue
		}
		seen = version
		rests, err := k.Round(ctx, v)
		if err != nil && ctx.Err() == nil {
			k.Client.cfg.Log.Warn("strips stay as they are for now", "err", err)
		}
		resting = rests
	}
}

// Round looks once at every coded layer that is not settled in the view. It rests
// if all complete ones are by then: there is nothing to do until others come, or
// members change.
func (k *Keeper) Round(ctx context.Context, v *sheepdog.View) (rests bool, err error) {
	rests = true
	var errs []error
	listed := make(map[sheepdog.LayerID]bool)
	pending := 0
	for _, l := range k.Client.cfg.Layers.AllCoded() {
		listed[l.ID] = true
		if !l.Complete || k.settled[l.ID] == v.Epoch {
			continue
		}
		left, err := k.layer(ctx, v, &l)
		pending += left
		if err != nil {
			errs = append(errs, fmt.Errorf("coded layer %d: %w", l.ID, err))
		}
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		rests = rests && k.settled[l.ID] == v.Epoch
	}
	k.pending.Store(int64(pending))
	if len(errs) == 0 {
		k.looked.Store(uint64(v.Epoch))
	}
	for id := range k.settled {
		if !listed[id] {
			delete(k.settled, id)
		}
	}
	return rests, errors.Join(errs...)
}

// layer does what this node has to do for a layer, and tells how many objects
// still lack strips anywhere.
func (k *Keeper) layer(ctx context.Context, v *sheepdog.View, l *Layer) (missing int, err error) {
	held, err := k.holdings(ctx, v, l)
	if err != nil {
		return 0, err
	}
	surplus := false
	var heads []sheepdog.Op // of the strips that were rebuilt
	for index, where := range held {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		o, err := k.open(v, l, l.object(index))
		if err != nil {
			return 0, err
		}
		if l.lost(index) && !enough(where, o.lay.data) {
			continue // nobody can make its strips
		}
		ids := make([]sheepdog.NodeID, len(o.homes))
		for i, m := range o.homes {
			ids[i] = m.ID
		}
		p := planStrips(ids, o.lay.strips(), where)
		if len(p.missing) > 0 {
			missing++
		}
		surplus = surplus || p.surplus
		if s, ok := p.build[k.Client.cfg.Self]; ok {
			h, err := k.rebuild(ctx, o, s)
			if err != nil {
				return missing, err
			}
			heads = append(heads, h...)
		}
		for _, s := range p.drop[k.Client.cfg.Self] {
			if err := k.drop(ctx, o, s, p.owner[s]); err != nil {
				return missing, err
			}
		}
	}
	if len(heads) > 0 {
		return missing, k.seal(heads)
	}
	if missing == 0 && !surplus {
		k.settled[l.ID] = v.Epoch
	}
	return missing, nil
}

// enough reports whether strips can be made of those that are held.
func enough(held [][]sheepdog.NodeID, data int) bool {
	n := 0
	for _, at := range held {
		if len(at) > 0 {
			n++
		}
	}
	return n >= data
}

// holdings asks every member which strips of a layer it has: per index, per
// strip, the nodes. It fails if one does not answer: what it has cannot be told
// from what is lost.
func (k *Keeper) holdings(ctx context.Context, v *sheepdog.View, l *Layer) (map[sheepdog.Index][][]sheepdog.NodeID, error) {
	out := make(map[sheepdog.Index][][]sheepdog.NodeID)
	for _, m := range storing(v) {
		err := k.list(ctx, v, m, l, func(e sheepdog.ListEntry) {
			if out[e.Object.Index] == nil {
				out[e.Object.Index] = make([][]sheepdog.NodeID, l.layout().strips())
			}
			s := int(e.Layer - l.ID)
			out[e.Object.Index][s] = append(out[e.Object.Index][s], m.ID)
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// drop drops strip s here once the member that owns it is found to have all of
// it: a list tells that from the last header alone, which a crash may have kept
// without rows, of a try to encode that failed. cluster check mends such a strip.
func (k *Keeper) drop(ctx context.Context, o *object, s int, owner sheepdog.NodeID) error {
	m, ok := o.view.Member(owner)
	if !ok {
		return nil
	}
	for seg := range o.lay.segments() {
		if err := o.whole(ctx, m, s, seg); err != nil {
			k.Client.cfg.Log.Debug("a strip that is not needed here stays", "object", o.id, "strip", s, "err", err)
			return nil
		}
	}
	if err := k.cfg.Engine.DropObject(o.id, o.layer.strip(s)); err != nil {
		return fmt.Errorf("drop strip %d of object %s: %w", s, o.id, err)
	}
	return nil
}

// whole is an error unless a member has all blocks of a segment of strip s, good.
func (o *object) whole(ctx context.Context, m sheepdog.Member, s int, seg uint32) error {
	h, err := o.header(ctx, seg)
	if err != nil {
		return err
	}
	reply, err := o.cfg.Peers.Replica(m).Fetch(ctx, &sheepdog.FetchRequest{Fence: sheepdog.Fence{Revision: o.view.Revision}, Policy: o.layer.Policy,
		Object: o.id, Layer: o.layer.strip(s), Start: o.lay.headerAt(seg), Count: 1 + o.lay.rows(h, s), Verify: true})
	switch {
	case err != nil:
		return err
	case len(reply.Bad) > 0 || slices.ContainsFunc(reply.Records, func(r sheepdog.Record) bool { return r.State == sheepdog.Absent }):
		return fmt.Errorf("strip %d on node %s (%s) is not whole: %w", s, m.ID, m.Addr, sheepdog.ErrChecksum)
	}
	return nil
}

// stripPlan is what the nodes should do about one object.
type stripPlan struct {
	owner   []sheepdog.NodeID // of every strip the home that keeps it; zero: none
	missing []int             // strips that no home owns
	build   map[sheepdog.NodeID]int
	drop    map[sheepdog.NodeID][]int
	surplus bool // somebody holds what it need not
}

// planStrips is a pure function of what is held where, so that all nodes that
// know the same plan the same. Every home, in order, owns the first strip it has
// that none before it owns; homes that own none build those that nobody owns.
// What is not owned is dropped when every strip has an owner.
func planStrips(homes []sheepdog.NodeID, strips int, held [][]sheepdog.NodeID) stripPlan {
	p := stripPlan{build: make(map[sheepdog.NodeID]int), drop: make(map[sheepdog.NodeID][]int)}
	owner := make([]sheepdog.NodeID, strips)
	owned := make([]bool, strips)
	var needy []sheepdog.NodeID
	for _, id := range homes {
		k := 0
		for k < strips && (owned[k] || !slices.Contains(held[k], id)) {
			k++
		}
		if k == strips {
			needy = append(needy, id)
			continue
		}
		owner[k], owned[k] = id, true
	}
	for k := range strips {
		if !owned[k] {
			p.missing = append(p.missing, k)
		}
	}
	for i, id := range needy {
		if i < len(p.missing) {
			p.build[id] = p.missing[i]
		}
	}
	p.owner = owner
	for k := range strips {
		for _, id := range held[k] {
			if owned[k] && owner[k] == id {
				continue
			}
			p.surplus = true
			if len(p.missing) == 0 {
				p.drop[id] = append(p.drop[id], k)
			}
		}
	}
	return p
}

// rebuildRows is how many rows are rebuilt at a time.
const rebuildRows = 256

// rebuild stores the rows of strip s of an object here: a copy if somebody has
// them, else from D others. It returns the headers, which are stored when the
// rows are durable, because they say that a strip is whole.
func (k *Keeper) rebuild(ctx context.Context, o *object, s int) (heads []sheepdog.Op, err error) {
	for seg := range o.lay.segments() {
		data, err := o.segment(ctx, s, seg)
		if err != nil {
			return nil, fmt.Errorf("rebuild strip %d of object %s: %w", s, o.id, err)
		}
		op := sheepdog.Op{Object: o.id, Layer: o.layer.strip(s), Start: o.lay.headerAt(seg), Count: 1, Data: data[:sheepdog.BlockSize], Stamp: stripStamp, Force: true}
		heads = append(heads, op)
		if rows := data[sheepdog.BlockSize:]; len(rows) > 0 {
			op.Start, op.Count, op.Data = op.Start+1, uint32(len(rows)/sheepdog.BlockSize), rows
			if err := k.store(op); err != nil {
				return nil, err
			}
		}
	}
	return heads, nil
}

func (k *Keeper) store(ops ...sheepdog.Op) error {
	errs := make([]error, len(ops))
	k.cfg.Engine.Write(ops, errs)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("store rebuilt strips: %w", err)
	}
	return nil
}

// seal makes rebuilt rows durable, and then their headers.
func (k *Keeper) seal(heads []sheepdog.Op) error {
	if err := k.cfg.Engine.Flush(); err != nil {
		return fmt.Errorf("flush rebuilt strips: %w", err)
	}
	if err := k.store(heads...); err != nil {
		return err
	}
	return k.cfg.Engine.Flush()
}

// segment is what strip s stores of a segment.
func (o *object) segment(ctx context.Context, s int, seg uint32) ([]byte, error) {
	h, err := o.header(ctx, seg)
	if err != nil {
		return nil, err
	}
	out := o.lay.encode(h)
	rows := o.lay.rows(h, s)
	for at := uint32(0); at < rows; at += rebuildRows {
		b, err := o.rows(ctx, h, s, at, min(rebuildRows, rows-at))
		if err != nil {
			return nil, err
		}
		out = append(out, b...)
	}
	return out, nil
}
