package directory

import (
	"encoding/json"
	"strings"
	"time"

	"sheepdog"
)

// Restore replaces the directory by one that Snapshot encoded. What is not
// sound is refused whole, and nothing changes.
func (d *Directory) Restore(encoded []byte) error {
	var version struct{ Version int }
	if err := json.Unmarshal(encoded, &version); err != nil {
		return invalid("image of the VDI directory: %v", err)
	}
	if version.Version != imageVersion {
		return invalid("image of the VDI directory has version %d, this program reads %d; run the version that wrote it",
			version.Version, imageVersion)
	}
	var img image
	if err := strictJSON(encoded, &img); err != nil {
		return invalid("image of the VDI directory: %v", err)
	}
	s, err := img.load()
	if err != nil {
		return invalid("image of the VDI directory: %v", err)
	}
	defer d.watch.wake()
	d.lock()
	defer d.unlock()
	d.replace(s)
	d.applied.Store(img.Applied)
	return nil
}

// load builds the state step by step, each checking what it needs of those
// before.
func (img *image) load() (*state, error) {
	s := newState()
	s.lastLayer, s.lastFamily, s.lastToken = img.LastLayer, img.LastFamily, img.LastToken
	if img.TrashKeep > MaxTrashSeconds {
		return nil, invalid("trash that keeps VDIs for %d s", img.TrashKeep)
	}
	s.trashKeep = time.Duration(img.TrashKeep) * time.Second
	for _, step := range []func(*state) error{
		img.loadFamilies, img.loadLayers, img.linkLayers, img.checkDepth,
		img.loadNames, img.checkWorking, img.loadRetired,
	} {
		if err := step(s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (img *image) loadFamilies(s *state) error {
	for _, f := range img.Families {
		if f.ID == 0 || f.ID > s.lastFamily || s.families.get(f.ID) != nil || f.Token > s.lastToken || f.Claimed > s.lastToken {
			return invalid("family %d is unknown to the counters, or listed twice", f.ID)
		}
		policy := f.Policy
		if policy.IsStrips() {
			policy.Parity = uint8(policy.ParityStrips())
		}
		if err := CheckPolicy(policy); err != nil {
			return err
		}
		if err := CheckGeometry(f.BlockSizeShift); err != nil {
			return err
		}
		family := &Family{ID: f.ID, Policy: f.Policy, BlockSizeShift: f.BlockSizeShift, Token: f.Token, Claimed: f.Claimed}
		if f.Coordinator != nil {
			family.Coordinator = *f.Coordinator
		}
		n := &familyNode{retired: f.Retired}
		n.family.Store(family)
		s.families.fill(f.ID, n)
	}
	return nil
}

func (img *image) loadLayers(s *state) error {
	for _, l := range img.Layers {
		if l == nil {
			return invalid("layer is null")
		}
		f := s.families.get(l.Family)
		if f == nil {
			return invalid("layer %d is of family %d, which is not listed", l.ID, l.Family)
		}
		f.layers++
		n := &layerNode{}
		n.layer.Store(l)
		if err := s.fillLayer(l.ID, n); err != nil {
			return err
		}
		for _, id := range append(l.stripIDs()[1:], l.Absorbed...) {
			if err := s.fillLayer(id, &layerNode{into: n}); err != nil {
				return err
			}
		}
		if len(l.Absorbed) > 0 {
			s.absorbing[l.ID] = n
		}
		s.sort(n)
	}
	return nil
}

func (s *state) fillLayer(id sheepdog.LayerID, n *layerNode) error {
	if id == 0 || id > s.lastLayer || s.layers.get(id) != nil {
		return invalid("layer %d is unknown to the counter, or listed twice", id)
	}
	s.layers.fill(id, n)
	return nil
}

// frozenLayer finds a layer that another one may stand on.
func (s *state) frozenLayer(id sheepdog.LayerID) *Layer {
	n := s.layers.get(id)
	if n == nil {
		return nil
	}
	if l := n.layer.Load(); l != nil && l.Frozen {
		return l
	}
	return nil
}

func (img *image) linkLayers(s *state) error {
	for _, l := range img.Layers {
		if l.Parent != 0 {
			p := s.frozenLayer(l.Parent)
			if p == nil || p.Family != l.Family || l.Base != 0 || l.Frozen && !l.Written {
				return invalid("layer %d cannot stand on layer %d", l.ID, l.Parent)
			}
		}
		if l.Base != 0 {
			if b := s.frozenLayer(l.Base); b == nil || b.Family == l.Family || !b.Written && b.Base == 0 {
				return invalid("layer %d cannot have layer %d as its base", l.ID, l.Base)
			}
		}
		if len(l.Absorbed) > 0 && !l.Written {
			return invalid("layer %d has absorbed others and is not written", l.ID)
		}
		s.link(s.layers.get(l.ID))
		if err := s.linkCoding(l); err != nil {
			return err
		}
	}
	return nil
}

// linkCoding checks what encodings say of a layer, and counts what they hold.
func (s *state) linkCoding(l *Layer) error {
	strips := s.families.get(l.Family).family.Load().Policy
	if coded := l.Strips > 0; coded != strips.IsStrips() || coded && (int(l.Strips) != strips.Zones() || !l.Frozen || !l.Written || len(l.Absorbed) > 0) {
		return invalid("layer %d has %d strips in a family of policy %s", l.ID, l.Strips, strips)
	}
	if (len(l.Lost) > 0 || l.Left > 0) && !l.complete() || l.Left > l.Objects {
		return invalid("layer %d has lost objects and is not a complete coded one, or has more left than it had", l.ID)
	}
	if l.Coding != (sheepdog.Policy{}) {
		if err := checkCoded(l.Coding); err != nil {
			return err
		}
	}
	if l.Recoding == 0 && !l.Retiring {
		if l.Was != 0 {
			return invalid("layer %d was based on layer %d and is not retiring", l.ID, l.Was)
		}
		return nil
	}
	held := l.Recoding + l.Was
	if held != 0 && s.frozenLayer(held) == nil || !l.Frozen || l.Recoding != 0 && (l.Retiring || s.frozenLayer(l.Recoding).Strips == 0) {
		return invalid("layer %d is said to be encoded into %d", l.ID, l.Recoding)
	}
	s.layers.get(l.ID).refs++
	if held != 0 {
		s.layers.get(held).refs++
	}
	return nil
}

// checkDepth refuses circles: every way down must end.
func (img *image) checkDepth(s *state) error {
	seenBy := make(map[sheepdog.LayerID]int, len(img.Layers)) // the walk, from 1
	for walk, l := range img.Layers {
		for id := l.ID; id != 0; {
			if seen := seenBy[id]; seen == walk+1 {
				return invalid("layer %d stands on itself", id)
			} else if seen != 0 {
				break
			}
			seenBy[id] = walk + 1
			below := s.layers.get(id).layer.Load()
			id = below.Parent + below.Base
		}
	}
	return nil
}

func (img *image) loadNames(s *state) error {
	for i := range img.Names {
		in := &img.Names[i]
		if err := in.checkName(); err != nil {
			return err
		}
		if s.names[in.Name] != nil || in.VDI == nil && len(in.Snapshots) == 0 {
			return invalid("name %q is listed twice, or has nothing", in.Name)
		}
		r := &record{name: in.Name, vdi: in.VDI, attrs: in.Attrs, lastSnap: in.LastSnap, trash: in.Trash, tags: make(map[string]*Entry)}
		s.names[in.Name] = r
		if err := s.loadVDI(r, in); err != nil {
			return err
		}
		for _, snap := range in.Snapshots {
			if err := s.loadSnapshot(r, snap); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkName holds the names of users and those of the trash apart.
func (in *recordImage) checkName() error {
	t := in.Trash
	if t == nil {
		return CheckName(in.Name)
	}
	if in.VDI == nil || len(in.Snapshots) > 0 || !strings.HasPrefix(in.Name, trashMark+t.Name+trashMark) {
		return invalid("VDI %q cannot be in the trash", in.Name)
	}
	return CheckName(t.Name)
}

func (s *state) loadVDI(r *record, in *recordImage) error {
	if r.vdi == nil {
		if in.IsClone || len(in.Attrs) > 0 {
			return invalid("VDI %q does not exist and has attributes", r.name)
		}
		return nil
	}
	r.isClone = in.IsClone
	if err := checkAttrs(r.name, r.attrs); err != nil {
		return err
	}
	r.attrBytes = attrBytes(r.attrs)
	l, err := s.place(r, r.vdi, holder{rec: r})
	if err != nil {
		return err
	}
	if r.trash != nil {
		if !l.Frozen {
			return invalid("layer %d of a VDI in the trash is not frozen", l.ID)
		}
		return nil
	}
	if f := s.families.get(l.Family).family.Load(); l.Frozen || f.Working != 0 {
		return invalid("layer %d is not the only working layer of family %d", l.ID, l.Family)
	}
	s.publish(r.vdi)
	return nil
}

func (s *state) loadSnapshot(r *record, snap *Entry) error {
	if snap == nil {
		return invalid("snapshot of VDI %q is null", r.name)
	}
	if err := CheckTag(snap.Tag); err != nil {
		return err
	}
	if err := checkDescription(snap.Description); err != nil {
		return err
	}
	if snap.Attrs != nil {
		if err := checkAttrs(r.name, *snap.Attrs); err != nil {
			return err
		}
	}
	n := len(r.snaps)
	if snap.SnapID == 0 || snap.SnapID > r.lastSnap || n > 0 && r.snaps[n-1].SnapID >= snap.SnapID || snap.IsClone {
		return invalid("snapshot %d of VDI %q is out of order", snap.SnapID, r.name)
	}
	if snap.Tag != "" {
		if r.tags[snap.Tag] != nil {
			return invalid("snapshot tag %q of VDI %q is listed twice", snap.Tag, r.name)
		}
		r.tags[snap.Tag] = snap
	}
	l, err := s.place(r, &snap.VDI, holder{rec: r, snap: snap})
	if err != nil {
		return err
	}
	if !l.Frozen {
		return invalid("layer %d of a snapshot of VDI %q is not frozen", l.ID, r.name)
	}
	r.snaps = append(r.snaps, snap)
	return nil
}

// place checks what VDIs and snapshots have in common, takes the id and refers
// to the layer.
func (s *state) place(r *record, v *VDI, h holder) (*Layer, error) {
	if _, taken := s.vids[v.VID]; taken || v.VID == 0 || v.VID >= vidSpace || v.Name != r.name {
		return nil, invalid("id %s of VDI %q is out of range, or has two holders", v.VID, r.name)
	}
	n := s.layers.get(v.Layer)
	if n == nil || n.layer.Load() == nil {
		return nil, invalid("layer %d of VDI %q is not listed", v.Layer, r.name)
	}
	l := n.layer.Load()
	f := s.families.get(l.Family).family.Load()
	if l.Family != v.Family || f.Policy != v.Policy || f.BlockSizeShift != v.BlockSizeShift {
		return nil, invalid("VDI %q differs from its family %d", r.name, l.Family)
	}
	if err := CheckSize(v.Size, v.BlockSizeShift); err != nil {
		return nil, err
	}
	n.refs++
	s.vids[v.VID] = h
	s.used.add(v.VID)
	return l, nil
}

// checkWorking looks for what should have been gone.
func (img *image) checkWorking(s *state) error {
	for _, l := range img.Layers {
		if n := s.layers.get(l.ID); n.refs == 0 && (!l.Frozen || len(n.children) == 0) {
			return invalid("layer %d has no user", l.ID)
		}
	}
	for _, f := range img.Families {
		n := s.families.get(f.ID)
		if family := n.family.Load(); n.layers == 0 || family.Working == 0 && f.Coordinator != nil {
			return invalid("family %d has a coordinator or no layers, and no VDI", f.ID)
		}
	}
	return nil
}

func (img *image) loadRetired(s *state) error {
	if err := img.Retired.check(); err != nil {
		return err
	}
	clash := false
	img.Retired.each(func(vid sheepdog.VID) {
		clash = clash || s.used.has(vid)
		s.used.add(vid)
	})
	for _, f := range img.Families {
		if err := f.Retired.check(); err != nil {
			return err
		}
		f.Retired.each(func(vid sheepdog.VID) {
			_, live := s.vids[vid]
			clash = clash || live || !s.used.has(vid)
		})
	}
	if clash {
		return invalid("an id is both retired and in use")
	}
	return nil
}
