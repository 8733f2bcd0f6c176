package directory

import (
	"time"

	"sheepdog"
)

// Coded layers (docs/adr/0008). Each is the only layer of a family of its own
// and the base of what it was made of; it has as many ids as strips, from its
// own upwards. It is made in three steps: Recode reserves it, Recoded makes it
// the base of the layer that it was made of, Retire empties that layer.

// Coded layers are complete from Recoded on.
func (l *Layer) complete() bool { return l.Strips > 0 && l.Encoder.IsZero() }

// Recode begins to encode a layer: it makes the coded layer that Recoded is to
// finish. With Freeze the layer is the working one of a VDI, which goes on in a
// new one as after a snapshot; then the proposer must be the coordinator and
// have drained and flushed, or there is none, and IfToken must be the family's
// token. Below the layer in its family there may be nothing with blocks. An
// encoding that somebody else has begun is given up. The error wraps ErrConflict
// if the layer is not in the state for it. The result is Recoding.
type Recode struct {
	Time    time.Time        `json:"time"`
	Layer   sheepdog.LayerID `json:"layer"`
	Policy  sheepdog.Policy  `json:"policy"` // D:P
	Encoder Coordinator      `json:"encoder"`
	Freeze  bool             `json:"freeze,omitempty"`
	IfToken sheepdog.Token   `json:"ifToken,omitempty"`
}

// Recoding tells what to encode. The objects of the coded layer are those of the
// layer laid over those of Merged, newest first; what none of them has is looked
// up in Base.
type Recoding struct {
	Layer  sheepdog.LayerID   `json:"layer"`
	Coded  sheepdog.LayerID   `json:"coded"`
	Family sheepdog.FamilyID  `json:"family"` // of the coded layer
	Merged []sheepdog.LayerID `json:"merged,omitempty"`
	Base   sheepdog.LayerID   `json:"base,omitempty"`
}

func (c *Recode) validate() error {
	if c.Layer == 0 || c.Encoder.Node == 0 || c.Encoder.Incarnation == 0 {
		return invalid("recode needs a layer and who encodes it")
	}
	return checkCoded(c.Policy)
}

func checkCoded(p sheepdog.Policy) error {
	if p.Parity == 0 || p.IsStrips() {
		return invalid("redundancy policy %s has no strips", p)
	}
	return CheckPolicy(p)
}

func (c *Recode) apply(s *state) (any, error) {
	n := s.layers.get(c.Layer)
	if n == nil || n.layer.Load() == nil {
		return nil, conflict("layer %d is gone", c.Layer)
	}
	if err := c.check(s, n); err != nil {
		return nil, err
	}
	if c.Freeze {
		s.freezeWorking(n)
	}
	if l := n.layer.Load(); l.Recoding != 0 {
		s.giveUp(n)
	}
	merged, base := s.below(n)
	shift := s.families.get(n.layer.Load().Family).family.Load().BlockSizeShift
	family := s.addFamily(c.Policy.Strips(), shift)
	coded := s.addLayer(Layer{Family: family, Base: base, Frozen: true, Written: true, Encoder: c.Encoder})
	s.reserveStrips(coded, uint8(c.Policy.Zones()))
	coded.refs++ // held by the layer until Recoded makes it its base
	n.refs++     // held by the encoding until Retire
	s.change(n, func(l *Layer) { l.Recoding = coded.id() })
	s.finish(false)
	return &Recoding{Layer: c.Layer, Coded: coded.id(), Family: family, Merged: merged, Base: base}, nil
}

// check refuses layers that cannot be encoded now.
func (c *Recode) check(s *state, n *layerNode) error {
	l := n.layer.Load()
	f := s.families.get(l.Family).family.Load()
	switch {
	case l.Strips > 0:
		return conflict("layer %d is coded", l.ID)
	case l.Retiring:
		return conflict("layer %d was just encoded", l.ID)
	case c.Freeze && (l.Frozen || !l.Written || f.Working != l.ID):
		return conflict("layer %d is not the written working layer of a VDI", l.ID)
	case c.Freeze && s.names[f.Name].vdi.Moving:
		return conflict("layer %d is still filled by a change of redundancy", l.ID)
	case c.Freeze && c.IfToken != f.Token:
		return conflict("token of family %d is %d, not %d", f.ID, f.Token, c.IfToken)
	case !c.Freeze && !l.Frozen:
		return conflict("layer %d is being written", l.ID)
	case l.Parent != 0 && s.layers.get(l.Parent).layer.Load().Written:
		return conflict("layer %d stands on one that is not encoded", l.ID)
	case !l.Written && (l.Base == 0 || !s.layers.get(l.Base).layer.Load().complete()):
		return conflict("layer %d has nothing to encode", l.ID)
	case !l.Written && len(s.layers.get(l.Base).layer.Load().Lost) > 0:
		return conflict("layer %d is of one that has lost objects", l.ID)
	}
	return nil
}

// freezeWorking freezes a working layer without a snapshot; its VDI stays what
// it is and goes on in a new layer.
func (s *state) freezeWorking(n *layerNode) {
	l := n.layer.Load()
	r := s.names[s.families.get(l.Family).family.Load().Name]
	s.change(n, func(l *Layer) { l.Frozen = true })
	next := s.addLayer(Layer{Family: l.Family, Parent: l.ID})
	v := *r.vdi
	v.Layer = next.id()
	r.vdi = &v
	next.refs++
	n.refs--
	s.publish(r.vdi)
}

// reserveStrips gives a new coded layer the ids of its strips.
func (s *state) reserveStrips(n *layerNode, strips uint8) {
	s.change(n, func(l *Layer) { l.Strips = strips })
	for _, id := range n.layer.Load().stripIDs()[1:] {
		s.layers.put(id, &layerNode{into: n})
	}
	s.lastLayer += sheepdog.LayerID(strips) - 1
}

// stripIDs are the ids of a coded layer, of another its own alone.
func (l *Layer) stripIDs() []sheepdog.LayerID {
	out := []sheepdog.LayerID{l.ID}
	for k := 1; k < int(l.Strips); k++ {
		out = append(out, l.ID+sheepdog.LayerID(k))
	}
	return out
}

// below lists the coded layers below n that nobody else reads and that have lost
// nothing, and what is below them. An empty layer has only what the first coded layer
// has, so that one is always taken.
func (s *state) below(n *layerNode) (merged []sheepdog.LayerID, base sheepdog.LayerID) {
	l := n.layer.Load()
	base = l.Base
	if l.Parent != 0 {
		return nil, s.solid(l.Parent)
	}
	for must := !l.Written; base != 0; must = false {
		b := s.layers.get(base)
		if below := b.layer.Load(); !below.complete() || b.refs > 1 && !must || len(below.Lost) > 0 {
			break
		}
		merged = append(merged, base)
		base = b.layer.Load().Base
	}
	return merged, s.solid(base)
}

// giveUp forgets the coded layer that is being made of a layer; what was stored
// of it is garbage.
func (s *state) giveUp(n *layerNode) {
	coded := s.layers.get(n.layer.Load().Recoding)
	s.change(n, func(l *Layer) { l.Recoding = 0 })
	n.refs--
	s.unref(coded)
}

// Recoded says that all strips of a coded layer are durable. It becomes the base
// of the layer that it was made of, which keeps its blocks: who has not heard of
// this reads the same. The error wraps ErrConflict if the encoding was given up.
type Recoded struct {
	Time    time.Time        `json:"time"`
	Layer   sheepdog.LayerID `json:"layer"`
	Coded   sheepdog.LayerID `json:"coded"`
	Objects uint64           `json:"objects"` // of the coded layer
}

func (c *Recoded) validate() error { return nil }

func (c *Recoded) apply(s *state) (any, error) {
	n, err := s.recoding(c.Layer, c.Coded)
	if err != nil {
		return nil, err
	}
	l := n.layer.Load()
	was := l.Base
	var parent *layerNode
	if l.Parent != 0 {
		parent = s.layers.get(l.Parent)
		was = parent.layer.Load().Base
		delete(parent.children, l.ID)
		if was != 0 {
			s.layers.get(was).refs++
		}
	}
	s.change(s.layers.get(c.Coded), func(l *Layer) { l.Encoder, l.Objects = Coordinator{}, c.Objects })
	s.change(n, func(l *Layer) {
		l.Recoding, l.Parent, l.Base, l.Was, l.Retiring = 0, 0, c.Coded, was, true
		l.Coding = sheepdog.Policy{}
	})
	n.spread()
	for parent != nil {
		parent = s.settle(parent)
	}
	s.finish(false)
	return nil, nil
}

// recoding finds a layer of which the coded layer is being made.
func (s *state) recoding(layer, coded sheepdog.LayerID) (*layerNode, error) {
	n := s.layers.get(layer)
	if n == nil || n.layer.Load() == nil || coded == 0 || n.layer.Load().Recoding != coded {
		return nil, conflict("layer %d is not being encoded into %d", layer, coded)
	}
	return n, nil
}

// GiveUp ends an encoding without a result. The error wraps ErrConflict if there
// is none.
type GiveUp struct {
	Time  time.Time        `json:"time"`
	Layer sheepdog.LayerID `json:"layer"`
	Coded sheepdog.LayerID `json:"coded"`
}

func (c *GiveUp) validate() error { return nil }

func (c *GiveUp) apply(s *state) (any, error) {
	n, err := s.recoding(c.Layer, c.Coded)
	if err != nil {
		return nil, err
	}
	s.giveUp(n)
	for n != nil {
		n = s.settle(n)
	}
	s.finish(false)
	return nil, nil
}

// Retire empties a layer whose bytes its base has. Every member must know of
// Recoded, and whoever was a member before may serve no reads any more; the
// leader's gate refuses another epoch than that in which this was seen to.
type Retire struct {
	Time  time.Time        `json:"time"`
	Layer sheepdog.LayerID `json:"layer"`
	Epoch sheepdog.Epoch   `json:"epoch,omitempty"`
}

func (c *Retire) validate() error { return nil }

func (c *Retire) apply(s *state) (any, error) {
	n := s.layers.get(c.Layer)
	if n == nil || n.layer.Load() == nil || !n.layer.Load().Retiring {
		return nil, conflict("layer %d is not to be retired", c.Layer)
	}
	l := n.layer.Load()
	for _, id := range l.Absorbed {
		s.unlist(id)
	}
	delete(s.absorbing, l.ID)
	s.change(n, func(l *Layer) { l.Written, l.Absorbed, l.Retiring, l.Was = false, nil, false, 0 })
	n.spread()
	if l.Was != 0 {
		s.unref(s.layers.get(l.Was))
	}
	s.unref(n)
	s.finish(false)
	return nil, nil
}

// Code has a frozen layer encoded in the background: that of a snapshot, and
// what it stands on in its family. What is encoded so already stays.
type Code struct {
	Time     time.Time       `json:"time"`
	Name     string          `json:"name"`
	Snapshot string          `json:"snapshot"` // tag or decimal id
	Policy   sheepdog.Policy `json:"policy"`   // D:P
}

func (c *Code) validate() error {
	if err := CheckName(c.Name); err != nil {
		return err
	}
	if err := checkRef(c.Snapshot); err != nil {
		return err
	}
	return checkCoded(c.Policy)
}

func (c *Code) apply(s *state) (any, error) {
	_, snap, err := s.snapshot(c.Name, c.Snapshot)
	if err != nil {
		return nil, err
	}
	for id := snap.Layer; id != 0; {
		n := s.layers.get(id)
		l := n.layer.Load()
		if l.Written && !l.Retiring || id == snap.Layer && s.codedOtherwise(l, c.Policy) {
			s.change(n, func(l *Layer) { l.Coding = c.Policy })
		}
		id = l.Parent
	}
	return nil, nil
}

// codedOtherwise reports whether an empty layer has its bytes coded under
// another policy.
func (s *state) codedOtherwise(l *Layer, p sheepdog.Policy) bool {
	if l.Written || l.Base == 0 || l.Retiring {
		return false
	}
	b := s.layers.get(l.Base).layer.Load()
	return b.complete() && s.families.get(b.Family).family.Load().Policy != p.Strips()
}

// empty reports whether nothing that is stored under the layer's own id
// counts.
func (l *Layer) empty() bool { return l.Frozen && !l.Written }
