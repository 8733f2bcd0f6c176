package directory

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"sheepdog"
)

// codedWorld has the VDI v, whose data are coded, and returns the coded layer.
func codedWorld(t *testing.T) (*world, sheepdog.LayerID) {
	t.Helper()
	w, policy := newWorld(t), sheepdog.Policy{Copies: 2, Parity: 1}
	w.must(&Create{Name: "v", Size: 40 << 20, Policy: policy, BlockSizeShift: 20})
	if err := w.write("v"); err != nil {
		t.Fatal(err)
	}
	v, err := w.d.Lookup("v")
	if err != nil {
		t.Fatal(err)
	}
	w.must(&Recode{Layer: v.Layer, Policy: policy, Encoder: Coordinator{Node: 1, Incarnation: 1}, Freeze: true, IfToken: w.tokenOf("v", 0)})
	l, _ := w.d.Layer(v.Layer)
	w.must(&Recoded{Layer: v.Layer, Coded: l.Recoding, Objects: 30})
	w.must(&Retire{Layer: v.Layer})
	return w, l.Recoding
}

// What is lost of a coded layer stays marked, also over a restore, adds up, and is
// encoded into no other layer.
func TestLosses(t *testing.T) {
	w, coded := codedWorld(t)
	w.must(&Lose{Layer: coded, Objects: IndexList{3, 7, 39}, Left: 27})
	w.must(&Lose{Layer: coded, Objects: IndexList{0, 7}, Left: 26})
	if err := w.d.Restore(w.image()); err != nil {
		t.Fatal(err)
	}
	l, ok := w.d.Coded(coded)
	if !ok || !slices.Equal(l.Lost, IndexList{0, 3, 7, 39}) || l.Left != 26 || l.Objects != 30 {
		t.Errorf("%+v", l)
	}
	if !l.Lost.Has(39) || l.Lost.Has(4) {
		t.Error("the wrong objects are lost")
	}
	v, err := w.d.Lookup("v")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []sheepdog.LayerID{v.Layer, 999} {
		if _, err := w.run(&Lose{Layer: id, Objects: IndexList{1}}); !errors.Is(err, sheepdog.ErrConflict) {
			t.Errorf("loss of layer %d: %v", id, err)
		}
	}
	if err := w.write("v"); err != nil {
		t.Fatal(err)
	}
	w.must(&Recode{Layer: v.Layer, Policy: sheepdog.Policy{Copies: 2, Parity: 1}, Encoder: Coordinator{Node: 1, Incarnation: 1}, Freeze: true, IfToken: w.tokenOf("v", 0)})
	now, _ := w.d.Layer(v.Layer)
	if next, _ := w.d.Layer(now.Recoding); next.Base != coded {
		t.Errorf("the next coded layer stands on %d and not on %d, which has lost objects", next.Base, coded)
	}
}

func TestIndexList(t *testing.T) {
	for _, l := range []IndexList{{}, {0}, {5, 6, 1 << 20}, {1<<32 - 1}, {0, 1<<32 - 1}} {
		b, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		var back IndexList
		if err := json.Unmarshal(b, &back); err != nil || !slices.Equal(l, back) {
			t.Errorf("%v became %s and %v (%v)", l, b, back, err)
		}
	}
	if _, err := json.Marshal(IndexList{2, 2}); err == nil {
		t.Error("an index twice was encoded")
	}
	var l IndexList
	for _, text := range []string{`"!"`, `"gA=="`, `"/////w8A"`, `"gICAgBA="`} {
		if err := json.Unmarshal([]byte(text), &l); !errors.Is(err, sheepdog.ErrInvalid) {
			t.Errorf("%s: %v, %v", text, l, err)
		}
	}
}
