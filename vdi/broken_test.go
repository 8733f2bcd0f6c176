package vdi

import (
	"errors"
	"testing"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// TestLostBlockFailsAlone: what is read with it in one chunk of a frozen layer is
// there, and so is what a layer above has in its place.
func TestLostBlockFailsAlone(t *testing.T) {
	w := newWorld()
	m := w.manager(t, 1)
	create(t, m, "base", 4<<20)
	base := open(t, m, "base", "")
	write(t, base, 0, fill(8*4096, 1))
	if _, err := m.Snapshot(t.Context(), directory.Snapshot{Name: "base", Clone: &directory.CloneOf{Name: "c"}}); err != nil {
		t.Fatal(err)
	}
	family := base.family.Load().id
	w.broken = func(r *sheepdog.ReadRequest) error {
		if r.Object.Family == family && r.Start <= 3 && uint32(r.Start)+r.Count > 3 {
			return sheepdog.ErrIO
		}
		return nil
	}
	c := open(t, m, "c", "")
	expect(t, c, 2*4096, fill(4096, 1))
	expect(t, c, 4*4096, fill(4*4096, 1))
	for _, at := range []uint64{3 * 4096, 2 * 4096} {
		if err := c.ReadAt(t.Context(), make([]byte, 2*4096), at); !errors.Is(err, sheepdog.ErrIO) {
			t.Errorf("a read at %d of what is lost: %v", at, err)
		}
	}
	write(t, c, 3*4096, fill(4096, 2))
	expect(t, c, 3*4096, fill(4096, 2))
	if _, err := m.Snapshot(t.Context(), directory.Snapshot{Name: "c", Tag: "later"}); err != nil {
		t.Fatal(err)
	}
	expect(t, c, 2*4096, append(fill(4096, 1), fill(4096, 2)...))
	expect(t, open(t, m, "c", "later"), 2*4096, append(fill(4096, 1), fill(4096, 2)...))
}
