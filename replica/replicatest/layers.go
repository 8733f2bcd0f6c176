package replicatest

import (
	"slices"
	"sync"

	"sheepdog"
)

type layer struct {
	family   sheepdog.FamilyID
	parent   sheepdog.LayerID
	frozen   bool
	absorbed []sheepdog.LayerID // newest first
}

// Layers is a VDI directory that is changed by hand.
type Layers struct {
	mu       sync.Mutex
	layers   map[sheepdog.LayerID]*layer
	tokens   map[sheepdog.FamilyID]sheepdog.Token
	leaders  map[sheepdog.FamilyID]sheepdog.NodeID // coordinators' nodes
	families map[sheepdog.FamilyID]sheepdog.Policy
	shifts   map[sheepdog.FamilyID]uint8 // of objects that are not of the default size
	next     sheepdog.LayerID
	version  uint64
	departed []sheepdog.LayerID
	changed  chan struct{}
}

// NewLayers is a directory with nothing in it.
func NewLayers() *Layers {
	return &Layers{layers: make(map[sheepdog.LayerID]*layer), tokens: make(map[sheepdog.FamilyID]sheepdog.Token), leaders: make(map[sheepdog.FamilyID]sheepdog.NodeID),
		families: make(map[sheepdog.FamilyID]sheepdog.Policy), shifts: make(map[sheepdog.FamilyID]uint8), next: 1, changed: make(chan struct{})}
}

// update runs a change and wakes who waits.
func (d *Layers) update(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
	d.version++
	close(d.changed)
	d.changed = make(chan struct{})
}

// Add lists a layer on top of parent, and its family under Policy.
func (d *Layers) Add(id sheepdog.LayerID, family sheepdog.FamilyID, parent sheepdog.LayerID) {
	d.update(func() {
		d.layers[id] = &layer{family: family, parent: parent}
		d.families[family] = Policy
		d.next = max(d.next, id+1)
	})
}

// Freeze makes a layer refuse writes.
func (d *Layers) Freeze(id sheepdog.LayerID) { d.update(func() { d.layers[id].frozen = true }) }

// Remove stops listing a layer.
func (d *Layers) Remove(id sheepdog.LayerID) {
	d.update(func() {
		d.departed = append(d.departed, id)
		if l := d.layers[id]; l != nil {
			d.departed = append(d.departed, l.absorbed...)
		}
		delete(d.layers, id)
	})
}

// Departed implements recovery.Layers; it is complete but from 0 on.
func (d *Layers) Departed(after uint64) (ids []sheepdog.LayerID, upTo uint64, complete bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	upTo = uint64(len(d.departed)) + 1
	if after == 0 {
		return nil, upTo, false
	}
	return slices.Clone(d.departed[after-1:]), upTo, true
}

// Absorb deletes the layer from, whose only child is into.
func (d *Layers) Absorb(from, into sheepdog.LayerID) {
	d.update(func() {
		to, gone := d.layers[into], d.layers[from]
		to.absorbed = append(append(to.absorbed, from), gone.absorbed...)
		to.parent = gone.parent
		delete(d.layers, from)
	})
}

// Appoint commits the token of a family.
func (d *Layers) Appoint(family sheepdog.FamilyID, token sheepdog.Token) {
	d.update(func() { d.tokens[family] = token })
}

// Lead says at which node the coordinator of a family is.
func (d *Layers) Lead(family sheepdog.FamilyID, at sheepdog.NodeID) {
	d.update(func() { d.leaders[family] = at })
}

// Coordinator implements replica.Layers.
func (d *Layers) Coordinator(family sheepdog.FamilyID) sheepdog.NodeID {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.leaders[family]
}

// Resize makes the objects of a family of another size.
func (d *Layers) Resize(family sheepdog.FamilyID, shift uint8) {
	d.update(func() { d.shifts[family] = shift })
}

// ObjectShift implements replica.Layers.
func (d *Layers) ObjectShift(family sheepdog.FamilyID) (uint8, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, known := d.families[family]
	if shift, ok := d.shifts[family]; ok {
		return shift, known
	}
	return sheepdog.DefaultObjectShift, known
}

// Chain implements replica.Layers.
func (d *Layers) Chain(id sheepdog.LayerID) []sheepdog.LayerID {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []sheepdog.LayerID
	for l := d.layers[id]; l != nil; l = d.layers[id] {
		out = append(append(out, id), l.absorbed...)
		id = l.parent
	}
	return out
}

// Logical implements replica.Layers.
func (d *Layers) Logical(id sheepdog.LayerID) []sheepdog.LayerID {
	d.mu.Lock()
	defer d.mu.Unlock()
	if l := d.layers[id]; l != nil {
		return append([]sheepdog.LayerID{id}, l.absorbed...)
	}
	return nil
}

// Owner implements replica.Layers.
func (d *Layers) Owner(id sheepdog.LayerID) (sheepdog.LayerID, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.layers[id] != nil {
		return id, true
	}
	for owner, l := range d.layers {
		if slices.Contains(l.absorbed, id) {
			return owner, true
		}
	}
	return 0, false
}

// Family implements replica.Layers.
func (d *Layers) Family(id sheepdog.LayerID) (sheepdog.FamilyID, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if l := d.layers[id]; l != nil {
		return l.family, true
	}
	return 0, false
}

// Frozen implements replica.Layers.
func (d *Layers) Frozen(id sheepdog.LayerID) (frozen, known bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.layers[id]
	return l != nil && l.frozen, l != nil
}

// Dropped implements replica.Layers: everything below the highest layer ever
// added that is neither listed nor absorbed.
func (d *Layers) Dropped(id sheepdog.LayerID) bool {
	_, listed := d.Owner(id)
	d.mu.Lock()
	defer d.mu.Unlock()
	return !listed && id < d.next
}

// Policy implements replica.Layers.
func (d *Layers) Policy(family sheepdog.FamilyID) (sheepdog.Policy, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, ok := d.families[family]
	return p, ok
}

// Token implements replica.Layers.
func (d *Layers) Token(family sheepdog.FamilyID) sheepdog.Token {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tokens[family]
}

// Version implements replica.Layers.
func (d *Layers) Version() (uint64, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.version, true
}

// Changed implements replica.Layers.
func (d *Layers) Changed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changed
}

// Absorbing lists the layers that have absorbed others.
func (d *Layers) Absorbing() []sheepdog.LayerID {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []sheepdog.LayerID
	for owner, l := range d.layers {
		if len(l.absorbed) > 0 {
			out = append(out, owner)
		}
	}
	slices.Sort(out)
	return out
}
