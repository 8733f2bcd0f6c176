package directory

import (
	"cmp"
	"slices"

	"sheepdog"
)

// List is every working VDI and snapshot by VDI id, without the trash.
func (d *Directory) List() []Entry {
	d.mu.RLock()
	s := d.state.Load()
	out := make([]Entry, 0, len(s.vids))
	for _, h := range s.vids {
		if h.rec.trash == nil {
			out = append(out, h.entry())
		}
	}
	d.mu.RUnlock()
	sortByVID(out)
	return out
}

// Count counts the working VDIs and the snapshots, and the VDIs in the trash.
func (d *Directory) Count() (vdis, snapshots, trashed int) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, r := range d.state.Load().names {
		snapshots += len(r.snaps)
		switch {
		case r.trash != nil:
			trashed++
		case r.vdi != nil:
			vdis++
		}
	}
	return vdis, snapshots, trashed
}

// ListName is the working VDI and the snapshots of one name by VDI id; empty if
// nothing has the name.
func (d *Directory) ListName(name string) []Entry {
	d.mu.RLock()
	var out []Entry
	if r := d.state.Load().names[name]; r != nil {
		if r.vdi != nil {
			out = append(out, holder{rec: r}.entry())
		}
		for _, snap := range r.snaps {
			out = append(out, *snap)
		}
	}
	d.mu.RUnlock()
	sortByVID(out)
	return out
}

func sortByVID(entries []Entry) {
	slices.SortFunc(entries, func(a, b Entry) int { return cmp.Compare(a.VID, b.VID) })
}

// Branch is a VDI or snapshot and what was started from it under its name, in
// the order of creation.
type Branch struct {
	Entry
	Children []*Branch
}

// Tree is List as a forest. Its roots, by VDI id, are what has no parent: VDIs
// created, clones, and children of deleted snapshots.
func (d *Directory) Tree() []*Branch {
	entries := d.List()
	branches := make(map[sheepdog.VID]*Branch, len(entries))
	for _, e := range entries {
		branches[e.VID] = &Branch{Entry: e}
	}
	var roots []*Branch
	for _, e := range entries {
		b := branches[e.VID]
		p := branches[e.Parent]
		if p == nil || p.Index != e.ParentIndex || p.Name != e.Name {
			roots = append(roots, b)
			continue
		}
		p.Children = append(p.Children, b)
	}
	for _, b := range branches {
		slices.SortFunc(b.Children, func(x, y *Branch) int { return cmp.Compare(x.Index, y.Index) })
	}
	return roots
}
