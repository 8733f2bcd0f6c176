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
	"sheepdog/internal/sim"
)

// A clock goes on from what it shows when its speed changes.
func TestClockIsSteered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clock
		c.set(time.Hour, 10)
		time.Sleep(100 * time.Second)
		if got, want := c.now(), time.Hour+101*time.Second; got != want {
			t.Fatalf("the clock shows %v, want %v", got, want)
		}
		c.steer(-20)
		if got, want := c.now(), time.Hour+101*time.Second; got != want {
			t.Errorf("steered, the clock shows %v, want %v", got, want)
		}
		time.Sleep(100 * time.Second)
		if got, want := c.now(), time.Hour+199*time.Second; got != want {
			t.Errorf("the clock shows %v, want %v", got, want)
		}
	})
}

// A leader whose wall clock jumps 30 years ahead deletes no snapshot and nothing in the
// trash, nor does what a node with a clock of 30 years ago puts there go at once. Both
// go when their time is over by the clocks of two of three nodes.
func TestWallClockOfOneNodeDeletesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := New(t, Options{Seed: 1, Network: sim.NetOptions{Latency: time.Millisecond}, Log: testLog()})
		defer w.Close()
		w.BootAll()
		w.Format()
		ctx := context.Background()
		ask := func(what string, err error) {
			t.Helper()
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
		b := w.Up()[0].Node().Backend()
		ask("trash", b.SetTrash(ctx, &api.TrashSetting{KeepSeconds: 3600}))
		lead := w.leader()
		other := w.Hosts()[lead.Number%3] // the next one
		for _, name := range []string{"early", "kept", "late"} {
			_, err := b.CreateVDI(ctx, &api.CreateRequest{Name: name, SizeBytes: 1 << 20})
			ask("create", err)
		}
		_, err := b.SnapshotVDI(ctx, &api.SnapshotRequest{Name: "kept", Tag: "s", Expires: time.Now().Add(time.Hour)})
		ask("snapshot", err)
		data := bytes.Repeat([]byte("sheep"), sheepdog.BlockSize)[:sheepdog.BlockSize]
		vol, err := other.Node().VDIs().Open("late", "")
		ask("open", err)
		ask("write", vol.WriteAt(ctx, data, 0))
		ask("close", vol.Close(ctx))
		ask("delete", other.Node().Backend().DeleteVDI(ctx, &api.DeleteRequest{Name: "early"}))
		const wrong = 30 * 365 * 24 * time.Hour
		lead.wall.wrong.Store(int64(wrong))
		time.Sleep(15 * time.Second)
		lead.wall.wrong.Store(0)
		other.wall.wrong.Store(-int64(wrong))
		ask("delete", other.Node().Backend().DeleteVDI(ctx, &api.DeleteRequest{Name: "late"}))
		time.Sleep(15 * time.Second)
		left := func() string {
			list, err := b.Trash(ctx)
			ask("list trash", err)
			_, snap := lead.Node().Directory().LookupSnapshot("kept", "s")
			return fmt.Sprintf("%d in the trash, snapshot: %v", len(list.VDIs), snap)
		}
		if got := left(); got != "2 in the trash, snapshot: <nil>" {
			t.Fatal(got)
		}
		for _, h := range w.Hosts() {
			if h != other {
				h.wall.wrong.Store(int64(2 * time.Hour))
			}
		}
		time.Sleep(15 * time.Second)
		if list, err := b.Trash(ctx); err != nil || len(list.VDIs) != 0 {
			t.Errorf("%v, %v are left an hour later", list, err)
		}
		if _, err := lead.Node().Directory().LookupSnapshot("kept", "s"); err == nil {
			t.Error("the snapshot is left an hour later")
		}
	})
}

// leader is the host whose node leads Raft.
func (w *World) leader() *Host {
	for _, h := range w.Up() {
		if _, self := h.Node().Cluster().Leader(); self {
			return h
		}
	}
	w.t.Fatalf("no node leads")
	return nil
}
