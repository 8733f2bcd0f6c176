package directory

import (
	"time"

	"sheepdog"
)

// AlterPolicy gives a VDI another redundancy. The VDI goes on in a family of its
// own with the new policy, whose base is what it had: from now on new data have
// the new redundancy, and the old ones are read from where they are until
// somebody has copied them and Flatten lets go of the base. Name, id and
// attributes stay. Only a VDI that stands alone can do this: no snapshot, and no
// base but what is erasure coded of its own. As for Snapshot, the proposer must hold
// its writes. The old coordinator is fenced. The result is Altered.
type AlterPolicy struct {
	Time    time.Time       `json:"time"`
	Name    string          `json:"name"`
	Policy  sheepdog.Policy `json:"copies"`
	IfToken sheepdog.Token  `json:"ifToken,omitempty"` // 0: none seen
	// Coordinator goes on as that of the new family; zero: none.
	Coordinator Coordinator `json:"coordinator,omitzero"`
}

// Altered tells where the VDI goes on.
type Altered struct {
	Family sheepdog.FamilyID `json:"family"`
	Layer  sheepdog.LayerID  `json:"layer"`
	Moving bool              `json:"moving"` // there are data to copy
}

func (c *AlterPolicy) validate() error {
	if (c.Coordinator.Node == 0) != (c.Coordinator.Incarnation == 0) {
		return invalid("coordinator needs a node and an incarnation")
	}
	if err := CheckName(c.Name); err != nil {
		return err
	}
	return CheckPolicy(c.Policy)
}

func (c *AlterPolicy) check(s *state, r *record) error {
	v := r.vdi
	l := s.layers.get(v.Layer).layer.Load()
	f := s.families.get(v.Family).family.Load()
	switch {
	case v.Policy == c.Policy:
		return exists("redundancy %s of VDI %q", c.Policy, r.name)
	case v.Moving:
		return invalid("VDI %q is being moved to redundancy %s; let that end first", r.name, v.Policy)
	case !s.alone(r, l):
		return invalid("VDI %q does not stand alone: it has snapshots or a parent", r.name)
	case (l.Written || c.IfToken != 0) && c.IfToken != f.Token:
		return conflict("token of VDI %q is %d, not %d; its coordinator must change its redundancy", r.name, f.Token, c.IfToken)
	}
	return nil
}

// alone reports whether a VDI has no snapshots and no parent. What is encoded of it,
// or being encoded, is below its working layer, and its own.
func (s *state) alone(r *record, l *Layer) bool {
	if f := s.families.get(l.Family).family.Load(); f.Policy.Parity == 0 {
		return l.Parent == 0 && l.Base == 0
	}
	if len(r.snaps) > 0 || r.isClone {
		return false
	}
	for id := l.Below(); id != 0; {
		below := s.layers.get(id).layer.Load()
		if below.Strips == 0 && below.Family != l.Family {
			return false
		}
		id = below.Below()
	}
	return true
}

func (c *AlterPolicy) apply(s *state) (any, error) {
	r, err := s.working(c.Name)
	if err != nil {
		return nil, err
	}
	if err := c.check(s, r); err != nil {
		return nil, err
	}
	old := *r.vdi
	n := s.layers.get(old.Layer)
	next := old
	next.Policy, next.Family = c.Policy, s.addFamily(c.Policy, old.BlockSizeShift)
	if n.layer.Load().Written {
		s.change(n, func(l *Layer) { l.Frozen = true })
	}
	fresh := Layer{Family: next.Family, Base: s.solid(old.Layer)}
	next.Moving = fresh.Base != 0
	next.Layer = s.addLayer(fresh).id()
	s.layers.get(next.Layer).refs++
	r.vdi = &next
	claimed := s.families.get(old.Family).family.Load().Claimed
	s.families.get(next.Family).update(func(f *Family) { f.Claimed = claimed })
	s.vacate(old.Family)
	s.unref(n)
	s.publish(&next)
	if !c.Coordinator.IsZero() {
		s.lastToken++
		s.families.get(next.Family).update(func(f *Family) { f.Token, f.Coordinator = s.lastToken, c.Coordinator })
	}
	s.finish(false)
	return &Altered{Family: next.Family, Layer: next.Layer, Moving: next.Moving}, nil
}

// Flatten lets go of the base of a VDI, all of whose data are in its working
// layer now. The error wraps ErrConflict if the token is another one, ErrInvalid
// if the layer is or the VDI has snapshots, which read the base too.
type Flatten struct {
	Time    time.Time        `json:"time"`
	Name    string           `json:"name"`
	IfLayer sheepdog.LayerID `json:"ifLayer"`
	IfToken sheepdog.Token   `json:"ifToken"`
}

func (c *Flatten) validate() error { return CheckName(c.Name) }

func (c *Flatten) apply(s *state) (any, error) {
	r, err := s.working(c.Name)
	if err != nil {
		return nil, err
	}
	v := *r.vdi
	n := s.layers.get(v.Layer)
	l := n.layer.Load()
	f := s.families.get(v.Family).family.Load()
	switch {
	case f.Token != c.IfToken:
		return nil, conflict("token of VDI %q is %d, not %d", r.name, f.Token, c.IfToken)
	case l.Parent != 0:
		return nil, invalid("VDI %q has snapshots, which need its base too", r.name)
	case v.Layer != c.IfLayer:
		return nil, invalid("VDI %q was encoded while its data were copied; do it again", r.name)
	case l.Base == 0:
		return nil, nil
	}
	base := s.layers.get(l.Base)
	s.change(n, func(l *Layer) { l.Base = 0 })
	n.spread()
	r.isClone = false
	v.Parent, v.ParentIndex, v.Moving = 0, 0, false
	r.vdi = &v
	s.publish(&v)
	s.unref(base)
	s.finish(false)
	return nil, nil
}
