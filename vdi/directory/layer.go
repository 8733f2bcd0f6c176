package directory

import (
	"cmp"
	"slices"
	"sync/atomic"

	"sheepdog"
)

// Layer is one generation of a family's data, as committed. It is immutable;
// do not change Absorbed.
type Layer struct {
	ID     sheepdog.LayerID  `json:"id"`
	Family sheepdog.FamilyID `json:"family"`
	// Parent is the next older layer of the family; 0 for the lowest.
	Parent sheepdog.LayerID `json:"parent,omitempty"`
	// Base is a frozen layer of another family; only a lowest layer has one.
	Base sheepdog.LayerID `json:"base,omitempty"`
	// Frozen layers never change; only the working layer of a VDI is not frozen.
	Frozen bool `json:"frozen,omitempty"`
	// Written layers may hold blocks. A coordinator makes this true by
	// MarkWritten before its first write, so a layer without it is empty.
	Written bool `json:"written,omitempty"`
	// Absorbed are layers that were deleted and whose blocks belong to this one
	// now, newest first. A node merges them in this order.
	Absorbed []sheepdog.LayerID `json:"absorbed,omitempty"`
	// Strips is set for a coded layer: its strips are stored under as many ids,
	// from ID upwards. Objects is how many objects it has, once it is complete;
	// Encoder is the process that makes it, until then.
	Strips  uint8       `json:"strips,omitempty"`
	Objects uint64      `json:"objects,omitempty"`
	Encoder Coordinator `json:"encoder,omitzero"`
	// Lost are objects of a complete coded layer of which too few strips are left for
	// ever (see Lose), and some of which it is not known whether there were any. Left
	// is how many objects the layer has besides, if there are any Lost.
	Lost IndexList `json:"lost,omitempty"`
	Left uint64    `json:"left,omitempty"`
	// Coding is the policy D:P to which this frozen layer is to be encoded; zero:
	// that of its family, if that has parity.
	Coding sheepdog.Policy `json:"coding,omitzero"`
	// Recoding is the coded layer that is being made of this frozen one. Retiring:
	// it was made, and is the base now; what was below before, Was, and the blocks
	// of this layer stay for those who do not know yet.
	Recoding sheepdog.LayerID `json:"recoding,omitempty"`
	Retiring bool             `json:"retiring,omitempty"`
	Was      sheepdog.LayerID `json:"was,omitempty"`
	// CreatedIndex is the Raft index of the command that made the layer.
	CreatedIndex uint64 `json:"createdIndex"`
}

// layerNode is the place of a layer in the graph. Its own id and those it
// absorbed lead to it.
type layerNode struct {
	// layer is nil once another layer has absorbed this one.
	layer atomic.Pointer[Layer]
	// path caches what is below; nil: not known. Readers set it under the read
	// lock, Apply clears it under the lock.
	path atomic.Pointer[path]

	// The rest is guarded by Directory.mu.
	refs     int // working VDI, snapshots, bases and encodings that name the layer
	children map[sheepdog.LayerID]*layerNode
	into     *layerNode // the one that absorbed it
}

// path is what reading from a layer downwards means.
type path struct {
	chain      []sheepdog.LayerID
	base       sheepdog.LayerID
	baseFamily sheepdog.FamilyID
}

// addLayer makes a layer with the next id and hangs it below its parent or
// base. Somebody must refer to it before the command ends.
func (s *state) addLayer(l Layer) *layerNode {
	s.lastLayer++
	l.ID, l.CreatedIndex = s.lastLayer, s.index
	n := &layerNode{}
	n.layer.Store(&l)
	s.layers.put(l.ID, n)
	s.sort(n)
	s.link(n)
	s.families.get(l.Family).layers++
	return n
}

func (n *layerNode) id() sheepdog.LayerID { return n.layer.Load().ID }

// link makes the layer known to its parent or base.
func (s *state) link(n *layerNode) {
	l := n.layer.Load()
	if l.Parent != 0 {
		s.layers.get(l.Parent).adopt(n)
	}
	if l.Base != 0 {
		s.layers.get(l.Base).refs++
	}
}

func (n *layerNode) adopt(child *layerNode) {
	if n.children == nil {
		n.children = make(map[sheepdog.LayerID]*layerNode, 1)
	}
	n.children[child.id()] = child
}

// change publishes a changed copy of the layer.
func (s *state) change(n *layerNode, change func(*Layer)) {
	old := n.layer.Load()
	l := *old
	change(&l)
	n.layer.Store(&l)
	s.sort(n)
	if l.empty() && !old.empty() {
		s.changes.depart(l.ID)
	}
}

// unref takes one direct reference from a layer and lets go of what nobody
// needs any more.
func (s *state) unref(n *layerNode) {
	n.refs--
	for n != nil {
		n = s.settle(n)
	}
}

// settle drops, absorbs or bypasses a layer that nobody names. It returns the
// layer below that this may have left without a user; nil if there is none.
func (s *state) settle(n *layerNode) *layerNode {
	switch {
	case n.refs > 0:
	case len(n.children) == 0:
		return s.drop(n)
	case !n.layer.Load().Written:
		s.bypass(n)
	case len(n.children) == 1:
		s.absorb(n)
	}
	return nil
}

// drop forgets a layer that has nothing above it.
func (s *state) drop(n *layerNode) *layerNode {
	l := n.layer.Load()
	for _, id := range append(l.stripIDs(), l.Absorbed...) {
		s.unlist(id)
	}
	s.forget(n, l)
	switch {
	case l.Parent != 0:
		parent := s.layers.get(l.Parent)
		delete(parent.children, l.ID)
		return parent
	case l.Base != 0:
		base := s.layers.get(l.Base)
		base.refs--
		return base
	}
	return nil
}

// unlist forgets an id: what is stored under it is garbage.
func (s *state) unlist(id sheepdog.LayerID) {
	s.layers.remove(id)
	s.changes.depart(id)
}

// forget takes a layer out of the count of its family, and the family out of
// the directory after its last layer.
func (s *state) forget(n *layerNode, l *Layer) {
	delete(s.absorbing, l.ID)
	n.layer.Store(nil)
	n.path.Store(nil)
	s.unsort(l)
	f := s.families.get(l.Family)
	f.layers--
	if f.layers == 0 {
		s.families.remove(l.Family)
		s.emptied = append(s.emptied, f)
	}
}

// absorb gives a written layer to the one child it has. The chains through the
// child stay as they are: the same ids in the same order.
func (s *state) absorb(n *layerNode) {
	l := n.layer.Load()
	child := n.onlyChild()
	c := child.layer.Load()
	delete(n.children, c.ID)
	s.change(child, func(c *Layer) {
		c.Parent, c.Base, c.Written = l.Parent, l.Base, true
		c.Absorbed = append(append(c.Absorbed, l.ID), l.Absorbed...)
	})
	if l.Parent != 0 {
		parent := s.layers.get(l.Parent)
		delete(parent.children, l.ID)
		parent.adopt(child)
	}
	s.absorbing[c.ID] = child
	s.forget(n, l)
	n.into = child
}

// bypass forgets an empty layer. Being empty, it is in no chain but its own,
// and has no parent: only a family's first layer can be frozen empty.
func (s *state) bypass(n *layerNode) {
	l := n.layer.Load()
	for _, child := range n.children {
		s.change(child, func(c *Layer) { c.Parent, c.Base = l.Parent, l.Base })
		s.link(child)
	}
	s.forget(n, l)
	s.unlist(l.ID)
	if l.Base != 0 {
		s.layers.get(l.Base).refs--
	}
}

func (n *layerNode) onlyChild() *layerNode {
	for _, c := range n.children {
		return c
	}
	return nil
}

// owner is the node of the layer that a physical layer belongs to.
func (n *layerNode) owner() *layerNode {
	for n.into != nil {
		n = n.into
	}
	return n
}

// spread clears the cached paths of the layer and of all layers above it.
func (n *layerNode) spread() {
	stack := []*layerNode{n}
	for len(stack) > 0 {
		n := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		n.path.Store(nil)
		for _, c := range n.children {
			stack = append(stack, c)
		}
	}
}

// Below is the layer that a reader looks into next: in the family, or under its lowest
// layer in another; 0: there is none.
func (l *Layer) Below() sheepdog.LayerID { return cmp.Or(l.Parent, l.Base) }

// holds reports whether the layer has blocks of its own below somebody's chain.
func (l *Layer) holds() bool { return l.Written || !l.Frozen }

// resolve computes the path of a layer from its family's layers.
func (s *state) resolve(n *layerNode) *path {
	l := n.layer.Load()
	chain := append([]sheepdog.LayerID{l.ID}, l.Absorbed...)
	for l.Parent != 0 {
		below := s.layers.get(l.Parent)
		l = below.layer.Load()
		if p := below.path.Load(); p != nil {
			if !l.holds() {
				return &path{chain: chain, base: p.base, baseFamily: p.baseFamily}
			}
			return &path{chain: slices.Concat(chain, p.chain), base: p.base, baseFamily: p.baseFamily}
		}
		if l.holds() {
			chain = append(append(chain, l.ID), l.Absorbed...)
		}
	}
	p := &path{chain: slices.Clip(chain), base: l.Base}
	if p.base != 0 {
		p.baseFamily = s.layers.get(p.base).layer.Load().Family
	}
	return p
}

// solid is the layer with blocks that an empty frozen layer stands for: a clone
// of it needs no empty layers in its path. Zero: all holes.
func (s *state) solid(id sheepdog.LayerID) sheepdog.LayerID {
	for id != 0 {
		l := s.layers.get(id).layer.Load()
		if l.Written {
			return id
		}
		id = l.Parent + l.Base // at most one of them is set
	}
	return 0
}
