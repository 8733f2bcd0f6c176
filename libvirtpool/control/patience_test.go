package control

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/api/apitest"
	"sheepdog/libvirtpool/storage"
)

// hanging is a node that never answers.
type hanging struct{ client }

func (hanging) VDIs(ctx context.Context, _ *api.VDIQuery) ([]api.VDI, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

func (hanging) Cluster(ctx context.Context) (*api.Cluster, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

func (hanging) CreateVDI(ctx context.Context, _ *api.CreateRequest) (*api.VDI, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

func (hanging) CloneVDI(ctx context.Context, _ *api.CloneRequest) (*api.VDI, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

func (hanging) ResizeVDI(ctx context.Context, _ *api.ResizeRequest) (*api.VDI, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

func (hanging) SnapshotVDI(ctx context.Context, _ *api.SnapshotRequest) (*api.SnapshotResult, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

func (hanging) RollbackVDI(ctx context.Context, _ *api.RollbackRequest) (*api.VDI, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

func (hanging) DeleteVDI(ctx context.Context, _ *api.DeleteRequest) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

func (hanging) ReadVDI(ctx context.Context, _ *api.ReadRequest, w io.Writer) (int64, error) {
	n, _ := w.Write(make([]byte, 10))
	<-ctx.Done()
	return int64(n), context.Cause(ctx)
}

func (hanging) WriteVDI(ctx context.Context, _ *api.WriteRequest, r io.Reader) (int64, error) {
	n, _ := r.Read(make([]byte, 10))
	<-ctx.Done()
	return int64(n), context.Cause(ctx)
}

// Requests to a node that hangs end, and say that it is out of reach. Data may come
// from, or go to, somebody slow: that is not the cluster's time.
func TestRequestsToAHangingNodeEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, c := t.Context(), hanging{client{apitest.New(3)}}
		s, d := NewStore(c), NewDefinitions(c)
		for what, r := range map[string]struct {
			limit time.Duration
			ask   func() error
		}{
			"list":            {patience, func() error { _, err := s.List(ctx); return err }},
			"find":            {patience, func() error { _, err := s.Find(ctx, "v"); return err }},
			"allocated":       {patience, func() error { _, err := s.Allocated(ctx, "v"); return err }},
			"capacity":        {patience, func() error { _, err := s.Capacity(ctx); return err }},
			"definitions":     {patience, func() error { _, err := d.Load(ctx); return err }},
			"create":          {decision, func() error { return s.Create(ctx, "v", 4096) }},
			"clone":           {decision, func() error { _, err := s.Clone(ctx, "v", "w", 0); return err }},
			"resize":          {decision, func() error { return s.Resize(ctx, "v", 8192) }},
			"snapshot":        {decision, func() error { return s.Snapshot(ctx, "v", "s") }},
			"rollback":        {decision, func() error { return s.Rollback(ctx, "v", "s") }},
			"delete":          {patience, func() error { return s.Delete(ctx, "v") }},
			"delete snapshot": {decision, func() error { return s.DeleteSnapshot(ctx, "v", "s") }},
			"define":          {decision, func() error { return d.Add(ctx, storage.Definition{Name: "p"}) }},
			"read":            {standstill + 2*time.Minute, func() error { return s.Read(ctx, "v", 0, 20, slowly{}) }},
			"write":           {standstill + 2*time.Minute, func() error { return s.Write(ctx, "v", 0, slowly{}) }},
		} {
			began := time.Now()
			if err := r.ask(); !errors.Is(err, sheepdog.ErrUnreachable) {
				t.Errorf("%s: %v", what, err)
			}
			if took := time.Since(began); took != r.limit {
				t.Errorf("%s took %v", what, took)
			}
		}
	})
}

// slowly is a client that takes its time.
type slowly struct{}

func (slowly) Read(b []byte) (int, error) {
	time.Sleep(2 * time.Minute)
	return len(b), nil
}

func (slowly) Write(b []byte) (int, error) {
	time.Sleep(2 * time.Minute)
	return len(b), nil
}
