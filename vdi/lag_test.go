package vdi

import (
	"context"
	"errors"
	"testing"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// aheadObjects answers as a node whose directory has dropped a layer of which
// the one here has not heard yet.
type aheadObjects struct {
	Objects
	lists func() error
}

func (o aheadObjects) LayerIndexes(context.Context, sheepdog.Scope, sheepdog.LayerID, func(sheepdog.Index)) error {
	return o.lists()
}

// TestListOfALayerThatOthersHaveDropped is what the simulation found: a takeover
// right after a snapshot was deleted failed a guest's write, because the
// directory here still listed the layer.
func TestListOfALayerThatOthersHaveDropped(t *testing.T) {
	dir := directory.New()
	apply := func(cmd directory.Command) []byte {
		t.Helper()
		kind, body, err := directory.Encode(cmd)
		if err != nil {
			t.Fatal(err)
		}
		out, err := dir.Apply(dir.Applied()+1, kind, body)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	apply(&directory.Create{Name: "a", Size: 1 << 20, Policy: sheepdog.Policy{Copies: 1}, BlockSizeShift: 22})
	v, err := dir.Lookup("a")
	if err != nil {
		t.Fatal(err)
	}
	fam, _ := dir.Family(v.Family)
	apply(&directory.Acquire{Family: fam.ID, Node: 1, Incarnation: 1, IfToken: fam.Token})
	fam, _ = dir.Family(v.Family)
	apply(&directory.MarkWritten{Layer: fam.Working, Token: fam.Token})
	calls := 0
	objects := aheadObjects{lists: func() error {
		if calls++; calls < 3 {
			return sheepdog.ErrNotFound
		}
		return nil
	}}
	if err := loadObjectMap(t.Context(), dir, objects, fam.Working, newIndexSet()); err != nil || calls != 3 {
		t.Errorf("after %d lists: %v", calls, err)
	}
	apply(&directory.Delete{Name: "a"})
	if err := loadObjectMap(t.Context(), dir, objects, fam.Working, newIndexSet()); !errors.Is(err, sheepdog.ErrNotFound) {
		t.Errorf("map of a deleted layer: %v", err)
	}
}
