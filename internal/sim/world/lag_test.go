package world

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/vdi"
)

// withLag plays on five nodes, of which some hear of commits later than others.
func withLag(t *testing.T, play func(ctx context.Context, t *testing.T, l *laggers)) {
	synctest.Test(t, func(t *testing.T) {
		w := New(t, Options{Seed: 1, Nodes: 5, Copies: 2})
		defer w.Close()
		w.BootAll()
		w.Format()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		play(ctx, t, w.lag(ctx))
	})
}

// Bug: a snapshot was deleted, and its layer absorbed by the one above, but the
// replicas had not heard of that yet. A gateway that had heard of it asked them
// what the layer above holds, was not told of what the one below holds, and read
// zeros there.
func TestReplicasThatHaveNotHeardOfADeletionHideNothing(t *testing.T) {
	withLag(t, func(ctx context.Context, t *testing.T, l *laggers) {
		vol := l.open(ctx)
		below, above := bytes.Repeat([]byte{1}, sheepdog.BlockSize), bytes.Repeat([]byte{2}, sheepdog.BlockSize)
		l.must(vol.WriteAt(ctx, below, 0))
		l.must2(l.gateway.Node().Backend().SnapshotVDI(ctx, &api.SnapshotRequest{Name: l.disk, Tag: "s"}))
		l.must(vol.WriteAt(ctx, above, 1<<objectShift))
		l.must(vol.Flush(ctx))
		l.must(vol.Close(ctx))

		for _, h := range l.holders {
			l.net.Partition([]string{l.leader.Name}, []string{h.Name})
		}
		l.must(l.gateway.Node().Backend().DeleteVDI(ctx, &api.DeleteRequest{Name: l.disk, Snapshot: "s"}))
		vol = l.open(ctx)
		got := make([]byte, sheepdog.BlockSize)
		l.must(vol.ReadAt(ctx, got, 0))
		if !bytes.Equal(got, below) {
			t.Errorf("the block reads as %d, want %d", got[0], below[0])
		}
		l.must(vol.Close(ctx))
	})
}

// Bug: a clone could not be flattened while a layer of its base that was deleted
// had not been merged on all disks: the replicas were asked for it by its old id.
func TestFlattenFindsWhatADeletedLayerOfTheBaseHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := New(t, Options{Seed: 1})
		defer w.Close()
		w.BootAll()
		w.Format()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		l := &laggers{World: w, disk: "disk", gateway: w.Hosts()[0]}
		b := l.gateway.Node().Backend()
		l.must2(b.CreateVDI(ctx, &api.CreateRequest{Name: l.disk, SizeBytes: 2 << objectShift}))
		vol := l.open(ctx)
		for i := range byte(2) { // an object per layer
			l.must(vol.WriteAt(ctx, bytes.Repeat([]byte{i + 1}, sheepdog.BlockSize), uint64(i)<<objectShift))
			l.must2(b.SnapshotVDI(ctx, &api.SnapshotRequest{Name: l.disk, Tag: fmt.Sprint("s", i)}))
		}
		l.must(vol.Close(ctx))
		l.must2(b.CloneVDI(ctx, &api.CloneRequest{Source: l.disk, Snapshot: "s1", Name: "clone"}))
		l.must(b.DeleteVDI(ctx, &api.DeleteRequest{Name: l.disk, Snapshot: "s0"}))
		l.must2(b.FlattenVDI(ctx, &api.FlattenRequest{Name: "clone"}, func(api.CopyProgress) error { return nil }))
		l.disk = "clone"
		vol = l.open(ctx)
		for i := range byte(2) {
			got := make([]byte, 1)
			l.must(vol.ReadAt(ctx, got, uint64(i)<<objectShift))
			if got[0] != i+1 {
				t.Errorf("object %d of the clone reads as %d, want %d", i, got[0], i+1)
			}
		}
		l.must(vol.Close(ctx))
	})
}

// Bug: a VDI was given another number of copies by its coordinator, for a node that
// had not heard of that when it looked for what was to be copied: it found nothing,
// and the request failed. (Seed 67.)
func TestAlterThroughANodeThatHasNotHeardOfIt(t *testing.T) {
	withLag(t, func(ctx context.Context, t *testing.T, l *laggers) {
		b := l.gateway.Node().Backend()
		l.must2(b.CreateVDI(ctx, &api.CreateRequest{Name: "three", SizeBytes: 1 << objectShift, Copies: &sheepdog.Policy{Copies: 3}}))
		holder := l.holders[0].Node()
		l.must(holder.Cluster().Barrier(ctx))
		vol, err := holder.VDIs().Open(l.disk, "") // it coordinates
		l.must(err)
		want := bytes.Repeat([]byte{1}, sheepdog.BlockSize)
		l.must(vol.WriteAt(ctx, want, 0))
		l.must(l.gateway.Node().Cluster().Barrier(ctx))

		// The coordinator flushes first, which takes so long that the gateway hears
		// of nothing more by the time of the commit.
		for _, h := range l.holders {
			h.pace.Store(int64(100 * time.Millisecond))
		}
		time.AfterFunc(20*time.Millisecond, func() { l.net.Partition([]string{l.leader.Name}, []string{l.gateway.Name}) })
		time.AfterFunc(time.Second, l.net.HealAll)
		l.must2(b.AlterVDI(ctx, &api.AlterRequest{Name: l.disk, Copies: sheepdog.Policy{Copies: 3}}, func(api.CopyProgress) error { return nil }))
		got := make([]byte, sheepdog.BlockSize)
		l.must(vol.ReadAt(ctx, got, 0))
		if !bytes.Equal(got, want) {
			t.Errorf("the block reads as %d, want %d", got[0], want[0])
		}
		l.must(vol.Close(ctx))
	})
}

// laggers is a VDI whose first object is on hosts that hear of the directory from
// a leader that holds nothing of it, and a gateway that does not either.
type laggers struct {
	*World
	disk            string
	leader, gateway *Host
	holders         []*Host
}

func (w *World) lag(ctx context.Context) *laggers {
	for i := range 50 {
		l := w.disk(ctx, fmt.Sprintf("disk%d", i))
		for _, h := range w.Hosts() {
			switch {
			case slices.Contains(l.holders, h):
			case w.leads(h):
				l.leader = h
			default:
				l.gateway = h
			}
		}
		if l.leader != nil {
			return l
		}
	}
	w.t.Fatal("the leader holds the first object of every VDI")
	return nil
}

// disk makes a VDI of two objects and finds who holds the first.
func (w *World) disk(ctx context.Context, name string) *laggers {
	l := &laggers{World: w, disk: name}
	n := w.Up()[0].Node()
	l.must2(n.Backend().CreateVDI(ctx, &api.CreateRequest{Name: l.disk, SizeBytes: 2 << objectShift}))
	l.must(n.Cluster().Barrier(ctx))
	v, err := n.Directory().Lookup(l.disk)
	l.must(err)
	pl, _ := n.Cluster().View().Placement(v.Policy, sheepdog.ObjectID{Family: v.Family}.Partition())
	for _, h := range w.Hosts() {
		if pl.IsActing(sheepdog.NodeID(h.Number)) {
			l.holders = append(l.holders, h)
		}
	}
	return l
}

func (w *World) leads(h *Host) bool {
	_, self := h.Node().Cluster().Leader()
	return self
}

func (l *laggers) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *laggers) must2(_ any, err error) { l.t.Helper(); l.must(err) }

func (l *laggers) open(ctx context.Context) *vdi.Volume {
	l.t.Helper()
	l.must(l.gateway.Node().Cluster().Barrier(ctx))
	vol, err := l.gateway.Node().VDIs().Open(l.disk, "")
	l.must(err)
	return vol
}
