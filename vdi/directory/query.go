package directory

import (
	"cmp"
	"maps"
	"slices"

	"sheepdog"
)

// Layer finds a layer. An absorbed id is no layer any more: see Owner.
func (d *Directory) Layer(id sheepdog.LayerID) (Layer, bool) {
	n := d.state.Load().layers.get(id)
	if n == nil {
		return Layer{}, false
	}
	l := n.layer.Load()
	if l == nil {
		return Layer{}, false
	}
	out := *l
	out.Absorbed = slices.Clip(out.Absorbed)
	return out, true
}

// Chain lists the ids under which blocks of a layer and of those below it in
// its family may be stored, newest first, what they absorbed included. The
// slice is shared: do not change it. False if there is no such layer.
func (d *Directory) Chain(id sheepdog.LayerID) ([]sheepdog.LayerID, bool) {
	p := d.path(id)
	if p == nil {
		return nil, false
	}
	return p.chain, true
}

// BaseOf is the layer of another family in which a block is looked up that the
// whole chain of a layer does not have, and its family; 0 if it is a hole then.
// False if there is no such layer.
func (d *Directory) BaseOf(id sheepdog.LayerID) (base sheepdog.LayerID, family sheepdog.FamilyID, ok bool) {
	p := d.path(id)
	if p == nil {
		return 0, 0, false
	}
	return p.base, p.baseFamily, true
}

// path is the cached path of a layer; the first call after a change computes it
// under the read lock.
func (d *Directory) path(id sheepdog.LayerID) *path {
	n := d.state.Load().layers.get(id)
	if n == nil {
		return nil
	}
	if p := n.path.Load(); p != nil {
		return p
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	s := d.state.Load()
	n = s.layers.get(id)
	if n == nil || n.layer.Load() == nil {
		return nil
	}
	p := s.resolve(n)
	n.path.Store(p)
	return p
}

// Logical lists a layer and what it absorbed, newest first; nil if there is no
// such layer.
func (d *Directory) Logical(id sheepdog.LayerID) []sheepdog.LayerID {
	l, ok := d.Layer(id)
	if !ok {
		return nil
	}
	return append([]sheepdog.LayerID{id}, l.Absorbed...)
}

// Owner is the layer that a stored layer belongs to: itself, or the one that
// absorbed it, or the coded layer that it is a strip of. False if it is not
// listed, or if it is empty for good: what is stored under it is nobody's.
func (d *Directory) Owner(id sheepdog.LayerID) (sheepdog.LayerID, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	n := d.state.Load().layers.get(id)
	if n == nil {
		return 0, false
	}
	l := n.owner().layer.Load()
	return l.ID, !l.empty()
}

// Listed reports whether a layer exists or is absorbed by one that does.
func (d *Directory) Listed(id sheepdog.LayerID) bool {
	return d.state.Load().layers.get(id) != nil
}

// Dropped reports whether a layer existed and is listed no more, or is empty for
// good, so that what a node stores of it is garbage for ever. A layer that this node has not heard
// of yet is not dropped.
func (d *Directory) Dropped(id sheepdog.LayerID) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	s := d.state.Load()
	if n := s.layers.get(id); n != nil {
		return n.owner().layer.Load().empty()
	}
	return id != 0 && id <= s.lastLayer
}

// NextLayer is above every layer that there ever was.
func (d *Directory) NextLayer() sheepdog.LayerID {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.state.Load().lastLayer + 1
}

// Family finds a family.
func (d *Directory) Family(id sheepdog.FamilyID) (Family, bool) {
	n := d.state.Load().families.get(id)
	if n == nil {
		return Family{}, false
	}
	return *n.family.Load(), true
}

// Families lists all families by id.
func (d *Directory) Families() []Family {
	d.mu.RLock()
	var out []Family
	d.state.Load().families.all(func(_ sheepdog.FamilyID, n *familyNode) { out = append(out, *n.family.Load()) })
	d.mu.RUnlock()
	slices.SortFunc(out, func(a, b Family) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Lock says who coordinates a VDI.
type Lock struct {
	Name        string
	VID         sheepdog.VID
	Family      sheepdog.FamilyID
	Token       sheepdog.Token
	Coordinator Coordinator
}

// Locks lists the VDIs that have a coordinator, by VDI id.
func (d *Directory) Locks() []Lock {
	var out []Lock
	for _, f := range d.Families() {
		if !f.Coordinator.IsZero() {
			out = append(out, Lock{Name: f.Name, VID: f.VID, Family: f.ID, Token: f.Token, Coordinator: f.Coordinator})
		}
	}
	slices.SortFunc(out, func(a, b Lock) int { return cmp.Compare(a.VID, b.VID) })
	return out
}

// Absorbing lists the layers that have Absorbed ids, by id: the work of whoever
// merges.
func (d *Directory) Absorbing() []Layer {
	d.mu.RLock()
	var out []Layer
	for _, n := range d.state.Load().absorbing {
		l := *n.layer.Load()
		l.Absorbed = slices.Clip(l.Absorbed)
		out = append(out, l)
	}
	d.mu.RUnlock()
	slices.SortFunc(out, func(a, b Layer) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Lookup finds a working VDI by name. The error wraps ErrNoVDI.
func (d *Directory) Lookup(name string) (VDI, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	r, err := d.state.Load().working(name)
	if err != nil {
		return VDI{}, err
	}
	return *r.vdi, nil
}

// LookupOrigin finds the working VDI of that origin, wherever its data and
// whatever its name are by now; false if it was deleted. It looks at all VDIs.
func (d *Directory) LookupOrigin(origin uint64) (VDI, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, r := range d.state.Load().names {
		if r.vdi != nil && r.vdi.Origin == origin && r.trash == nil && origin != 0 {
			return *r.vdi, true
		}
	}
	return VDI{}, false
}

// LookupSnapshot finds a snapshot by tag or decimal id. The error wraps ErrNoVDI
// if nothing has the name, else ErrNoSnapshot.
func (d *Directory) LookupSnapshot(name, ref string) (Entry, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	_, snap, err := d.state.Load().snapshot(name, ref)
	if err != nil {
		return Entry{}, err
	}
	return *snap, nil
}

// ByVID finds a working VDI or snapshot by its id, but not in the trash.
func (d *Directory) ByVID(vid sheepdog.VID) (Entry, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	h, ok := d.state.Load().vids[vid]
	if !ok || h.rec.trash != nil {
		return Entry{}, false
	}
	return h.entry(), true
}

// Attr is the value of an attribute of a working VDI, or of a snapshot if ref
// is not empty; do not change it. The error wraps ErrNoVDI, ErrNoSnapshot or
// ErrNoAttr.
func (d *Directory) Attr(name, ref, key string) ([]byte, error) {
	attrs, err := d.attributes(name, ref)
	if err != nil {
		return nil, err
	}
	value, ok := attrs[key]
	if !ok {
		return nil, noAttr(name, key)
	}
	return value, nil
}

// Attrs lists the attribute keys of a VDI or snapshot in order. The error wraps
// ErrNoVDI or ErrNoSnapshot.
func (d *Directory) Attrs(name, ref string) ([]string, error) {
	attrs, err := d.attributes(name, ref)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(attrs)), nil
}

// attributes is a map that never changes.
func (d *Directory) attributes(name, ref string) (map[string][]byte, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	s := d.state.Load()
	if ref == "" {
		r, err := s.working(name)
		if err != nil {
			return nil, err
		}
		return maps.Clone(r.attrs), nil
	}
	_, snap, err := s.snapshot(name, ref)
	if err != nil || snap.Attrs == nil {
		return nil, err
	}
	return *snap.Attrs, nil
}
