package world

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
	"sheepdog/api"
)

// Bug: a gateway that was cut off, and another node coordinated the VDI, told its client
// from its own replica what was a hole before others wrote there. Who copies a disk leaves
// holes out.
func TestStatusThroughAGatewayThatIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := New(t, Options{Seed: 1})
		defer w.Close()
		w.BootAll()
		w.Format()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		hosts := w.Hosts()
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		_, err := hosts[0].Node().Backend().CreateVDI(ctx, &api.CreateRequest{Name: "disk", SizeBytes: 1 << objectShift})
		must(err)
		must(hosts[2].Node().Cluster().Barrier(ctx))
		near, err := hosts[0].Node().VDIs().Open("disk", "")
		must(err)
		far, err := hosts[2].Node().VDIs().Open("disk", "")
		must(err)
		data := bytes.Repeat([]byte{1}, sheepdog.BlockSize)
		must(near.WriteAt(ctx, data, 0)) // it coordinates, and the object is there
		const hole = 8 * sheepdog.BlockSize
		if got, err := far.Status(ctx, hole, sheepdog.BlockSize, 1); err != nil || got[0].State == sheepdog.Data {
			t.Fatalf("before: %v, %v", got, err)
		}
		for _, h := range hosts[:2] {
			w.net.Partition([]string{h.Name}, []string{hosts[2].Name})
		}
		must(near.WriteAt(ctx, data, hole)) // once the third node is none any more
		short, stop := context.WithTimeout(ctx, time.Second)
		defer stop()
		if got, err := far.Status(short, hole, sheepdog.BlockSize, 1); err == nil && got[0].State != sheepdog.Data {
			t.Errorf("while it is cut off: %v", got)
		}
		w.Heal()
		if got, err := far.Status(ctx, hole, sheepdog.BlockSize, 1); err != nil || got[0].State != sheepdog.Data {
			t.Errorf("after that: %v, %v", got, err)
		}
		must(near.Close(ctx))
		must(far.Close(ctx))
	})
}
