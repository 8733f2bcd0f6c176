package node

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
	"sheepdog/api"
)

// Guests are busy by what they asked for since the last look, through whatever node.
func TestBusyMeter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s stats
		answer := func(o *op, n int) {
			for range n {
				o.buckets[0].Add(1)
			}
		}
		answer(&s.client.read, 1000)
		busy := s.busyMeter()
		for _, step := range []struct {
			client, peer int
			took         time.Duration
			want         bool
		}{
			{0, 0, 0, false}, // what was before counts for nothing
			{100, 50, time.Second, false},
			{100, 100, time.Second, true},
			{0, 1000, 2 * time.Second, true},
			{1000, 0, 10 * time.Second, false},
			{0, 0, time.Second, false},
		} {
			answer(&s.client.write, step.client)
			answer(&s.peer.read, step.peer)
			time.Sleep(step.took)
			if got := busy(); got != step.want {
				t.Errorf("%+v: busy %v", step, got)
			}
		}
	})
}

// A status tells how far the moving of ragged data is, and at which rate it may go on.
func TestStatusTellsOfDefragmentation(t *testing.T) {
	for rate, want := range map[int64]uint64{0: defaultDefragmentRate, -1: 0, 1 << 20: 1 << 20} {
		c := Config{DefragmentRate: rate}
		if err := c.fillSpace(); err != nil {
			t.Fatal(err)
		}
		if got := uint64(max(c.DefragmentRate, 0)); got != want {
			t.Errorf("a rate of %d is taken for %d", rate, got)
		}
	}
	if got := (&Node{}).defragmentDocument(); got != (api.Defragment{}) {
		t.Errorf("a node without a store tells %+v", got)
	}
}

// What guests read in sequence after they wrote it at random is moved, with the settings that
// a node has by itself, and they read the same after it.
func TestNodeDefragments(t *testing.T) {
	n := startReal(t)
	b, ctx, check := backend{n}, t.Context(), checks(t)
	check(b.CreateVDI(ctx, &api.CreateRequest{Name: "v", SizeBytes: 4 << 20}))
	want := bytes.Repeat([]byte{1, 2, 3, 4}, 1<<20)
	check(b.WriteVDI(ctx, &api.WriteRequest{Name: "v", Length: int64(len(want))}, bytes.NewReader(want)))
	for at := 0; at < len(want); at += 2 * sheepdog.BlockSize {
		part := want[at:][:sheepdog.BlockSize]
		copy(part, bytes.Repeat([]byte{byte(at >> 13), 7}, sheepdog.BlockSize/2))
		check(b.WriteVDI(ctx, &api.WriteRequest{Name: "v", Offset: uint64(at), Length: sheepdog.BlockSize}, bytes.NewReader(part)))
	}
	if err := n.store.DropObject(sheepdog.ObjectID{}, 1); err != nil { // asks for a destage
		t.Fatal(err)
	}
	read := func() {
		t.Helper()
		var got bytes.Buffer
		if err := b.ReadVDI(ctx, &api.ReadRequest{Name: "v", Length: int64(len(want))}, &got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Fatal("other bytes than were written")
		}
	}
	document := func() api.Defragment {
		t.Helper()
		s, err := b.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return s.Defragment
	}
	for deadline := time.Now().Add(30 * time.Second); document().MovedBytes < 2<<20; time.Sleep(10 * time.Millisecond) {
		if read(); time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %+v", document())
		}
	}
	read()
	if got := document(); got.RateBytes != defaultDefragmentRate {
		t.Errorf("%+v", got)
	}
	if s := n.store.Status(); s.RottenBlocks+s.UnreadBlocks > 0 {
		t.Errorf("%d and %d bad blocks", s.RottenBlocks, s.UnreadBlocks)
	}
}
