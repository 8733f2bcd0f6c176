package storage_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
	"sheepdog/libvirtpool/rpc"
	"sheepdog/libvirtpool/storage"
	"sheepdog/libvirtpool/storage/storagetest"
)

// slow is definitions in a cluster that may not answer.
type slow struct {
	storage.Definitions
	stuck atomic.Bool
}

func (s *slow) Load(ctx context.Context) ([]storage.Definition, error) {
	if s.stuck.Load() {
		select {
		case <-time.After(10 * time.Second):
			return nil, sheepdog.ErrUnreachable
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return s.Definitions.Load(ctx)
}

// While the cluster hangs, lists and look-ups show what was known last, and only
// the first of them waits for it, shortly.
func TestPoolsOfAHangingClusterAreListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := storagetest.New()
		defs := &slow{Definitions: cluster}
		d, err := storage.New(storage.Config{Store: cluster, Definitions: defs})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Define(t.Context(), "<pool type='sheepdog'><name>p</name></pool>"); err != nil {
			t.Fatal(err)
		}
		if err := d.Start(t.Context(), "p"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		defs.stuck.Store(true)
		list := func(want time.Duration, pools int) {
			t.Helper()
			began := time.Now()
			if got := d.Pools(t.Context(), storage.Filter{}); len(got) != pools {
				t.Errorf("pools %v, want %d", got, pools)
			}
			if _, err := d.Lookup(t.Context(), "p"); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took != want {
				t.Errorf("a list and a look-up took %v, want %v", took, want)
			}
		}
		gone, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		d.Pools(gone, storage.Filter{}) // of a client that gives up
		list(2*time.Second, 1)
		list(0, 1)
		info, err := d.Info(t.Context(), "q")
		if err == nil {
			t.Errorf("info of no pool: %v", info)
		}
		began := time.Now()
		if info, err = d.Info(t.Context(), "p"); err != nil || info.State != storage.PoolInaccessible || time.Since(began) != 0 {
			t.Errorf("info after %v: %v, %v", time.Since(began), info, err)
		}
		for key, code := range map[string]rpc.Code{"new/volume": rpc.CodeFailed, "/a/file": rpc.CodeNoVolume} {
			if _, err := d.VolumeByKey(t.Context(), "path", key); err == nil || rpc.AsError(err).Code != code {
				t.Errorf("look-up of %s: %v", key, err)
			}
		}
		time.Sleep(5 * time.Second)
		list(0, 1)
		defs.stuck.Store(false)
		if err := cluster.Add(t.Context(), storage.Definition{Name: "q", Namespace: "q"}); err != nil {
			t.Fatal(err)
		}
		list(0, 1)
		if err := d.Reload(t.Context()); err != nil {
			t.Error(err)
		}
		list(0, 2)
	})
}

// stuck is definitions in a cluster that never answers.
type stuck struct{ storage.Definitions }

func (stuck) Load(ctx context.Context) ([]storage.Definition, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// A change that waits for the cluster does not hold up the next one for ever.
func TestChangesWaitForEachOtherWithinALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := storagetest.New()
		d, err := storage.New(storage.Config{Store: cluster, Definitions: stuck{cluster}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var first sync.WaitGroup
		first.Go(func() { _, _ = d.Define(ctx, "<pool type='sheepdog'><name>p</name></pool>") })
		synctest.Wait()
		began := time.Now()
		_, err = d.Define(ctx, "<pool type='sheepdog'><name>q</name></pool>")
		if took := time.Since(began); err == nil || rpc.AsError(err).Code != rpc.CodeBusy || took != 30*time.Second {
			t.Errorf("after %v: %v", took, err)
		}
		cancel()
		first.Wait()
	})
}
