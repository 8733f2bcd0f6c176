package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/vdi/directory"
)

// layerPair is a frozen layer and the one above it in its family.
type layerPair struct {
	Below sheepdog.LayerID `json:"below"`
	Above sheepdog.LayerID `json:"above"`
}

// spaceRequest is the body of methodSpace; see layersRequest.
type spaceRequest struct {
	Applied uint64      `json:"applied"`
	Pairs   []layerPair `json:"pairs"`
}

// spaceReply is the data of one node in bytes: of every layer with what it
// absorbed, and of each pair of the request, in its order, the part of the lower
// layer that the upper one hides: it goes when the two are merged.
type spaceReply struct {
	Layers map[sheepdog.LayerID]uint64 `json:"layers"`
	Hidden []uint64                    `json:"hidden"`
}

// layerSpace is what the nodes told, added up.
type layerSpace struct {
	layers map[sheepdog.LayerID]uint64
	hidden map[layerPair]uint64
}

// forest is who needs which layers: how many VDIs and snapshots name each, and
// which layers lie directly on it.
type forest struct {
	layer  func(sheepdog.LayerID) (directory.Layer, bool)
	named  map[sheepdog.LayerID]int
	above  map[sheepdog.LayerID][]sheepdog.LayerID
	linked map[sheepdog.LayerID]bool
}

// newForest begins with the layers that are named.
func newForest(layer func(sheepdog.LayerID) (directory.Layer, bool), named []sheepdog.LayerID) *forest {
	f := &forest{layer: layer, named: make(map[sheepdog.LayerID]int), above: make(map[sheepdog.LayerID][]sheepdog.LayerID), linked: make(map[sheepdog.LayerID]bool)}
	for _, id := range named {
		f.named[id]++
		for id != 0 && !f.linked[id] {
			f.linked[id] = true
			below := f.below(id)
			if below != 0 {
				f.above[below] = append(f.above[below], id)
			}
			id = below
		}
	}
	return f
}

func (f *forest) below(id sheepdog.LayerID) sheepdog.LayerID {
	l, _ := f.layer(id)
	if l.Parent != 0 {
		return l.Parent
	}
	return l.Base
}

// doomed says what the end of one VDI or snapshot with this layer does: these
// layers go, and if merges is true these two are merged.
func (f *forest) doomed(id sheepdog.LayerID) (gone []sheepdog.LayerID, pair layerPair, merges bool) {
	if f.named[id] > 1 {
		return nil, pair, false
	}
	var last sheepdog.LayerID // that went
	for names := 1; id != 0 && f.named[id] <= names; names = 0 {
		rest := slices.DeleteFunc(slices.Clone(f.above[id]), func(a sheepdog.LayerID) bool { return a == last })
		if len(rest) > 0 {
			if len(rest) > 1 {
				return gone, pair, false
			}
			l, _ := f.layer(rest[0])
			return gone, layerPair{Below: id, Above: rest[0]}, l.Parent == id
		}
		gone = append(gone, id)
		last, id = id, f.below(id)
	}
	return gone, pair, false
}

// exclusive is how many bytes are freed when one VDI or snapshot goes.
func (f *forest) exclusive(id sheepdog.LayerID, s *layerSpace) (n uint64) {
	gone, pair, merges := f.doomed(id)
	for _, l := range gone {
		n += s.layers[l]
	}
	if merges {
		n += s.hidden[pair]
	}
	return n
}

// reads is how many bytes all the layers have that one reads through.
func (f *forest) reads(id sheepdog.LayerID, s *layerSpace) (n uint64) {
	for ; id != 0; id = f.below(id) {
		n += s.layers[id]
	}
	return n
}

// pairs lists those that some layers' end would merge.
func (f *forest) pairs(ids []sheepdog.LayerID) []layerPair {
	set := make(map[layerPair]bool)
	for _, id := range ids {
		if _, pair, merges := f.doomed(id); merges {
			set[pair] = true
		}
	}
	return slices.Collect(maps.Keys(set))
}

// fillSpace puts the bytes on disks into the descriptions of entries.
func (n *Node) fillSpace(ctx context.Context, entries []directory.Entry, out []api.VDI) error {
	var named, wanted []sheepdog.LayerID
	for _, e := range n.dir.List() {
		named = append(named, e.Layer)
	}
	for _, t := range n.dir.Trash() {
		named = append(named, t.Layer)
	}
	for i := range entries {
		wanted = append(wanted, entries[i].Layer)
	}
	f := newForest(n.dir.Layer, named)
	s, err := n.layerSpaces(ctx, f.pairs(wanted))
	if err != nil || s == nil {
		return err
	}
	for i := range entries {
		own, exclusive := s.layers[entries[i].Layer], f.exclusive(entries[i].Layer, s)
		shared := f.reads(entries[i].Layer, s)
		shared -= min(shared, exclusive)
		out[i].PhysicalBytes, out[i].ExclusiveBytes, out[i].SharedPhysicalBytes = &own, &exclusive, &shared
	}
	return nil
}

// layerSpaces asks every node for the bytes of its layers; nil if they have
// stores that do not count.
func (n *Node) layerSpaces(ctx context.Context, pairs []layerPair) (*layerSpace, error) {
	s := &layerSpace{layers: make(map[sheepdog.LayerID]uint64), hidden: make(map[layerPair]uint64)}
	counted := true
	err := askStoring(ctx, n, methodSpace, spaceRequest{Applied: n.dir.Applied(), Pairs: pairs}, func(one spaceReply) {
		counted = counted && one.Layers != nil
		for id, bytes := range one.Layers {
			s.layers[id] += bytes
		}
		for i, bytes := range one.Hidden[:min(len(one.Hidden), len(pairs))] {
			s.hidden[pairs[i]] += bytes
		}
	})
	if err != nil {
		return nil, fmt.Errorf("ask for space on disks: %w", err)
	}
	if !counted {
		return nil, nil
	}
	return s, nil
}

// spaceAge is how long what a node counted is told again: a minute is promised,
// and whoever asks may have waited for it.
const spaceAge = 30 * time.Second

// spaceCache is what this node counted last.
type spaceCache struct {
	mu     sync.Mutex
	at     time.Time
	layers map[sheepdog.LayerID]uint64 // as the store names them
	hidden map[layerPair]uint64
}

// counter is an engine that counts the bytes of its layers.
type counter interface {
	LayerBytes() (map[sheepdog.LayerID]uint64, error)
}

// handleSpace answers methodSpace.
func (n *Node) handleSpace(ctx context.Context, body []byte) ([]byte, error) {
	var req spaceRequest
	if err := json.Unmarshal(body, &req); err != nil {
		return nil, fmt.Errorf("%s: %v: %w", methodSpace, err, sheepdog.ErrInvalid)
	}
	if err := n.awaitDirectory(ctx, req.Applied); err != nil {
		return nil, err
	}
	count, ok := n.engine.(counter)
	if !ok {
		return json.Marshal(spaceReply{})
	}
	reply, err := n.countSpace(ctx, count, req.Pairs)
	if err != nil {
		return nil, err
	}
	return json.Marshal(reply)
}

func (n *Node) countSpace(ctx context.Context, count counter, pairs []layerPair) (reply spaceReply, err error) {
	c := &n.spaces
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.at) > spaceAge {
		began := time.Now()
		if c.layers, err = count.LayerBytes(); err != nil {
			return reply, err
		}
		c.at, c.hidden = began, make(map[layerPair]uint64)
	}
	reply.Layers = make(map[sheepdog.LayerID]uint64, len(c.layers))
	for id, bytes := range c.layers {
		if owner, ok := n.dir.Owner(id); ok {
			reply.Layers[owner] += bytes
		}
	}
	reply.Hidden = make([]uint64, len(pairs))
	for i, p := range pairs {
		bytes, known := c.hidden[p]
		if !known {
			if bytes, err = n.hiddenBytes(ctx, p); err != nil {
				return reply, err
			}
			c.hidden[p] = bytes
		}
		reply.Hidden[i] = bytes
	}
	return reply, nil
}

// hiddenBytes counts the data of a layer on this node in blocks that the layer
// above has too. It reads the maps of the objects that are in both.
func (n *Node) hiddenBytes(ctx context.Context, p layerPair) (sum uint64, err error) {
	l, ok := n.dir.Layer(p.Below)
	f, known := n.dir.Family(l.Family)
	if !ok || !known {
		return 0, nil
	}
	below, err := n.layerObjects(p.Below)
	if err != nil {
		return 0, err
	}
	above, err := n.layerObjects(p.Above)
	if err != nil {
		return 0, err
	}
	blocks := uint32(1) << (f.BlockSizeShift - 12)
	lower, upper := make([]sheepdog.Record, min(blocks, recordsAtOnce)), make([]sheepdog.Record, min(blocks, recordsAtOnce))
	for index := range above {
		if !below[index] {
			continue
		}
		obj := sheepdog.ObjectID{Family: l.Family, Index: index}
		for at := uint32(0); at < blocks; at += recordsAtOnce {
			count := min(blocks-at, recordsAtOnce)
			err := errors.Join(ctx.Err(),
				n.engine.Records(obj, n.dir.Logical(p.Below), sheepdog.BlockNo(at), count, lower[:count]),
				n.engine.Records(obj, n.dir.Logical(p.Above), sheepdog.BlockNo(at), count, upper[:count]))
			if err != nil {
				return 0, err
			}
			sum += uint64(covered(lower[:count], upper[:count])) * sheepdog.BlockSize
		}
	}
	return sum, nil
}

// recordsAtOnce bounds a request for records, in blocks.
const recordsAtOnce = 1024

// covered counts the blocks of data that lie under something.
func covered(lower, upper []sheepdog.Record) (n int) {
	for i := range lower {
		if lower[i].State == sheepdog.Data && upper[i].State != sheepdog.Absent {
			n++
		}
	}
	return n
}
