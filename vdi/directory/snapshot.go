package directory

import (
	"slices"
	"time"

	"sheepdog"
)

// Snapshot names the present state of a VDI, given by Name or else by VID. If
// its working layer is not Written it stays as it is and the snapshot gets what
// is below. Otherwise the layer freezes and the VDI goes on in a new one; then
// the proposer must be the coordinator and have drained and flushed its writes,
// or there is none, and IfToken must be the family's token, or the error wraps
// ErrConflict. The result is Snapped.
type Snapshot struct {
	Time        time.Time         `json:"time"`
	Name        string            `json:"name,omitempty"`
	VID         sheepdog.VID      `json:"vid,omitempty"`
	Tag         string            `json:"tag,omitempty"`
	Description string            `json:"description,omitempty"`
	Expires     time.Time         `json:"expires,omitzero"`   // when it is deleted; zero: never
	IfFamily    sheepdog.FamilyID `json:"ifFamily,omitempty"` // 0: any
	IfToken     sheepdog.Token    `json:"ifToken,omitempty"`  // 0: none seen
	// Once says that an earlier try of this very command may have been committed:
	// a snapshot with its tag and its time is its result.
	Once bool `json:"once,omitempty"`
	// Writing says that writes wait for the snapshot: a new working layer is Written
	// from its beginning, and nobody has to wait for a MarkWritten.
	Writing bool `json:"writing,omitempty"`
	// Clone makes a VDI of the present state instead of a snapshot; Tag and
	// Description must be empty then.
	Clone *CloneOf `json:"clone,omitempty"`
}

// CloneOf is a VDI to make of another's present state. Errors as of Create.
type CloneOf struct {
	Name string `json:"name"`
	Size uint64 `json:"size"` // bytes, at least: that of the other VDI if it is larger
}

// Snapped tells of a new snapshot and of the VDI that goes on.
type Snapped struct {
	VID     sheepdog.VID      `json:"vid"` // of the snapshot
	SnapID  uint32            `json:"snapID"`
	Layer   sheepdog.LayerID  `json:"layer"` // of the snapshot
	NewVID  sheepdog.VID      `json:"newVID"`
	Family  sheepdog.FamilyID `json:"family"`
	Working sheepdog.LayerID  `json:"working"` // the working layer from now on
	// Clone is the VDI that was made in place of a snapshot; nil: there is a
	// snapshot.
	Clone *Created `json:"clone,omitempty"`
}

func (c *Snapshot) validate() error {
	if c.Name == "" && (c.VID == 0 || c.VID >= vidSpace) {
		return invalid("no VDI named; give its name or id")
	}
	if c.Name != "" && c.VID != 0 {
		return invalid("VDI given both by name and by id")
	}
	if c.Name != "" {
		if err := CheckName(c.Name); err != nil {
			return err
		}
	}
	if c.Clone != nil {
		if c.Tag != "" || c.Description != "" {
			return invalid("a clone of the present state leaves no snapshot to tag or describe")
		}
		return CheckName(c.Clone.Name)
	}
	if err := CheckTag(c.Tag); err != nil {
		return err
	}
	return checkDescription(c.Description)
}

func (c *Snapshot) target(s *state) (*record, error) {
	if c.Name != "" {
		return s.working(c.Name)
	}
	h, ok := s.vids[c.VID]
	if !ok {
		return nil, noVDI(c.VID.String())
	}
	if h.snap != nil {
		return nil, invalid("id %s is snapshot %d of VDI %q, not a working VDI", c.VID, h.snap.SnapID, h.rec.name)
	}
	return h.rec, nil
}

// check refuses a snapshot at the wrong moment.
func (c *Snapshot) check(s *state, r *record) error {
	v := r.vdi
	f := s.families.get(v.Family).family.Load()
	written := s.layers.get(v.Layer).layer.Load().Written
	switch {
	case r.tags[c.Tag] != nil:
		return exists("snapshot %q of VDI %q", c.Tag, r.name)
	case c.IfFamily != 0 && c.IfFamily != v.Family:
		return conflict("VDI %q is of family %d, not %d", r.name, v.Family, c.IfFamily)
	case (written || c.IfToken != 0) && c.IfToken != f.Token:
		return conflict("token of VDI %q is %d, not %d; its coordinator must take the snapshot", r.name, f.Token, c.IfToken)
	case v.Moving:
		return invalid("VDI %q is being moved to redundancy %s; let that end first", r.name, v.Policy)
	case r.lastSnap == 1<<32-1:
		return invalid("VDI %q has used up its snapshot ids", r.name)
	}
	return nil
}

// again is the result of the very same command, if it was applied before.
func (c *Snapshot) again(r *record) *Snapped {
	snap := r.tags[c.Tag]
	if !c.Once || snap == nil || !snap.Taken.Equal(c.Time) {
		return nil
	}
	return &Snapped{
		VID: snap.VID, SnapID: snap.SnapID, Layer: snap.Layer,
		NewVID: r.vdi.VID, Family: r.vdi.Family, Working: r.vdi.Layer,
	}
}

func (c *Snapshot) apply(s *state) (any, error) {
	r, err := c.target(s)
	if err != nil {
		return nil, err
	}
	if done := c.again(r); done != nil {
		return done, nil
	}
	if err := c.check(s, r); err != nil {
		return nil, err
	}
	if c.Clone != nil {
		return c.clone(s, r)
	}
	old := *r.vdi
	vid, err := s.reserve(old.VID + 1)
	if err != nil {
		return nil, err
	}
	snap := &Entry{VDI: old, Tag: c.Tag, Description: c.Description, Taken: utc(c.Time), Expires: utc(c.Expires)}
	next := old
	snap.Layer, next.Layer = c.freeze(s, old.Layer)
	next.VID, next.Created, next.Parent, next.ParentIndex = vid, utc(c.Time), old.VID, old.Index

	s.layers.get(snap.Layer).refs++
	s.install(r, next)
	s.publish(r.vdi)
	s.unref(s.layers.get(old.Layer))
	r.isClone = false
	r.add(snap)
	s.vids[snap.VID] = holder{rec: r, snap: snap}
	return &Snapped{
		VID: snap.VID, SnapID: snap.SnapID, Layer: snap.Layer,
		NewVID: vid, Family: next.Family, Working: next.Layer,
	}, nil
}

// clone makes a VDI on the present bytes of another, which goes on under its id:
// nothing else is left.
func (c *Snapshot) clone(s *state, r *record) (any, error) {
	old := *r.vdi
	v := VDI{Name: c.Clone.Name, Size: max(c.Clone.Size, old.Size), Policy: old.Policy, BlockSizeShift: old.BlockSizeShift, Created: utc(c.Time)}
	if err := CheckSize(v.Size, v.BlockSizeShift); err != nil {
		return nil, err
	}
	// Nothing may fail once the layer is frozen.
	if _, err := s.claim(v.Name); err != nil {
		return nil, err
	}
	if _, err := s.reserve(NameVID(v.Name)); err != nil {
		return nil, err
	}
	next := old
	frozen, working := c.freeze(s, old.Layer)
	next.Layer = working
	s.layers.get(frozen).refs++ // until the clone has it
	s.install(r, next)
	s.publish(r.vdi)
	s.unref(s.layers.get(old.Layer))
	result, err := s.create(v, s.solid(frozen))
	if err != nil {
		return nil, err
	}
	s.names[v.Name].isClone = true
	s.unref(s.layers.get(frozen))
	made, _ := result.(*Created)
	return &Snapped{Layer: frozen, NewVID: next.VID, Family: next.Family, Working: working, Clone: made}, nil
}

func (c *Snapshot) freeze(s *state, id sheepdog.LayerID) (snap, working sheepdog.LayerID) {
	snap, working = s.freeze(id)
	if c.Writing && working != id {
		s.change(s.layers.get(working), func(l *Layer) { l.Written = true })
	}
	return snap, working
}

// freeze returns the frozen layer that has the present bytes of a working one,
// and the working layer that goes on.
func (s *state) freeze(id sheepdog.LayerID) (snap, working sheepdog.LayerID) {
	n := s.layers.get(id)
	l := n.layer.Load()
	switch {
	case l.Written:
		s.change(n, func(l *Layer) { l.Frozen = true })
		return id, s.addLayer(Layer{Family: l.Family, Parent: id}).id()
	case l.Parent != 0:
		return l.Parent, id
	}
	return s.underlay(n), id
}

// underlay puts an empty frozen layer below a family's first layer, which keeps
// its id because its coordinator may be about to write to it.
func (s *state) underlay(n *layerNode) sheepdog.LayerID {
	l := n.layer.Load()
	below := s.addLayer(Layer{Family: l.Family, Base: l.Base, Frozen: true})
	if l.Base != 0 {
		s.layers.get(l.Base).refs-- // below has it now
	}
	id := below.id()
	s.change(n, func(l *Layer) { l.Parent, l.Base = id, 0 })
	below.adopt(n)
	return id
}

// add gives the snapshot the next id of its name.
func (r *record) add(snap *Entry) {
	r.lastSnap++
	snap.SnapID = r.lastSnap
	r.snaps = append(r.snaps, snap)
	if snap.Tag != "" {
		r.tags[snap.Tag] = snap
	}
}

// DeleteSnapshot deletes one snapshot; clones of it stay. Missing tells what
// was not found. The result is Deleted.
type DeleteSnapshot struct {
	Time     time.Time `json:"time"`
	Name     string    `json:"name"`
	Snapshot string    `json:"snapshot"` // tag or decimal id
	// RecycleVIDs frees ids of families that this command ends.
	RecycleVIDs bool `json:"recycleVIDs,omitempty"`
}

func (c *DeleteSnapshot) validate() error {
	if err := CheckName(c.Name); err != nil {
		return err
	}
	return checkRef(c.Snapshot)
}

func (c *DeleteSnapshot) apply(s *state) (any, error) {
	r, snap, err := s.snapshot(c.Name, c.Snapshot)
	if err != nil {
		return nil, err
	}
	s.eraseSnapshot(r, snap)
	s.finish(c.RecycleVIDs)
	return &Deleted{VID: snap.VID, Family: snap.Family}, nil
}

// eraseSnapshot deletes a snapshot, and the record if it was all. The command
// must end with finish.
func (s *state) eraseSnapshot(r *record, snap *Entry) {
	i, _ := r.find(snap.SnapID)
	r.snaps = slices.Delete(r.snaps, i, i+1)
	delete(r.tags, snap.Tag)
	s.discard(r)
	s.retire(&snap.VDI)
	s.unref(s.layers.get(snap.Layer))
}
