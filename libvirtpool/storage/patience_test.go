package storage_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
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
			return nil, ctx.Err()
		}
	}
	return s.Definitions.Load(ctx)
}

// While the cluster hangs, lists and look-ups show what was known last, and only
// the first of them waits for it.
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
		list(10*time.Second, 1)
		list(0, 1)
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
