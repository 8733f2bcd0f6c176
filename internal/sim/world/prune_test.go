package world

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
	"sheepdog/api"
)

// Bug: the last node that acted for an object was away while a snapshot was
// deleted. The members merged its layer, which they hold nothing of, and the
// directory forgot the layer; the node came back, acted again, and dropped the
// layer's blocks as garbage before it had moved them to the one above.
func TestLayerIsNotForgottenWhileOneThatActsIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := New(t, Options{Seed: 1, Copies: 1})
		defer w.Close()
		w.BootAll()
		w.Format()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		l := w.alone(ctx)
		b, holder := l.gateway.Node().Backend(), l.holders[0]
		vol := l.open(ctx)
		want := bytes.Repeat([]byte{1}, sheepdog.BlockSize)
		l.must(vol.WriteAt(ctx, want, 0))
		l.must2(b.SnapshotVDI(ctx, &api.SnapshotRequest{Name: l.disk, Tag: "s"}))
		l.must(vol.WriteAt(ctx, want, 1<<objectShift))
		l.must(vol.Flush(ctx))
		l.must(vol.Close(ctx))

		holder.Kill()
		w.Await(20*time.Second, "the holder is no member", func() error {
			if _, ok := l.gateway.Node().Cluster().View().Member(sheepdog.NodeID(holder.Number)); ok {
				return fmt.Errorf("node %d is one", holder.Number)
			}
			return nil
		})
		l.must(b.DeleteVDI(ctx, &api.DeleteRequest{Name: l.disk, Snapshot: "s"}))
		time.Sleep(10 * time.Second) // five looks at what can be forgotten
		holder.Boot()
		w.AwaitWhole()
		w.Await(60*time.Second, "the layer is merged and forgotten", func() error {
			if n := len(l.gateway.Node().Directory().Absorbing()); n > 0 {
				return fmt.Errorf("%d layers have absorbed others", n)
			}
			return nil
		})
		vol = l.open(ctx)
		got := make([]byte, sheepdog.BlockSize)
		l.must(vol.ReadAt(ctx, got, 0))
		if !bytes.Equal(got, want) {
			t.Errorf("the flushed block reads as %d, want %d", got[0], want[0])
		}
		l.must(vol.Close(ctx))
	})
}

// alone makes a VDI whose first object is on a host that does not lead, and a
// gateway elsewhere.
func (w *World) alone(ctx context.Context) *laggers {
	for i := range 50 {
		l := w.disk(ctx, fmt.Sprintf("disk%d", i))
		if !w.leads(l.holders[0]) {
			for _, h := range w.Hosts() {
				if h != l.holders[0] {
					l.gateway = h
				}
			}
			return l
		}
	}
	w.t.Fatal("the leader holds the first object of every VDI")
	return nil
}
