package directory

import (
	"fmt"
	"time"

	"sheepdog"
)

// Delete deletes a working VDI and its attributes, or moves it into the trash if
// that is on; its snapshots and clones stay. A coordinator is fenced, not asked.
// The result is Deleted.
type Delete struct {
	Time time.Time `json:"time"`
	Name string    `json:"name"`
	// RecycleVIDs frees ids of families that this command ends.
	RecycleVIDs bool `json:"recycleVIDs,omitempty"`
	// Purge deletes for good, also while the trash is on.
	Purge bool `json:"purge,omitempty"`
	// IfToken is needed to move a VDI into the trash, as for a Snapshot of it.
	IfToken sheepdog.Token `json:"ifToken,omitempty"` // 0: none seen
	// IfVID is the VDI that is meant; another of the name is not touched: ErrNoVDI.
	IfVID sheepdog.VID `json:"ifVID,omitempty"` // 0: any
}

// Deleted tells the id of what was deleted, and the family that it was of.
type Deleted struct {
	VID     sheepdog.VID      `json:"vid"`
	Family  sheepdog.FamilyID `json:"family"`
	Trashed bool              `json:"trashed,omitempty"` // it can be taken back
}

func (c *Delete) validate() error { return CheckName(c.Name) }

func (c *Delete) apply(s *state) (any, error) {
	r, err := s.working(c.Name)
	if err != nil {
		return nil, err
	}
	if c.IfVID != 0 && r.vdi.VID != c.IfVID {
		return nil, fmt.Errorf("%w: VDI %q has id %s by now, not %s", ErrNoVDI, r.name, r.vdi.VID, c.IfVID)
	}
	if s.trashKeep > 0 && !c.Purge {
		v := *r.vdi
		f, l := s.families.get(v.Family).family.Load(), s.layers.get(v.Layer).layer.Load()
		if (l.Written || c.IfToken != 0) && c.IfToken != f.Token {
			return nil, conflict("token of VDI %q is %d, not %d; its coordinator must move it into the trash", r.name, f.Token, c.IfToken)
		}
		s.discardTo(r, c.Time)
		return &Deleted{VID: v.VID, Family: v.Family, Trashed: true}, nil
	}
	out := s.erase(r)
	s.finish(c.RecycleVIDs)
	return out, nil
}

// erase deletes the working VDI of a record, and the record if it was all. The
// command must end with finish.
func (s *state) erase(r *record) *Deleted {
	v := *r.vdi
	layer := s.uninstall(r)
	s.vacate(v.Family)
	r.attrs, r.attrBytes = nil, 0
	s.discard(r)
	s.unref(layer)
	return &Deleted{VID: v.VID, Family: v.Family}
}

// Rollback throws the working VDI away, if there is one, and makes a new one
// with the bytes and the size of a snapshot. The error wraps ErrBusy while the
// VDI has a coordinator other than that of IfToken. The coordinator is fenced:
// whoever wants to write must Acquire again. The result is RolledBack.
type Rollback struct {
	Time        time.Time      `json:"time"`
	Name        string         `json:"name"`
	Snapshot    string         `json:"snapshot"`          // tag or decimal id
	IfToken     sheepdog.Token `json:"ifToken,omitempty"` // 0: none seen
	RecycleVIDs bool           `json:"recycleVIDs,omitempty"`
}

// RolledBack tells of the VDI that replaces the old one.
type RolledBack struct {
	VID    sheepdog.VID      `json:"vid"`
	Family sheepdog.FamilyID `json:"family"`
	Layer  sheepdog.LayerID  `json:"layer"`
	Token  sheepdog.Token    `json:"token"` // of the family now, for Acquire
}

func (c *Rollback) validate() error {
	if err := CheckName(c.Name); err != nil {
		return err
	}
	return checkRef(c.Snapshot)
}

// check refuses to pull a VDI from under its coordinator.
func (c *Rollback) check(s *state, r *record) error {
	if r.vdi == nil {
		return nil
	}
	f := s.families.get(r.vdi.Family).family.Load()
	switch {
	case f.Token == c.IfToken:
		return nil
	case !f.Coordinator.IsZero():
		return busy("VDI %q is open at node %s", r.name, f.Coordinator.Node)
	case c.IfToken != 0:
		return conflict("token of VDI %q is %d, not %d", r.name, f.Token, c.IfToken)
	}
	return nil
}

func (c *Rollback) apply(s *state) (any, error) {
	r, snap, err := s.snapshot(c.Name, c.Snapshot)
	if err != nil {
		return nil, err
	}
	if err := c.check(s, r); err != nil {
		return nil, err
	}
	start := NameVID(r.name)
	if r.vdi != nil {
		start = r.vdi.VID + 1
	}
	v := snap.VDI
	if v.VID, err = s.reserve(start); err != nil {
		return nil, err
	}
	v.Created, v.Parent, v.ParentIndex = utc(c.Time), snap.VID, snap.Index
	v.RevertedAt, v.RevertedFrom = utc(c.Time), snap.SnapID
	if r.vdi != nil {
		v.Origin = r.vdi.Origin // the VDI stays the same one
	}
	v.Layer = s.addLayer(Layer{Family: v.Family, Parent: snap.Layer}).id()
	s.replace(r, v)
	s.finish(c.RecycleVIDs)
	token := s.families.get(v.Family).family.Load().Token
	return &RolledBack{VID: v.VID, Family: v.Family, Layer: v.Layer, Token: token}, nil
}

// replace makes v the working VDI instead of the present one, if any, and
// fences whoever coordinates that.
func (s *state) replace(r *record, v VDI) {
	if r.vdi == nil {
		s.install(r, v)
		s.publish(r.vdi)
		return
	}
	family := r.vdi.Family
	old := s.uninstall(r)
	s.install(r, v)
	if family == v.Family {
		s.republish(r.vdi)
	} else {
		s.vacate(family)
		s.publish(r.vdi)
	}
	s.unref(old)
}

// Resize changes the size of a working VDI; it can only grow. The same size is
// no error.
type Resize struct {
	Time time.Time `json:"time"`
	Name string    `json:"name"`
	Size uint64    `json:"size"` // bytes
}

func (c *Resize) validate() error {
	if err := CheckName(c.Name); err != nil {
		return err
	}
	return CheckSize(c.Size, sheepdog.MaxBlockSizeShift)
}

func (c *Resize) apply(s *state) (any, error) {
	r, err := s.working(c.Name)
	if err != nil {
		return nil, err
	}
	v := *r.vdi
	if c.Size < v.Size {
		return nil, invalid("VDI %q has %d bytes and cannot shrink to %d; copy it to a smaller one", v.Name, v.Size, c.Size)
	}
	if err := CheckSize(c.Size, v.BlockSizeShift); err != nil {
		return nil, err
	}
	v.Size = c.Size
	r.vdi = &v
	s.publish(&v)
	return nil, nil
}

// Rename gives a VDI and its snapshots another name; ids stay. The error wraps
// ErrExists if a VDI or a snapshot has the new name.
type Rename struct {
	Time    time.Time `json:"time"`
	Name    string    `json:"name"`
	NewName string    `json:"newName"`
}

func (c *Rename) validate() error {
	if err := CheckName(c.Name); err != nil {
		return err
	}
	return CheckName(c.NewName)
}

func (c *Rename) apply(s *state) (any, error) {
	r := s.names[c.Name]
	if r == nil {
		return nil, noVDI(c.Name)
	}
	if s.names[c.NewName] != nil {
		return nil, exists("VDI %q or a snapshot of it", c.NewName)
	}
	delete(s.names, c.Name)
	s.names[c.NewName] = r
	r.name = c.NewName
	if r.vdi != nil {
		v := *r.vdi
		v.Name = r.name
		r.vdi = &v
		s.publish(&v)
	}
	for i, snap := range r.snaps {
		e := *snap
		e.Name = r.name
		r.snaps[i] = &e
		s.vids[e.VID] = holder{rec: r, snap: &e}
		if e.Tag != "" {
			r.tags[e.Tag] = &e
		}
	}
	return nil, nil
}
