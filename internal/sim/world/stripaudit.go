package world

import (
	"fmt"
	"slices"

	"sheepdog"
	"sheepdog/cluster/ring"
	"sheepdog/vdi/directory"
)

// stripAudit checks the coded layers: every object has each of its strips once,
// on the nodes that the ring wants, one to a node, and nothing is being encoded.
type stripAudit struct {
	dir    *directory.Directory
	rows   map[int][][]sheepdog.NodeID
	view   *sheepdog.View
	strips map[sheepdog.LayerID]map[sheepdog.Index][][]sheepdog.NodeID
}

func newStripAudit(v *sheepdog.View, dir *directory.Directory) *stripAudit {
	return &stripAudit{dir: dir, view: v, rows: make(map[int][][]sheepdog.NodeID), strips: make(map[sheepdog.LayerID]map[sheepdog.Index][][]sheepdog.NodeID)}
}

// add notes a strip; false if the entry is none.
func (a *stripAudit) add(h *Host, e sheepdog.ListEntry) bool {
	l, ok := a.dir.Coded(e.Layer)
	if !ok {
		return false
	}
	if a.strips[l.ID] == nil {
		a.strips[l.ID] = make(map[sheepdog.Index][][]sheepdog.NodeID)
	}
	if a.strips[l.ID][e.Object.Index] == nil {
		a.strips[l.ID][e.Object.Index] = make([][]sheepdog.NodeID, l.Strips)
	}
	k := int(e.Layer - l.ID)
	a.strips[l.ID][e.Object.Index][k] = append(a.strips[l.ID][e.Object.Index][k], sheepdog.NodeID(h.Number))
	return true
}

func (a *stripAudit) check() error {
	for _, l := range a.dir.CodingWork() {
		if l.Recoding != 0 || l.Retiring || l.Frozen {
			return fmt.Errorf("layer %d is to be encoded still: %+v", l.ID, l)
		}
	}
	for _, l := range a.dir.AllCoded() {
		if uint64(len(a.strips[l.ID])) != l.Objects {
			return fmt.Errorf("coded layer %d has %d objects, %d are there", l.ID, l.Objects, len(a.strips[l.ID]))
		}
		width := int(l.Strips)
		if a.rows[width] == nil {
			a.rows[width] = ring.Place(a.view.Members, width)
		}
		for index, strips := range a.strips[l.ID] {
			homes := slices.Clone(a.rows[width][sheepdog.ObjectID{Family: l.Family, Index: index}.Partition()])
			for k, on := range strips {
				at := -1
				if len(on) == 1 {
					at = slices.Index(homes, on[0])
				}
				if at < 0 {
					return fmt.Errorf("strip %d of object %d of coded layer %d is on %v, left of its homes are %v", k, index, l.ID, on, homes)
				}
				homes = slices.Delete(homes, at, at+1)
			}
		}
	}
	return nil
}
