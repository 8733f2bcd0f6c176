package node

import (
	"bytes"
	"testing"

	"sheepdog/api"
)

// TestObjectsCountAtTheSnapshotThatHasWrittenThem: a second snapshot of the same
// bytes has the same layer, and shares all of it with the first.
func TestObjectsCountAtTheSnapshotThatHasWrittenThem(t *testing.T) {
	b := backend{startAlone(t)}
	ctx := t.Context()
	check := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(b.CreateVDI(ctx, &api.CreateRequest{Name: "v", SizeBytes: 8 << 20}))
	check(b.WriteVDI(ctx, &api.WriteRequest{Name: "v", Length: 5 << 20}, bytes.NewReader(bytes.Repeat([]byte{7}, 5<<20))))
	for _, tag := range []string{"one", "two", "three"} {
		check(b.SnapshotVDI(ctx, &api.SnapshotRequest{Name: "v", Tag: tag}))
	}
	vdis, err := b.VDIs(ctx, &api.VDIQuery{})
	check(nil, err)
	for _, v := range vdis {
		own, shared := uint64(0), uint64(2)
		if v.Tag == "one" {
			own, shared = 2, 0
		}
		if v.OwnObjects != own || v.SharedObjects != shared {
			t.Errorf("%s@%s has %d objects and shares %d, want %d and %d", v.Name, v.Tag, v.OwnObjects, v.SharedObjects, own, shared)
		}
	}
}
