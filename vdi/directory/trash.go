package directory

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"sheepdog"
)

// trashMark begins and divides the names of records in the trash. It is a
// control character, so no user can name them.
const trashMark = "\x7f"

// Trash is what is remembered of a VDI that was deleted while the trash was on.
type Trash struct {
	Name    string    `json:"name"` // that it had
	Deleted time.Time `json:"deleted"`
	Expires time.Time `json:"expires,omitzero"` // zero: never
}

// Trashed is a VDI in the trash; its name is the one that it had.
type Trashed struct {
	VDI
	Deleted time.Time
	Expires time.Time // zero: never
}

func trashKey(name string, index uint64) string {
	return fmt.Sprintf("%s%s%s%d", trashMark, name, trashMark, index)
}

// SetTrash turns the trash on or off for deletions to come. What is in it stays
// until it expires or is purged.
type SetTrash struct {
	Time time.Time `json:"time"`
	// KeepSeconds is how long deleted VDIs are kept; 0: the trash is off.
	KeepSeconds uint64 `json:"keepSeconds"`
}

// MaxTrashSeconds is the longest that the trash may keep VDIs: a hundred years.
const MaxTrashSeconds = 100 * 365 * 24 * 3600

func (c *SetTrash) validate() error {
	if c.KeepSeconds > MaxTrashSeconds {
		return invalid("trash that keeps VDIs for %d s: at most %d are allowed", c.KeepSeconds, uint64(MaxTrashSeconds))
	}
	return nil
}

func (c *SetTrash) apply(s *state) (any, error) {
	s.trashKeep = time.Duration(c.KeepSeconds) * time.Second
	return nil, nil
}

// discardTo moves the working VDI of a record into the trash. Its layer freezes,
// so that its family is free for a rollback of what is left under the name; id
// and attributes stay.
func (s *state) discardTo(r *record, at time.Time) {
	at = utc(at)
	t := &record{name: trashKey(r.name, s.index), attrs: r.attrs, attrBytes: r.attrBytes, isClone: r.isClone,
		tags: make(map[string]*Entry), trash: &Trash{Name: r.name, Deleted: at, Expires: at.Add(s.trashKeep)}}
	v := *r.vdi
	old := s.layers.get(v.Layer)
	if old.layer.Load().Written {
		s.change(old, func(l *Layer) { l.Frozen = true })
	} else {
		v.Layer, _ = s.freeze(v.Layer)
	}
	s.layers.get(v.Layer).refs++
	v.Name = t.name
	t.vdi = &v
	s.names[t.name], s.vids[v.VID] = t, holder{rec: t}
	r.vdi, r.attrs, r.attrBytes, r.isClone = nil, nil, 0, false
	s.vacate(v.Family)
	s.discard(r)
	s.unref(old)
}

// Untrash takes a VDI back out of the trash. The error wraps ErrNoVDI if the id
// is not in the trash, ErrExists if a working VDI has the name.
type Untrash struct {
	Time time.Time    `json:"time"`
	VID  sheepdog.VID `json:"vid"`
	Name string       `json:"name,omitempty"` // empty: the one that it had
}

func (c *Untrash) validate() error {
	if c.Name == "" {
		return nil
	}
	return CheckName(c.Name)
}

func (c *Untrash) apply(s *state) (any, error) {
	t, err := s.trashed(c.VID)
	if err != nil {
		return nil, err
	}
	name := c.Name
	if name == "" {
		name = t.trash.Name
	}
	r, err := s.claim(name)
	if err != nil {
		return nil, err
	}
	v := *t.vdi
	frozen := v.Layer
	r.attrs, r.attrBytes, r.isClone = t.attrs, t.attrBytes, t.isClone
	if s.belongs(r, &v) {
		v.Layer = s.addLayer(Layer{Family: v.Family, Parent: frozen}).id()
	} else {
		// Others may roll back to what is in its family: it goes on as a clone does.
		v.Family = s.addFamily(v.Policy, v.BlockSizeShift)
		v.Layer = s.addLayer(Layer{Family: v.Family, Base: s.solid(frozen)}).id()
		r.isClone = true
	}
	index := v.Index
	s.install(r, v)
	r.vdi.Index = index // it is the one that it was
	t.vdi = nil
	delete(s.names, t.name)
	s.publish(r.vdi)
	s.unref(s.layers.get(frozen))
	s.finish(false)
	return nil, nil
}

// belongs reports whether a VDI from the trash can be the working one of its
// family under r: the family has none, and whoever may make one is r too.
func (s *state) belongs(r *record, v *VDI) bool {
	f, frozen := s.families.get(v.Family), s.layers.get(v.Layer)
	if f.family.Load().Working != 0 {
		return false
	}
	alone := f.layers == 1 && frozen.refs == 1
	return alone || slices.ContainsFunc(r.snaps, func(e *Entry) bool { return e.Family == v.Family })
}

func (s *state) trashed(vid sheepdog.VID) (*record, error) {
	h, ok := s.vids[vid]
	if !ok || h.rec.trash == nil {
		return nil, fmt.Errorf("%w: id %s is not in the trash; see `dog vdi trash list`", ErrNoVDI, vid)
	}
	return h.rec, nil
}

// Purge deletes a VDI in the trash for good. The result is Deleted.
type Purge struct {
	Time time.Time    `json:"time"`
	VID  sheepdog.VID `json:"vid"`
	// RecycleVIDs frees ids of families that this command ends.
	RecycleVIDs bool `json:"recycleVIDs,omitempty"`
}

func (c *Purge) validate() error { return nil }

func (c *Purge) apply(s *state) (any, error) {
	t, err := s.trashed(c.VID)
	if err != nil {
		return nil, err
	}
	out := s.eraseTrash(t)
	s.finish(c.RecycleVIDs)
	return out, nil
}

// eraseTrash deletes a record of the trash. The command must end with finish.
func (s *state) eraseTrash(t *record) *Deleted {
	v := *t.vdi
	layer := s.uninstall(t)
	delete(s.names, t.name)
	s.unref(layer)
	return &Deleted{VID: v.VID, Family: v.Family}
}

// Expire deletes the snapshots, and purges the VDIs in the trash, whose time is
// over at Time.
type Expire struct {
	Time time.Time `json:"time"`
	// RecycleVIDs frees ids of families that this command ends.
	RecycleVIDs bool `json:"recycleVIDs,omitempty"`
}

func (c *Expire) validate() error { return nil }

func (c *Expire) apply(s *state) (any, error) {
	due := func(t time.Time) bool { return !t.IsZero() && !t.After(c.Time) }
	var records []*record
	for _, r := range s.names {
		records = append(records, r)
	}
	// In the order of names: all nodes must do the same in the same order.
	slices.SortFunc(records, func(a, b *record) int { return strings.Compare(a.name, b.name) })
	for _, r := range records {
		if r.trash != nil && due(r.trash.Expires) {
			s.eraseTrash(r)
			continue
		}
		for _, snap := range slices.Clone(r.snaps) {
			if due(snap.Expires) {
				s.eraseSnapshot(r, snap)
			}
		}
	}
	s.finish(c.RecycleVIDs)
	return nil, nil
}

// Trash lists what is in the trash, by VDI id.
func (d *Directory) Trash() []Trashed {
	d.mu.RLock()
	defer d.mu.RUnlock()
	var out []Trashed
	for _, r := range d.state.Load().names {
		if r.trash == nil {
			continue
		}
		t := Trashed{VDI: *r.vdi, Deleted: r.trash.Deleted, Expires: r.trash.Expires}
		t.Name = r.trash.Name
		out = append(out, t)
	}
	slices.SortFunc(out, func(a, b Trashed) int { return cmp.Compare(a.VID, b.VID) })
	return out
}

// TrashKeep is how long deleted VDIs are kept; 0: the trash is off.
func (d *Directory) TrashKeep() time.Duration {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.state.Load().trashKeep
}

// Expiring reports whether anything ends by itself, now or ever.
func (d *Directory) Expiring() bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, r := range d.state.Load().names {
		if r.trash != nil && !r.trash.Expires.IsZero() || slices.ContainsFunc(r.snaps, func(e *Entry) bool { return !e.Expires.IsZero() }) {
			return true
		}
	}
	return false
}

// Due reports whether Expire would find something at the time.
func (d *Directory) Due(now time.Time) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	due := func(t time.Time) bool { return !t.IsZero() && !t.After(now) }
	for _, r := range d.state.Load().names {
		if r.trash != nil && due(r.trash.Expires) || slices.ContainsFunc(r.snaps, func(e *Entry) bool { return due(e.Expires) }) {
			return true
		}
	}
	return false
}
