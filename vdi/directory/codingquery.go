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
	return d.layersWhere(func(l *Layer, _ *Family) bool { return l.Strips > 0 })
}

// CodingWork lists the layers that are being encoded or retired, or that are
// written and wanted coded, by id.
func (d *Directory) CodingWork() []Layer {
	return d.layersWhere(func(l *Layer, f *Family) bool {
		return l.Strips == 0 && (l.Recoding != 0 || l.Retiring || l.Written && l.wanted(f).Parity > 0 || l.Coding.Parity > 0)
	})
}

// WrittenLayers lists the layers that may have blocks and are not coded, by id.
func (d *Directory) WrittenLayers() []Layer {
	return d.layersWhere(func(l *Layer, _ *Family) bool { return l.Written && l.Strips == 0 })
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

func (d *Directory) layersWhere(want func(*Layer, *Family) bool) []Layer {
	d.mu.RLock()
	s := d.state.Load()
	var out []Layer
	s.layers.all(func(_ sheepdog.LayerID, n *layerNode) {
		if l := n.layer.Load(); l != nil && want(l, s.families.get(l.Family).family.Load()) {
			out = append(out, *l)
		}
	})
	d.mu.RUnlock()
	slices.SortFunc(out, func(a, b Layer) int { return cmp.Compare(a.ID, b.ID) })
	return out
}
