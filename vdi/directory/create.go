package directory

import (
	"time"

	"sheepdog"
)

// Create makes a VDI that reads as zeros. The error wraps ErrExists if a
// working VDI has the name, ErrNoSpace if all VDI ids are in use. The result is
// Created.
type Create struct {
	Time           time.Time       `json:"time"`
	Name           string          `json:"name"`
	Size           uint64          `json:"size"` // bytes
	Policy         sheepdog.Policy `json:"copies"`
	BlockSizeShift uint8           `json:"blockSizeShift"`
}

// Created tells of a new VDI.
type Created struct {
	VID    sheepdog.VID      `json:"vid"`
	Family sheepdog.FamilyID `json:"family"`
	Layer  sheepdog.LayerID  `json:"layer"`
}

func (c *Create) validate() error {
	if err := CheckName(c.Name); err != nil {
		return err
	}
	if err := CheckGeometry(c.BlockSizeShift); err != nil {
		return err
	}
	if err := CheckPolicy(c.Policy); err != nil {
		return err
	}
	return CheckSize(c.Size, c.BlockSizeShift)
}

func (c *Create) apply(s *state) (any, error) {
	return s.create(VDI{
		Name: c.Name, Size: c.Size, Policy: c.Policy, BlockSizeShift: c.BlockSizeShift, Created: utc(c.Time),
	}, 0)
}

// create makes a VDI in a new family whose only layer has the base.
func (s *state) create(v VDI, base sheepdog.LayerID) (any, error) {
	r, err := s.claim(v.Name)
	if err != nil {
		return nil, err
	}
	if v.VID, err = s.reserve(NameVID(v.Name)); err != nil {
		return nil, err
	}
	v.Family, v.Origin = s.addFamily(v.Policy, v.BlockSizeShift), s.index
	v.Layer = s.addLayer(Layer{Family: v.Family, Base: base}).id()
	s.install(r, v)
	s.publish(r.vdi)
	return &Created{VID: v.VID, Family: v.Family, Layer: v.Layer}, nil
}

// Clone makes a VDI whose bytes are those of a snapshot until they are written.
// Errors as of Create; Missing tells what was not found. The result is Created.
type Clone struct {
	Time     time.Time `json:"time"`
	Source   string    `json:"source"`
	Snapshot string    `json:"snapshot"` // tag or decimal id
	Name     string    `json:"name"`
	Size     uint64    `json:"size"` // bytes; 0: that of the snapshot; never less
}

func (c *Clone) validate() error {
	if err := CheckName(c.Source); err != nil {
		return err
	}
	if err := checkRef(c.Snapshot); err != nil {
		return err
	}
	return CheckName(c.Name)
}

func (c *Clone) apply(s *state) (any, error) {
	_, snap, err := s.snapshot(c.Source, c.Snapshot)
	if err != nil {
		return nil, err
	}
	v := VDI{
		Name: c.Name, Size: c.Size, Policy: snap.Policy, BlockSizeShift: snap.BlockSizeShift,
		Created: utc(c.Time), Parent: snap.VID, ParentIndex: snap.Index,
	}
	if v.Size == 0 {
		v.Size = snap.Size
	}
	if v.Size < snap.Size {
		return nil, invalid("clone of %d bytes is smaller than its snapshot of %d", v.Size, snap.Size)
	}
	if err := CheckSize(v.Size, v.BlockSizeShift); err != nil {
		return nil, err
	}
	result, err := s.create(v, s.solid(snap.Layer))
	if err == nil {
		s.names[c.Name].isClone = true
	}
	return result, err
}
