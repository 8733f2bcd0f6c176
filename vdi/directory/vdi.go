package directory

import (
	"slices"
	"strconv"
	"time"

	"sheepdog"
)

// VDI is a working VDI, or the VDI that a snapshot was taken of.
type VDI struct {
	Name           string            `json:"name"`
	VID            sheepdog.VID      `json:"vid"`
	Size           uint64            `json:"size"` // bytes
	Family         sheepdog.FamilyID `json:"family"`
	Layer          sheepdog.LayerID  `json:"layer"` // the working layer, or the frozen one of a snapshot
	Policy         sheepdog.Policy   `json:"copies"`
	BlockSizeShift uint8             `json:"blockSizeShift"`
	// Created is when the id was given: at creation, and for a working VDI again
	// at every snapshot and rollback. Index is the Raft index of that command.
	Created time.Time `json:"created"`
	Index   uint64    `json:"index"`
	// Parent is the id of the snapshot that it started from; 0: none. It may be
	// deleted, and its number even given again: then the holder's Index is not
	// ParentIndex.
	Parent      sheepdog.VID `json:"parent,omitempty"`
	ParentIndex uint64       `json:"parentIndex,omitempty"`
	// Origin is the Raft index at which the VDI was created or cloned. It stays
	// through snapshots, rollbacks and renames: the VDI's identity. 0: unknown.
	Origin uint64 `json:"origin,omitempty"`
	// RevertedAt and RevertedFrom tell of the last rollback, and of the number of
	// its snapshot; zero: there was none.
	RevertedAt   time.Time `json:"revertedAt,omitzero"`
	RevertedFrom uint32    `json:"revertedFrom,omitempty"`
	// Moving says that its data are being copied to another redundancy.
	Moving bool `json:"moving,omitempty"`
}

// Entry is a working VDI or a snapshot: one row of `vdi list`.
type Entry struct {
	VDI
	// SnapID counts the snapshots of a name from 1; 0 for a working VDI.
	SnapID      uint32    `json:"snapID,omitempty"`
	Tag         string    `json:"tag,omitempty"`
	Description string    `json:"description,omitempty"`
	Taken       time.Time `json:"taken,omitzero"` // when the snapshot was made; zero for a working VDI
	// Expires is when the snapshot is deleted; zero: never.
	Expires time.Time `json:"expires,omitzero"`
	// Attrs are the attributes of a snapshot; nil: none. What it points to never
	// changes.
	Attrs *map[string][]byte `json:"attrs,omitempty"`
	// IsClone says that it is a working VDI that began as a clone and has not
	// been snapshotted or rolled back since.
	IsClone bool `json:"isClone,omitempty"`
}

// record is everything that has one name.
type record struct {
	name      string
	vdi       *VDI // nil: deleted
	isClone   bool
	attrs     map[string][]byte // of the working VDI; values are immutable
	attrBytes int
	snaps     []*Entry // ascending by SnapID; immutable entries
	tags      map[string]*Entry
	lastSnap  uint32
	trash     *Trash // nil: it is not in the trash
}

// holder is who has a VDI id.
type holder struct {
	rec  *record
	snap *Entry // nil: the working VDI
}

func (h holder) entry() Entry {
	if h.snap != nil {
		return *h.snap
	}
	return Entry{VDI: *h.rec.vdi, IsClone: h.rec.isClone}
}

// working finds the record of a working VDI.
func (s *state) working(name string) (*record, error) {
	r := s.names[name]
	if r == nil || r.vdi == nil {
		return nil, noVDI(name)
	}
	return r, nil
}

// snapshot finds a snapshot by tag or decimal id.
func (s *state) snapshot(name, ref string) (*record, *Entry, error) {
	r := s.names[name]
	if r == nil {
		return nil, nil, noVDI(name)
	}
	snap := r.tags[ref]
	if isNumber(ref) {
		snap = r.bySnapID(ref)
	}
	if snap == nil {
		return nil, nil, noSnapshot(name, ref)
	}
	return r, snap, nil
}

func (r *record) bySnapID(ref string) *Entry {
	id, err := strconv.ParseUint(ref, 10, 32)
	if err != nil {
		return nil
	}
	i, ok := r.find(uint32(id))
	if !ok {
		return nil
	}
	return r.snaps[i]
}

func (r *record) find(id uint32) (int, bool) {
	return slices.BinarySearchFunc(r.snaps, id, func(e *Entry, id uint32) int {
		return int(int64(e.SnapID) - int64(id))
	})
}

// claim is the record for a new working VDI of a name; snapshots of a deleted
// one may be in it.
func (s *state) claim(name string) (*record, error) {
	r := s.names[name]
	switch {
	case r == nil:
		return &record{name: name, tags: make(map[string]*Entry)}, nil
	case r.vdi != nil:
		return nil, exists("VDI %q", name)
	}
	return r, nil
}

// reserve finds the next free VDI id from start on. When all were used once,
// the ids of what is deleted are free again.
func (s *state) reserve(start sheepdog.VID) (sheepdog.VID, error) {
	if vid, ok := s.used.next(start); ok {
		return vid, nil
	}
	live := new(vidSet)
	for vid := range s.vids {
		live.add(vid)
	}
	vid, ok := live.next(start)
	if !ok {
		return 0, noIDs()
	}
	s.used = live
	s.families.all(func(_ sheepdog.FamilyID, n *familyNode) { n.retired = nil })
	return vid, nil
}

// install makes v the working VDI of a record and refers to its layer. The
// caller tells the family.
func (s *state) install(r *record, v VDI) {
	v.Name, v.Index = r.name, s.index
	r.vdi = &v
	s.names[r.name] = r
	s.vids[v.VID] = holder{rec: r}
	s.used.add(v.VID)
	s.layers.get(v.Layer).refs++
}

// uninstall takes the working VDI away and retires its id. The caller tells the
// family and must unref the layer.
func (s *state) uninstall(r *record) *layerNode {
	v := r.vdi
	r.vdi, r.isClone = nil, false
	s.retire(v)
	return s.layers.get(v.Layer)
}

func (s *state) retire(v *VDI) {
	delete(s.vids, v.VID)
	n := s.families.get(v.Family)
	n.retired = n.retired.insert(v.VID)
}

// finish ends a command that may have emptied families; with recycle the ids
// that were retired in them are free again.
func (s *state) finish(recycle bool) {
	for _, n := range s.emptied {
		if recycle {
			n.retired.each(s.used.remove)
		}
	}
	s.emptied = nil
}

// discard forgets the name if nothing has it any more.
func (s *state) discard(r *record) {
	if r.vdi == nil && len(r.snaps) == 0 {
		delete(s.names, r.name)
	}
}
