package node

import (
	"errors"
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
	copyInto(func(api.CopyProgress) error { return gone })
	if v, err := b.lookup("copy"); err == nil {
		t.Errorf("%+v is left", v)
	}
	copyInto(func(api.CopyProgress) error {
		must(b.DeleteVDI(t.Context(), &api.DeleteRequest{Name: "copy"}))
		create("copy")
		return gone
	})
	if _, err := b.lookup("copy"); err != nil {
		t.Errorf("the other VDI of the name: %v", err)
	}
}
