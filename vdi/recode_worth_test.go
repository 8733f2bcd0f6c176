package vdi

import (
	"context"
	"testing"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// TestVDIThatIsWrittenAfterItWasMeasuredIsEncoded: a look at a VDI between the commit
// of its first write and the write itself found nothing worth it, and was taken for
// the last word once the writer had left.
func TestVDIThatIsWrittenAfterItWasMeasuredIsEncoded(t *testing.T) {
	w := newWorld()
	m := w.manager(t, 1)
	policy := sheepdog.Policy{Copies: 4, Parity: 2}
	if _, err := m.Create(t.Context(), directory.Create{Name: "v", Size: 4 << 20, Policy: policy, BlockSizeShift: testShift}); err != nil {
		t.Fatal(err)
	}
	v, err := m.Open("v", "")
	if err != nil {
		t.Fatal(err)
	}
	r := &recoder{m: m, small: make(map[sheepdog.LayerID]measured)}
	worth := func() bool {
		t.Helper()
		e, err := m.opt.Directory.Lookup("v")
		if err != nil {
			t.Fatal(err)
		}
		l, _ := m.opt.Directory.Layer(e.Layer)
		f, _ := m.opt.Directory.Family(e.Family)
		ok, err := r.worth(t.Context(), &l, f, policy)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if err := v.do(t.Context(), func(c *coordinator, _ target) error { return c.markWritten(t.Context()) }); err != nil {
		t.Fatal(err)
	}
	if worth() {
		t.Error("nothing is worth it")
	}
	write(t, v, 0, fill(4096, 1))
	v.Close(context.Background())
	e, err := m.opt.Directory.Lookup("v")
	if err != nil {
		t.Fatal(err)
	}
	if f, ok := m.opt.Directory.Family(e.Family); !ok || !f.Coordinator.IsZero() {
		t.Fatal("the closed VDI was not given back")
	}
	if !worth() {
		t.Error("what was written since is not seen")
	}
}
