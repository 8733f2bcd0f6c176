package directory

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"sheepdog"
)

// imageVersion is of the format of Snapshot. Another one is refused.
const imageVersion = 1

// image is the whole directory as JSON. Everything is sorted, so that equal
// directories have equal images.
type image struct {
	Version    int               `json:"version"`
	Applied    uint64            `json:"applied"`
	LastLayer  sheepdog.LayerID  `json:"lastLayer"`
	LastFamily sheepdog.FamilyID `json:"lastFamily"`
	LastToken  sheepdog.Token    `json:"lastToken"`
	Retired    spans             `json:"retired"` // ids of what is deleted
	Families   []familyImage     `json:"families"`
	Layers     []*Layer          `json:"layers"`
	Names      []recordImage     `json:"names"`
	TrashKeep  uint64            `json:"trashKeepSeconds,omitempty"`
}

type familyImage struct {
	ID             sheepdog.FamilyID `json:"id"`
	Policy         sheepdog.Policy   `json:"copies"`
	BlockSizeShift uint8             `json:"blockSizeShift"`
	Token          sheepdog.Token    `json:"token,omitempty"`
	Coordinator    *Coordinator      `json:"coordinator,omitempty"`
	Claimed        sheepdog.Token    `json:"claimed,omitempty"`
	Retired        spans             `json:"retired,omitempty"`
}

type recordImage struct {
	Name      string            `json:"name"`
	VDI       *VDI              `json:"vdi,omitempty"`
	IsClone   bool              `json:"isClone,omitempty"`
	Attrs     map[string][]byte `json:"attrs,omitempty"`
	Snapshots []*Entry          `json:"snapshots,omitempty"`
	LastSnap  uint32            `json:"lastSnap,omitempty"`
	Trash     *Trash            `json:"trash,omitempty"`
}

// Snapshot encodes the directory for Restore.
func (d *Directory) Snapshot() ([]byte, error) { return d.Freeze()() }

// Freeze is what Snapshot would encode now. It holds up Apply while it gathers
// pointers; to encode them takes several times as long, and is for whoever calls encode.
func (d *Directory) Freeze() (encode func() ([]byte, error)) {
	img, used := d.gather()
	return func() ([]byte, error) { return img.encode(used) }
}

func (img *image) encode(used *vidSet) ([]byte, error) {
	img.Retired = used.spans()
	slices.SortFunc(img.Families, func(a, b familyImage) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(img.Layers, func(a, b *Layer) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(img.Names, func(a, b recordImage) int { return cmp.Compare(a.Name, b.Name) })
	out, err := json.Marshal(img)
	if err != nil {
		return nil, fmt.Errorf("encode VDI directory: %w", err)
	}
	return out, nil
}

// gather copies what may change under the lock; the rest is immutable.
func (d *Directory) gather() (*image, *vidSet) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	s := d.state.Load()
	img := &image{
		Version: imageVersion, Applied: d.applied.Load(),
		LastLayer: s.lastLayer, LastFamily: s.lastFamily, LastToken: s.lastToken,
		Names: make([]recordImage, 0, len(s.names)), TrashKeep: uint64(s.trashKeep / time.Second),
	}
	s.families.all(func(_ sheepdog.FamilyID, n *familyNode) { img.Families = append(img.Families, n.image()) })
	s.layers.all(func(id sheepdog.LayerID, n *layerNode) {
		if l := n.layer.Load(); l != nil {
			img.Layers = append(img.Layers, l)
		}
	})
	for _, r := range s.names {
		img.Names = append(img.Names, recordImage{
			Name: r.name, VDI: r.vdi, IsClone: r.isClone, Attrs: maps.Clone(r.attrs),
			Snapshots: slices.Clone(r.snaps), LastSnap: r.lastSnap, Trash: r.trash,
		})
	}
	retired := s.used.clone()
	for vid := range s.vids {
		retired.remove(vid)
	}
	return img, retired
}

func (n *familyNode) image() familyImage {
	f := n.family.Load()
	out := familyImage{
		ID: f.ID, Policy: f.Policy, BlockSizeShift: f.BlockSizeShift,
		Token: f.Token, Claimed: f.Claimed, Retired: slices.Clone(n.retired),
	}
	if !f.Coordinator.IsZero() {
		out.Coordinator = &f.Coordinator
	}
	return out
}
