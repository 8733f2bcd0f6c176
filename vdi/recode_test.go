package vdi

import (
	"context"
	"errors"
	"testing"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// failingCoder encodes nothing.
type failingCoder struct{}

func (failingCoder) Encode(context.Context, sheepdog.LayerID, sheepdog.Index, func(context.Context, sheepdog.BlockNo, uint32, []byte, []sheepdog.BlockState) error) (map[sheepdog.NodeID]sheepdog.Incarnation, error) {
	return nil, errors.New("a holder has ended")
}

func (failingCoder) Flush(context.Context, sheepdog.LayerID, map[sheepdog.NodeID]sheepdog.Incarnation) error {
	return nil
}

// Bug, found by the simulation (TestCoded, seed 203): a node failed to encode a
// layer whose family another node was to work for by then. That one waited for the
// encoder, which lived, and the encoder looked at families of its own only: the layer
// was never encoded.
func TestEncoderGivesUpWhatIsAnotherNodesByNow(t *testing.T) {
	w := newWorld()
	m := w.manager(t, 1)
	w.manager(t, 2)
	policy := sheepdog.Policy{Copies: 4, Parity: 2}
	if _, err := m.Create(t.Context(), directory.Create{Name: "v", Size: 4 << 20, Policy: policy, BlockSizeShift: testShift}); err != nil {
		t.Fatal(err)
	}
	v := open(t, m, "v", "")
	write(t, v, 0, fill(4096, 1))
	if err := v.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.opt.Coder = failingCoder{}
	e, err := w.dir.Lookup("v")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.recode(t.Context(), &directory.Recode{Layer: e.Layer, Policy: policy, Freeze: true}); err == nil {
		t.Fatal("encoded by a coder that cannot")
	}
	if _, err := w.managers[2].commitAcquire(t.Context(), familyNow(t, w, "v")); err != nil {
		t.Fatal(err)
	}
	for _, id := range []sheepdog.NodeID{2, 1} {
		r := &recoder{m: w.managers[id], known: make(map[sheepdog.LayerID]witnessed), small: make(map[sheepdog.LayerID]measured)}
		r.failed.Store(r.m.elapsed()) // nothing is begun anew
		r.look()
	}
	if l, ok := w.dir.Layer(e.Layer); ok && l.Recoding != 0 {
		t.Errorf("the layer is still being encoded: %+v", l)
	}
}

// familyNow is the family that a VDI is in.
func familyNow(t *testing.T, w *world, name string) directory.Family {
	t.Helper()
	e, err := w.dir.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	f, _ := w.dir.Family(e.Family)
	return f
}
