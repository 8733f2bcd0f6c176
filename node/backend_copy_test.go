package node

import (
	"errors"
	"strings"
	"testing"

	"sheepdog/api"
)

// A copy that is broken off is deleted. While its client was gone and the node had
// not noticed, the VDI may have been deleted and another one made of its name: that
// one was deleted in its place.
func TestBrokenCopyDeletesItselfOnly(t *testing.T) {
	n := startAlone(t)
	b := backend{n}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	create := func(name string) {
		t.Helper()
		_, err := b.CreateVDI(t.Context(), &api.CreateRequest{Name: name, SizeBytes: 8 << 20})
		must(err)
	}
	create("base")
	_, err := b.SnapshotVDI(t.Context(), &api.SnapshotRequest{Name: "base", Tag: "s"})
	must(err)
	gone := errors.New("the client is gone")
	copyInto := func(report func(api.CopyProgress) error) {
		t.Helper()
		if _, err := b.CopyVDI(t.Context(), &api.CloneRequest{Source: "base", Snapshot: "s", Name: "copy"}, report); !errors.Is(err, gone) {
			t.Fatalf("broken copy: %v", err)
		}
	}
	// A node that was killed left a VDI that looked like the whole.
	copyInto(func(api.CopyProgress) error {
		if v, err := b.lookup("copy"); err == nil {
			t.Errorf("%+v has its name before it is complete", v)
		}
		return gone
	})
	if vdis, err := b.VDIs(t.Context(), &api.VDIQuery{}); err != nil || len(vdis) != 2 {
		t.Errorf("left are %+v, %v", vdis, err)
	}
	longest := "pool/" + strings.Repeat("ä", 125)
	for _, name := range []string{"copy", longest} {
		v, err := b.CopyVDI(t.Context(), &api.CloneRequest{Source: "base", Snapshot: "s", Name: name}, func(api.CopyProgress) error { return nil })
		must(err)
		if v.Name != name {
			t.Errorf("the copy is called %q, not %q", v.Name, name)
		}
	}
	// Beside snapshots of its name a copy has it from the beginning.
	_, err = b.SnapshotVDI(t.Context(), &api.SnapshotRequest{Name: "copy"})
	must(err)
	must(b.DeleteVDI(t.Context(), &api.DeleteRequest{Name: "copy"}))
	copyInto(func(api.CopyProgress) error {
		must(b.DeleteVDI(t.Context(), &api.DeleteRequest{Name: "copy"}))
		create("copy")
		return gone
	})
	if _, err := b.lookup("copy"); err != nil {
		t.Errorf("the other VDI of the name: %v", err)
	}
}
