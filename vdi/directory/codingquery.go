package directory

import (
	"cmp"
	"slices"

	"sheepdog"
)

// Coded finds the coded layer that has the id or one of whose strips has it.
func (d *Directory) Coded(id sheepdog.LayerID) (Layer, bool) {
	n := d.state.Load().layers.get(id)
	if n == nil {
		return Layer{}, false
	}
	l := n.layer.Load()
	if l == nil {
		d.mu.RLock() // a strip, or something absorbed
		l = n.owner().layer.Load()
		d.mu.RUnlock()
	}
	if l == nil || l.Strips == 0 {
		return Layer{}, false
	}
	return *l, true
}

// Complete reports whether a layer is coded and has all its strips.
func (l *Layer) Complete() bool { return l.complete() }

// AllCoded lists the coded layers by id, those being made included.
func (d *Directory) AllCoded() []Layer {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return listed(d.state.Load().coded)
}

// CodingWork lists the layers that are being encoded or retired, or that are
// written and wanted coded, by id.
func (d *Directory) CodingWork() []Layer {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return listed(d.state.Load().coding)
}

// listed are the layers of a set by id.
func listed(set map[sheepdog.LayerID]*layerNode) []Layer {
	var out []Layer
	for _, n := range set {
		out = append(out, *n.layer.Load())
	}
	slices.SortFunc(out, func(a, b Layer) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// work reports whether a layer of a family is one that CodingWork lists.
func (l *Layer) work(f *Family) bool {
	return l.Strips == 0 && (l.Recoding != 0 || l.Retiring || l.Written && l.wanted(f).Parity > 0 || l.Coding.Parity > 0)
}

// sort puts a layer that is new or has changed into the sets that it belongs to, so that
// nobody has to look for such layers among all. The policy of a family never changes.
func (s *state) sort(n *layerNode) {
	l := n.layer.Load()
	if l.Strips > 0 {
		s.coded[l.ID] = n
		s.changes.coded.Add(1)
	}
	if l.work(s.families.get(l.Family).family.Load()) {
		s.coding[l.ID] = n
	} else {
		delete(s.coding, l.ID)
	}
}

// unsort takes a layer out of them.
func (s *state) unsort(l *Layer) {
	if l.Strips > 0 {
		delete(s.coded, l.ID)
		s.changes.coded.Add(1)
	}
	delete(s.coding, l.ID)
}

// WrittenLayers lists the layers that may have blocks and are not coded, by id. It looks
// at all layers.
func (d *Directory) WrittenLayers() []Layer {
	d.mu.RLock()
	defer d.mu.RUnlock()
	written := make(map[sheepdog.LayerID]*layerNode)
	d.state.Load().layers.all(func(id sheepdog.LayerID, n *layerNode) {
		if l := n.layer.Load(); l != nil && l.Written && l.Strips == 0 {
			written[id] = n
		}
	})
	return listed(written)
}

// Wanted is the policy D:P that a layer is to be coded by; zero: none.
func (l *Layer) Wanted(f *Family) sheepdog.Policy { return l.wanted(f) }

func (l *Layer) wanted(f *Family) sheepdog.Policy {
	if l.Coding.Parity > 0 {
		return l.Coding
	}
	if f.Policy.Parity > 0 && !f.Policy.IsStrips() {
		return f.Policy
	}
	return sheepdog.Policy{}
}
