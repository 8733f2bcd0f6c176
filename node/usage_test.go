package node

import (
	"bytes"
	"testing"

	"sheepdog"
	"sheepdog/api"
)

// checks ends the test at an error of a call with a result.
func checks(t *testing.T) func(any, error) {
	return func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestObjectsCountAtTheSnapshotThatHasWrittenThem: a second snapshot of the same
// bytes has the same layer, and shares all of it with the first.
func TestObjectsCountAtTheSnapshotThatHasWrittenThem(t *testing.T) {
	b := backend{startAlone(t)}
	ctx := t.Context()
	check := checks(t)
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

// TestABaseKeepsItsAllocation: what clones share is counted with their base, also
// after it was cloned from and has an empty layer on top, and with the oldest of
// them once the base is gone.
func TestABaseKeepsItsAllocation(t *testing.T) {
	b := backend{startAlone(t)}
	ctx := t.Context()
	check := checks(t)
	write := func(name string, offset uint64, n int) {
		t.Helper()
		check(b.WriteVDI(ctx, &api.WriteRequest{Name: name, Offset: offset, Length: int64(n)}, bytes.NewReader(bytes.Repeat([]byte{7}, n))))
	}
	want := func(objects map[string]uint64) {
		t.Helper()
		vdis, err := b.VDIs(ctx, &api.VDIQuery{})
		check(nil, err)
		for _, v := range vdis {
			if n, ok := objects[v.Name]; ok && !v.Snapshot && v.HeldBytes != n<<22 {
				t.Errorf("%s holds %d bytes, want %d objects", v.Name, v.HeldBytes, n)
			}
		}
	}
	check(b.CreateVDI(ctx, &api.CreateRequest{Name: "base", SizeBytes: 40 << 20}))
	write("base", 0, 5<<20)
	for _, name := range []string{"one", "two"} {
		check(b.CloneVDI(ctx, &api.CloneRequest{Source: "base", Name: name}))
	}
	want(map[string]uint64{"base": 2, "one": 0, "two": 0})
	brief, err := b.VDIs(ctx, &api.VDIQuery{Name: "base", Brief: true})
	if check(nil, err); len(brief) != 1 || brief[0].SizeBytes != 40<<20 || brief[0].HeldBytes+brief[0].SharedObjects != 0 {
		t.Errorf("in brief: %+v", brief)
	}
	write("one", 20<<20, 1<<20)
	check(b.SnapshotVDI(ctx, &api.SnapshotRequest{Name: "one", Tag: "s"}))
	check(b.CloneVDI(ctx, &api.CloneRequest{Source: "one", Name: "three"}))
	write("one", 30<<20, 1<<20)
	want(map[string]uint64{"base": 2, "one": 2, "two": 0, "three": 0})
	check(nil, b.DeleteVDI(ctx, &api.DeleteRequest{Name: "base"}))
	want(map[string]uint64{"one": 4, "two": 0, "three": 0})
}

// TestPreallocationOfCodedDataWritesNothing: its zeros would be written to replicas
// first and take no space once they are encoded.
func TestPreallocationOfCodedDataWritesNothing(t *testing.T) {
	b := backend{startAlone(t)}
	for name, p := range map[string]sheepdog.Policy{"copies": {Copies: 1}, "coded": {Copies: 4, Parity: 2}} {
		if _, err := b.CreateVDI(t.Context(), &api.CreateRequest{Name: name, SizeBytes: 8 << 20, Copies: &p, Preallocate: true}); err != nil {
			t.Fatal(err)
		}
		vdis, err := b.VDIs(t.Context(), &api.VDIQuery{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		want := uint64(2)
		if p.Parity > 0 {
			want = 0
		}
		if got := vdis[0].OwnObjects; got != want {
			t.Errorf("%s: %d objects are written, want %d", name, got, want)
		}
	}
}
