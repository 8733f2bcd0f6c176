package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/cluster/ring"
	"sheepdog/vdi/directory"
)

// level is one layer that a VDI reads, with what it absorbed.
type level struct {
	layer  sheepdog.LayerID
	ids    []sheepdog.LayerID // under which its blocks may be stored
	family directory.Family
}

// levels lists what reading a layer goes through, newest first, bases included.
func (n *Node) levels(layer sheepdog.LayerID) []level {
	var out []level
	for layer != 0 {
		l, ok := n.dir.Layer(layer)
		if !ok {
			break
		}
		f, _ := n.dir.Family(l.Family)
		ids := n.dir.Logical(layer)
		for k := 1; k < int(l.Strips); k++ {
			ids = append(ids, layer+sheepdog.LayerID(k))
		}
		out = append(out, level{layer: layer, ids: ids, family: f})
		if layer = l.Parent; layer == 0 {
			layer = l.Base
		}
	}
	return out
}

// entry finds a working VDI or a snapshot.
func (n *Node) entry(name string, s api.Selector) (directory.Entry, error) {
	if s != "" {
		return n.dir.LookupSnapshot(name, string(s))
	}
	v, err := n.dir.Lookup(name)
	return directory.Entry{VDI: v}, err
}

// owners tells under which VDI id users know a layer: that of the oldest VDI or
// snapshot that has it. A layer whose snapshot was deleted has none; its objects
// count as those of the layer above.
func (n *Node) owners() map[sheepdog.LayerID]sheepdog.VID {
	list := n.dir.List()
	slices.SortFunc(list, func(a, b directory.Entry) int { return cmp.Compare(b.Index, a.Index) })
	out := make(map[sheepdog.LayerID]sheepdog.VID, len(list))
	for _, e := range list {
		out[e.Layer] = e.VID // the oldest stays
	}
	return out
}

// ownerOf is the VDI id of a level, or of the nearest one above it that has one.
func ownerOf(levels []level, i int, owners map[sheepdog.LayerID]sheepdog.VID) api.VID {
	for ; i >= 0; i-- {
		if v, ok := owners[levels[i].layer]; ok {
			return api.VID(v)
		}
	}
	return 0
}

// objectRequest is the body of methodObject; the answer is the layers of the
// object that the node holds.
type objectRequest struct {
	Family sheepdog.FamilyID `json:"family"`
	Index  sheepdog.Index    `json:"index"`
}

// inquiries are the control methods that only look.
func (n *Node) inquiries() map[string]func(body []byte) ([]byte, error) {
	return map[string]func([]byte) ([]byte, error){methodObject: n.handleObject, methodDisks: n.handleDisks,
		methodAssess: n.handleAssess, methodHoldings: n.handleHoldings}
}

const (
	methodObject = "node.object"
	methodDisks  = "node.disks"
)

func (n *Node) handleObject(body []byte) ([]byte, error) {
	var req objectRequest
	if err := json.Unmarshal(body, &req); err != nil {
		return nil, fmt.Errorf("%s: %v: %w", methodObject, err, sheepdog.ErrInvalid)
	}
	obj := sheepdog.ObjectID{Family: req.Family, Index: req.Index}
	part := obj.Partition()
	held := []sheepdog.LayerID{}
	err := n.engine.List(sheepdog.ListEntry{Object: obj}, func(p sheepdog.Partition) bool { return p == part }, func(e sheepdog.ListEntry) bool {
		if e.Object == obj {
			held = append(held, e.Layer)
		}
		return e.Object == obj
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(held)
}

// holding is what the nodes hold of one object.
type holding struct {
	node   sheepdog.Member
	layers []sheepdog.LayerID
	err    error
}

func (h *holding) has(ids []sheepdog.LayerID) bool {
	return slices.ContainsFunc(h.layers, func(id sheepdog.LayerID) bool { return slices.Contains(ids, id) })
}

// holdings asks all nodes that store for an object.
func (n *Node) holdings(ctx context.Context, obj sheepdog.ObjectID) ([]holding, error) {
	body, err := json.Marshal(objectRequest{Family: obj.Family, Index: obj.Index})
	if err != nil {
		return nil, err
	}
	var out []holding
	for _, m := range n.cluster.View().Members {
		if m.VNodes > 0 {
			out = append(out, holding{node: m})
		}
	}
	var wg sync.WaitGroup
	for i := range out {
		wg.Go(func() { out[i].err = n.call(ctx, out[i].node, methodObject, body, &out[i].layers) })
	}
	wg.Wait()
	return out, ctx.Err()
}

// found is the level in which an object of a VDI is read.
type found struct {
	level int // in levels; -1: nothing was written there
	nodes []holding
}

// find looks for an object from the newest level downwards.
func (n *Node) find(ctx context.Context, levels []level, index sheepdog.Index) (found, error) {
	out := found{level: -1}
	var asked sheepdog.FamilyID
	for i, l := range levels {
		if l.family.ID != asked {
			nodes, err := n.holdings(ctx, sheepdog.ObjectID{Family: l.family.ID, Index: index})
			if err != nil {
				return out, err
			}
			asked, out.nodes = l.family.ID, nodes
		}
		for j := range out.nodes {
			if out.nodes[j].has(l.ids) {
				out.level = i
				return out, nil
			}
		}
	}
	return out, nil
}

// LocateObject says which nodes hold an object, and which should.
func (b backend) LocateObject(ctx context.Context, q *api.ObjectQuery) (*api.ObjectLocation, error) {
	e, levels, err := b.object(ctx, q)
	if err != nil {
		return nil, err
	}
	f, err := b.n.find(ctx, levels, sheepdog.Index(q.Index))
	if err != nil {
		return nil, err
	}
	out := &api.ObjectLocation{Name: q.Name, ID: api.VID(e.VID), Index: q.Index, Copies: e.Policy}
	at := levels[0]
	if f.level >= 0 {
		at = levels[f.level]
		out.Allocated, out.Copies = true, at.family.Policy.Guests()
		out.Object = api.ObjectID{Owner: ownerOf(levels, f.level, b.n.owners()), Index: q.Index}
	}
	for i := range f.nodes {
		h := &f.nodes[i]
		node := api.ObjectNode{Node: apiNode(h.node), Holds: f.level >= 0 && h.has(at.ids)}
		if h.err != nil {
			node.Error = h.err.Error()
		}
		out.Nodes = append(out.Nodes, node)
	}
	v := b.n.cluster.View()
	if at.family.Policy.IsStrips() {
		part := sheepdog.ObjectID{Family: at.family.ID, Index: sheepdog.Index(q.Index)}.Partition()
		for _, id := range b.n.rings.place(v, at.family.Policy.Zones())[part] {
			out.Wanted = append(out.Wanted, b.n.addrOf(id))
		}
	}
	if p, ok := v.Placement(at.family.Policy, sheepdog.ObjectID{Family: at.family.ID, Index: sheepdog.Index(q.Index)}.Partition()); ok {
		for _, id := range p.Target {
			out.Wanted = append(out.Wanted, b.n.addrOf(id))
		}
	}
	return out, nil
}

// object finds what an object query is about, and refuses indexes beyond the
// end of the VDI.
func (b backend) object(ctx context.Context, q *api.ObjectQuery) (directory.Entry, []level, error) {
	if err := b.n.ready(ctx); err != nil {
		return directory.Entry{}, nil, err
	}
	e, err := b.n.entry(q.Name, q.Snapshot)
	if err != nil {
		return e, nil, err
	}
	if n := objectsOf(&e); uint64(q.Index) >= n {
		return e, nil, fmt.Errorf("VDI %s has %d objects; index %d is beyond its end: %w", q.Name, n, q.Index, sheepdog.ErrInvalid)
	}
	levels := b.n.levels(e.Layer)
	if len(levels) == 0 {
		return e, nil, fmt.Errorf("VDI %s was deleted: %w", q.Name, sheepdog.ErrNotFound)
	}
	return e, levels, nil
}

// objectsOf is how many objects the size of a VDI has.
func objectsOf(e *directory.Entry) uint64 {
	return (e.Size + 1<<e.BlockSizeShift - 1) >> e.BlockSizeShift
}

// atLevels has somebody look at what a layer reads, again while replicas have
// dropped some of it that the directory here still lists.
func (n *Node) atLevels(ctx context.Context, layer sheepdog.LayerID, look func([]level) error) error {
	for {
		changed := n.dir.Changed()
		err := look(n.levels(layer))
		if _, listed := n.dir.Layer(layer); !listed || !errors.Is(err, sheepdog.ErrNotFound) {
			return err
		}
		select {
		case <-changed:
		case <-time.After(newsPause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// newsPause is how long to wait for what other nodes know.
const newsPause = 20 * time.Millisecond

// indexes visits every index that the levels, newest first, may hold, from the
// oldest level upwards: what a replica moves up meanwhile is met at least once.
func (n *Node) indexes(ctx context.Context, levels []level, visit func(level int, index sheepdog.Index)) error {
	for i, l := range slices.Backward(levels) {
		scope := sheepdog.Scope{Family: l.family.ID, Policy: l.family.Policy}
		at := func(index sheepdog.Index) { visit(i, index) }
		if scope.Policy.IsStrips() {
			if err := n.coded.Indexes(ctx, l.layer, at); err != nil {
				return err
			}
			continue
		}
		for _, id := range slices.Backward(l.ids) {
			if err := n.gateway.LayerIndexes(ctx, scope, id, at); err != nil {
				return err
			}
		}
	}
	return nil
}

// MapObjects lists which VDI or snapshot has written each object that is read.
func (b backend) MapObjects(ctx context.Context, q *api.ObjectQuery) (*api.ObjectMap, error) {
	e, _, err := b.object(ctx, q)
	if err != nil {
		return nil, err
	}
	var at map[sheepdog.Index]api.VID
	err = b.n.atLevels(ctx, e.Layer, func(levels []level) error {
		owners := b.n.owners()
		at = make(map[sheepdog.Index]api.VID)
		return b.n.indexes(ctx, levels, func(i int, index sheepdog.Index) {
			if uint32(index) >= q.Index && uint64(index) < objectsOf(&e) {
				at[index] = ownerOf(levels, i, owners) // the newest comes last
			}
		})
	})
	if err != nil {
		return nil, err
	}
	out := &api.ObjectMap{Name: q.Name, ID: api.VID(e.VID)}
	for index, owner := range at {
		out.Objects = append(out.Objects, api.MappedObject{Index: uint32(index), Owner: owner})
	}
	slices.SortFunc(out.Objects, func(a, b api.MappedObject) int { return cmp.Compare(a.Index, b.Index) })
	if len(out.Objects) > api.MaxMapped {
		out.Objects, out.More = out.Objects[:api.MaxMapped], true
	}
	return out, nil
}

// trackedEpochs bounds how many epochs are placed anew for one answer.
const trackedEpochs = 64

// TrackObject computes where the newest epochs wanted an object.
func (b backend) TrackObject(ctx context.Context, q *api.ObjectQuery) (*api.ObjectTrack, error) {
	e, levels, err := b.object(ctx, q)
	if err != nil {
		return nil, err
	}
	f, err := b.n.find(ctx, levels, sheepdog.Index(q.Index))
	if err != nil {
		return nil, err
	}
	i := max(f.level, 0)
	fam := levels[i].family
	out := &api.ObjectTrack{Name: q.Name, ID: api.VID(e.VID), Index: q.Index, Copies: fam.Policy.Guests(),
		Object: api.ObjectID{Owner: ownerOf(levels, i, b.n.owners()), Index: q.Index}}
	part := sheepdog.ObjectID{Family: fam.ID, Index: sheepdog.Index(q.Index)}.Partition()
	history := slices.Clone(b.n.cluster.History())
	slices.SortFunc(history, func(a, b stateEpoch) int { return cmp.Compare(b.Epoch, a.Epoch) })
	for _, r := range history[:min(len(history), trackedEpochs)] {
		epoch := api.ObjectEpoch{Epoch: r.Epoch, Time: r.Time, Addrs: []string{}}
		for _, id := range ring.Place(r.Members, fam.Policy.Width())[part] {
			for _, m := range r.Members {
				if m.ID == id {
					epoch.Addrs = append(epoch.Addrs, m.Addr)
				}
			}
		}
		out.Epochs = append(out.Epochs, epoch)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// ChangedObjects lists the objects of the layers that only one of two states
// reads: outside of these both read the same.
func (b backend) ChangedObjects(ctx context.Context, q *api.ChangeQuery) (*api.ChangeList, error) {
	if err := b.n.ready(ctx); err != nil {
		return nil, err
	}
	to, err := b.n.entry(q.Name, q.To)
	if err != nil {
		return nil, err
	}
	var from directory.Entry
	if q.From != "" {
		if from, err = b.n.entry(q.Name, q.From); err != nil {
			return nil, err
		}
	}
	var seen map[sheepdog.Index]bool
	err = b.n.atLevels(ctx, to.Layer, func(differ []level) error {
		seen = make(map[sheepdog.Index]bool)
		if q.From != "" {
			differ = onlyInOne(differ, b.n.levels(from.Layer))
		}
		return b.n.indexes(ctx, differ, func(_ int, i sheepdog.Index) {
			if uint32(i) >= q.Index && uint64(i) < objectsOf(&to) {
				seen[i] = true
			}
		})
	})
	if err != nil {
		return nil, err
	}
	out := &api.ChangeList{Indexes: make([]uint32, 0, len(seen))}
	for i := range seen {
		out.Indexes = append(out.Indexes, uint32(i))
	}
	slices.Sort(out.Indexes)
	if len(out.Indexes) > api.MaxMapped {
		out.Indexes, out.More = out.Indexes[:api.MaxMapped], true
	}
	return out, nil
}

func onlyInOne(a, b []level) []level {
	in := func(list []level, l level) bool {
		return slices.ContainsFunc(list, func(o level) bool { return o.layer == l.layer })
	}
	var out []level
	for _, l := range a {
		if !in(b, l) {
			out = append(out, l)
		}
	}
	for _, l := range b {
		if !in(a, l) {
			out = append(out, l)
		}
	}
	return out
}

// readers keeps the entries that read the object which the VDI or snapshot
// id.Owner has written.
func (n *Node) readers(ctx context.Context, entries []directory.Entry, id api.ObjectID) ([]directory.Entry, error) {
	owners := n.owners()
	var out []directory.Entry
	for _, e := range entries {
		levels := n.levels(e.Layer)
		ours := false
		for i := range levels {
			ours = ours || ownerOf(levels, i, owners) == id.Owner
		}
		if !ours || uint64(id.Index) >= objectsOf(&e) {
			continue // nobody need be asked
		}
		f, err := n.find(ctx, levels, sheepdog.Index(id.Index))
		if err != nil {
			return nil, err
		}
		if f.level >= 0 && ownerOf(levels, f.level, owners) == id.Owner {
			out = append(out, e)
		}
	}
	return out, nil
}
