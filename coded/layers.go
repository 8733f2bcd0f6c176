package coded

import (
	"errors"
	"fmt"
	"slices"

	"sheepdog"
)

// Layer is a coded layer as the directory lists it.
type Layer struct {
	ID     sheepdog.LayerID // of strip 0; strip k has ID+k
	Family sheepdog.FamilyID
	Policy sheepdog.Policy // of strips
	Shift  uint8           // object size as a power of two
	// Objects is how many objects a complete layer has.
	Objects  uint64
	Complete bool
	// Lost are objects, in ascending order, of which too few strips are left for
	// ever; some may never have been there. Left is how many there are besides.
	Lost []sheepdog.Index
	Left uint64
	// Based layers have something below, so that a block of zeros is not the same
	// as none.
	Based bool
}

func (l *Layer) layout() layout {
	return newLayout(l.Policy, uint32(1)<<(l.Shift-12))
}

func (l *Layer) object(i sheepdog.Index) sheepdog.ObjectID {
	return sheepdog.ObjectID{Family: l.Family, Index: i}
}

// lost reports whether an object is marked as lost.
func (l *Layer) lost(i sheepdog.Index) bool {
	_, found := slices.BinarySearch(l.Lost, i)
	return found
}

// left is how many objects are there and not lost.
func (l *Layer) left() uint64 {
	if len(l.Lost) > 0 {
		return l.Left
	}
	return l.Objects
}

// final ends the wait for strips that were given up.
func (l *Layer) final(i sheepdog.Index, err error) error {
	if errors.Is(err, errMissing) && l.lost(i) {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	return err
}

// strip is the layer id of strip k.
func (l *Layer) strip(k int) sheepdog.LayerID { return l.ID + sheepdog.LayerID(k) }

// Layers is what this package must know of the VDI directory.
type Layers interface {
	// Coded finds the coded layer that has the id, or one of whose strips has it.
	Coded(id sheepdog.LayerID) (Layer, bool)
	// AllCoded lists the coded layers by id.
	AllCoded() []Layer
	// CodedVersion moves with every change of what AllCoded lists.
	CodedVersion() uint64
	// Dropped reports whether the layer was listed once and will never be again.
	Dropped(id sheepdog.LayerID) bool
	// Changed is closed at the next change of the directory.
	Changed() <-chan struct{}
}

// Peers reaches the replicas of members, this node's own included.
type Peers interface {
	Replica(m sheepdog.Member) sheepdog.Replica
}

// Ring places partitions: for each the nodes that should hold it, best first,
// each in a zone of its own (package ring).
type Ring func(v *sheepdog.View, width int) [][]sheepdog.NodeID

// stripStamp is on every block of a strip: they are written once.
var stripStamp = sheepdog.Stamp{Token: 1, Seq: 1}

// homes are the members that should hold the strips of an object.
func homes(ring Ring, v *sheepdog.View, l *Layer, obj sheepdog.ObjectID) []sheepdog.Member {
	var out []sheepdog.Member
	for _, id := range ring(v, l.layout().strips())[obj.Partition()] {
		if m, ok := v.Member(id); ok {
			out = append(out, m)
		}
	}
	return out
}

// gone is the error for a layer that the directory does not list.
func gone(id sheepdog.LayerID) error {
	return fmt.Errorf("coded layer %d was deleted: %w", id, sheepdog.ErrNotFound)
}
