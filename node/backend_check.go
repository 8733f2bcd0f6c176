package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/coded"
	"sheepdog/recovery"
	"sheepdog/vdi/directory"
)

// Check compares all acting replicas and heals what differs unless told not to.
// Without a VDI it goes over everything that the directory lists.
func (b backend) Check(ctx context.Context, req *api.CheckRequest, report func(*api.CheckEvent) error) (*api.CheckSummary, error) {
	if err := b.n.ready(ctx); err != nil {
		return nil, err
	}
	c := &check{n: b.n, report: report, found: make(map[foundKey]*api.Finding)}
	if req.VDI != "" {
		return c.one(ctx, req)
	}
	if err := c.replicas(ctx, req.DryRun); err != nil {
		return nil, err
	}
	for _, l := range b.n.layers().AllCoded() {
		if err := c.strips(ctx, l, req.DryRun); err != nil {
			return nil, err
		}
	}
	for _, e := range b.n.dir.List() {
		if err := c.tell(&e); err != nil {
			return nil, err
		}
	}
	return c.finish()
}

// manyLayers is from how many layers on it is quicker to list all partitions than
// to ask where each layer has anything.
const manyLayers = 512

// replicas checks everything that is not coded.
func (c *check) replicas(ctx context.Context, dryRun bool) error {
	var levels []level
	for _, l := range slices.Backward(c.n.dir.WrittenLayers()) {
		if f, ok := c.n.dir.Family(l.Family); ok {
			levels = append(levels, level{layer: l.ID, ids: c.n.dir.Logical(l.ID), family: f})
		}
	}
	var parts map[sheepdog.Policy][]sheepdog.Partition
	if len(levels) < manyLayers {
		parts = c.partitions(ctx, levels)
	}
	for policy := range c.n.cluster.View().Tables {
		if parts != nil && len(parts[policy]) == 0 {
			continue
		}
		if err := c.run(ctx, recovery.CheckRequest{Policy: policy, Partitions: parts[policy], DryRun: dryRun}); err != nil {
			return err
		}
	}
	return nil
}

// tell reports a VDI or snapshot and the findings in what it reads. What
// several read is reported with the first.
func (c *check) tell(e *directory.Entry) error {
	what := &api.CheckVDI{Name: e.Name, SnapshotID: e.SnapID, Tag: e.Tag}
	if err := c.report(&api.CheckEvent{Begin: what}); err != nil {
		return err
	}
	read := make(map[sheepdog.LayerID]bool)
	for _, l := range c.n.levels(e.Layer) {
		for _, id := range l.ids {
			read[id] = true
		}
	}
	if err := c.flush(func(k foundKey) bool { return read[k.layer] }); err != nil {
		return err
	}
	return c.report(&api.CheckEvent{End: what})
}

// check is one run on behalf of a client.
type check struct {
	n      *Node
	report func(*api.CheckEvent) error

	mu      sync.Mutex
	found   map[foundKey]*api.Finding // a line per replica and kind of fault, not per block
	blocks  map[foundKey]int
	total   api.CheckSummary
	skipped int
	owners  map[sheepdog.LayerID]api.VID // nil: not computed yet
}

type foundKey struct {
	node  sheepdog.NodeID
	obj   sheepdog.ObjectID
	layer sheepdog.LayerID
	fault recovery.Fault
}

// one checks the layers that a VDI or snapshot reads, bases included.
func (c *check) one(ctx context.Context, req *api.CheckRequest) (*api.CheckSummary, error) {
	v, err := c.n.vdis.Open(req.VDI, string(req.Snapshot))
	if err != nil {
		return nil, err
	}
	v.Close(ctx)
	what := &api.CheckVDI{Name: req.VDI}
	entry, err := c.n.dir.Lookup(req.VDI)
	layer, policy := entry.Layer, entry.Policy
	if req.Snapshot != "" {
		snap, serr := c.n.dir.LookupSnapshot(req.VDI, string(req.Snapshot))
		err, layer, policy = serr, snap.Layer, snap.Policy
		what.SnapshotID, what.Tag = snap.SnapID, snap.Tag
	}
	if err != nil {
		return nil, err
	}
	if err := c.report(&api.CheckEvent{Begin: what}); err != nil {
		return nil, err
	}
	policies, want := c.layers(layer, policy)
	for _, l := range c.n.layers().AllCoded() {
		if want(sheepdog.ObjectID{}, l.ID) {
			if err := c.strips(ctx, l, req.DryRun); err != nil {
				return nil, err
			}
		}
	}
	parts := c.partitions(ctx, c.n.levels(layer))
	for _, p := range policies {
		if p.IsStrips() || parts != nil && len(parts[p]) == 0 {
			continue
		}
		if err := c.run(ctx, recovery.CheckRequest{Policy: p, Partitions: parts[p], DryRun: req.DryRun, Want: want}); err != nil {
			return nil, err
		}
	}
	if err := c.flush(func(foundKey) bool { return true }); err != nil {
		return nil, err
	}
	if err := c.report(&api.CheckEvent{End: what}); err != nil {
		return nil, err
	}
	return c.finish()
}

// layers collects what a layer is read through.
func (c *check) layers(layer sheepdog.LayerID, policy sheepdog.Policy) ([]sheepdog.Policy, func(sheepdog.ObjectID, sheepdog.LayerID) bool) {
	set := make(map[sheepdog.LayerID]bool)
	policies := []sheepdog.Policy{policy}
	for layer != 0 {
		l, ok := c.n.dir.Layer(layer)
		if !ok {
			break
		}
		set[layer] = true
		if f, ok := c.n.dir.Family(l.Family); ok && !slices.Contains(policies, f.Policy) {
			policies = append(policies, f.Policy)
		}
		if layer = l.Parent; layer == 0 {
			layer = l.Base
		}
	}
	return policies, func(_ sheepdog.ObjectID, layer sheepdog.LayerID) bool { return set[layer] }
}

// partitionsTimeout bounds the wait for replicas to tell what they have of a VDI.
const partitionsTimeout = 5 * time.Second

// partitions finds where layers, newest first, have anything, by policy, so that what is empty
// need not be listed. nil: replicas are missing, and all partitions are looked at.
func (c *check) partitions(ctx context.Context, levels []level) map[sheepdog.Policy][]sheepdog.Partition {
	ctx, cancel := context.WithTimeout(ctx, partitionsTimeout)
	defer cancel()
	out := make(map[sheepdog.Policy][]sheepdog.Partition)
	levels = slices.DeleteFunc(slices.Clone(levels), func(l level) bool { return l.family.Policy.IsStrips() })
	err := c.n.indexes(ctx, levels, func(i int, index sheepdog.Index) {
		f := &levels[i].family
		out[f.Policy] = append(out[f.Policy], sheepdog.ObjectID{Family: f.ID, Index: index}.Partition())
	})
	if err != nil {
		return nil
	}
	for p := range out {
		slices.Sort(out[p])
		out[p] = slices.Compact(out[p])
	}
	return out
}

func (c *check) run(ctx context.Context, req recovery.CheckRequest) error {
	s, err := c.n.recovery.Check(ctx, req, c.note)
	if err != nil {
		return err
	}
	c.total.Objects += s.Objects
	c.skipped += s.Skipped
	return nil
}

// strips checks a coded layer.
func (c *check) strips(ctx context.Context, l coded.Layer, dryRun bool) error {
	if !l.Complete {
		return nil
	}
	n, err := c.n.coded.Check(ctx, l.ID, coded.CheckRequest{DryRun: dryRun}, c.noteStrip)
	c.total.Objects += n
	if errors.Is(err, sheepdog.ErrNotFound) {
		return nil // deleted meanwhile
	}
	return err
}

// noteStrip takes down a faulty strip as a fault of a replica.
func (c *check) noteStrip(f coded.Finding) {
	fault := map[coded.Fault]recovery.Fault{coded.Missing: recovery.Missing, coded.Bad: recovery.Bad, coded.Differing: recovery.Differing}[f.Fault]
	for b := range max(f.Blocks, 1) {
		c.note(recovery.Finding{Node: f.Node, Object: f.Object, Layer: f.Layer, Block: sheepdog.BlockNo(b), Fault: fault, Healed: f.Healed, Lost: f.Lost})
	}
}

// note gathers the faulty blocks of one replica.
func (c *check) note(f recovery.Finding) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := foundKey{f.Node, f.Object, f.Layer, f.Fault}
	out := c.found[k]
	if out == nil {
		out = &api.Finding{Kind: kindOf(f.Fault), Object: fmt.Sprintf("%s of layer %d", f.Object, f.Layer), Node: c.n.addrOf(f.Node), Repaired: true}
		c.found[k] = out
	}
	if f.Lost {
		out.Kind = api.FindingLost
	}
	out.Repaired = out.Repaired && f.Healed
	if c.blocks == nil {
		c.blocks = make(map[foundKey]int)
	}
	c.blocks[k]++
}

func kindOf(f recovery.Fault) api.FindingKind {
	switch f {
	case recovery.Missing:
		return api.FindingMissing
	case recovery.Bad:
		return api.FindingCorrupt
	}
	return api.FindingDifferent
}

// addrOf is how users know a node.
func (n *Node) addrOf(id sheepdog.NodeID) string {
	if v := n.cluster.View(); v != nil {
		if m, ok := v.Member(id); ok {
			return m.Addr
		}
	}
	return id.String()
}

// flush reports, in order, the findings that want selects and that were not
// reported yet.
func (c *check) flush(want func(foundKey) bool) error {
	var keys []foundKey
	for k := range c.found {
		if want(k) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b foundKey) int {
		return cmp.Or(cmp.Compare(a.obj.Family, b.obj.Family), cmp.Compare(a.obj.Index, b.obj.Index), cmp.Compare(a.layer, b.layer),
			strings.Compare(c.found[a].Node, c.found[b].Node), cmp.Compare(a.fault, b.fault))
	})
	for _, k := range keys {
		if err := c.tellOne(k); err != nil {
			return err
		}
	}
	return nil
}

// tellOne counts one finding and reports it.
func (c *check) tellOne(k foundKey) error {
	f := c.found[k]
	delete(c.found, k)
	f.Detail = fmt.Sprintf("%d blocks of %s in layer %d", c.blocks[k], k.obj, k.layer)
	if owner := c.owner(k.layer); owner != 0 {
		f.Object = api.ObjectID{Owner: owner, Index: uint32(k.obj.Index)}.String()
	}
	c.total.Found++
	if f.Repaired {
		c.total.Repaired++
	}
	if f.Kind == api.FindingLost {
		c.total.Lost++
	}
	return c.report(&api.CheckEvent{Finding: f})
}

// owner is the VDI id under which users know a layer, 0 if there is none: a
// layer whose snapshot was deleted counts as that of what is above it.
func (c *check) owner(layer sheepdog.LayerID) api.VID {
	if c.owners == nil {
		c.owners = make(map[sheepdog.LayerID]api.VID)
		named := c.n.owners()
		for _, e := range c.n.dir.List() {
			levels := c.n.levels(e.Layer)
			for i, l := range levels {
				for _, id := range l.ids {
					c.owners[id] = ownerOf(levels, i, named)
				}
			}
		}
	}
	return c.owners[layer]
}

// finish reports what is left and sums up.
func (c *check) finish() (*api.CheckSummary, error) {
	c.total.Version = api.Version
	if err := c.flush(func(foundKey) bool { return true }); err != nil {
		return nil, err
	}
	if c.skipped > 0 {
		return nil, fmt.Errorf("%d partitions could not be checked: they wait for replicas or kept moving; try again after recovery: %w", c.skipped, sheepdog.ErrNotActing)
	}
	return &c.total, nil
}
