package world

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
	"sheepdog/api"
)

// Bug: all replicas lost their power under a gateway that went on. What it had
// written and not flushed was gone, and its next flush reported success.
func TestFlushTellsOfWritesThatAllReplicasForgot(t *testing.T) {
	for _, c := range []struct {
		name string
		down func(*Host)
		want error
	}{
		{"the power failed", (*Host).PowerLoss, sheepdog.ErrIO},
		{"the processes died", (*Host).Kill, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { forget(t, c.down, c.want) })
		})
	}
}

// forget writes through a gateway that stores nothing, takes all others down and
// up again, and flushes.
func forget(t *testing.T, down func(*Host), want error) {
	const gatewayHost = 4
	w := New(t, Options{Seed: 1, Nodes: gatewayHost, Gateway: gatewayHost})
	defer w.Close()
	w.BootAll()
	w.Format()
	gw := w.Hosts()[gatewayHost-1].Node()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if _, err := gw.Backend().CreateVDI(ctx, &api.CreateRequest{Name: "disk", SizeBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	vol, err := gw.VDIs().Open("disk", "")
	if err != nil {
		t.Fatal(err)
	}
	defer vol.Close(ctx)
	data := bytes.Repeat([]byte{7}, 4*sheepdog.BlockSize)
	if err := vol.WriteAt(ctx, data, 0); err != nil {
		t.Fatal(err)
	}
	for _, h := range w.Hosts()[:gatewayHost-1] {
		down(h)
	}
	time.Sleep(time.Second)
	w.BootAll()
	w.AwaitWhole()
	if err := vol.Flush(ctx); !errors.Is(err, want) || want == nil && err != nil {
		t.Errorf("first flush: %v, want %v", err, want)
	}
	if err := vol.Flush(ctx); err != nil {
		t.Errorf("a loss is reported once, but the second flush says: %v", err)
	}
	if want != nil {
		return
	}
	got := make([]byte, len(data))
	if err := vol.ReadAt(ctx, got, 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the written bytes are not there (%v)", err)
	}
}
