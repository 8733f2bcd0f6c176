package control

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/api/apitest"
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

// Questions to a node that hangs end, and say that it is out of reach.
func TestQuestionsToAHangingNodeEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := hanging{client{apitest.New(3)}}
		s, d := NewStore(c), NewDefinitions(c)
		for what, ask := range map[string]func() error{
			"list":        func() error { _, err := s.List(t.Context()); return err },
			"find":        func() error { _, err := s.Find(t.Context(), "v"); return err },
			"capacity":    func() error { _, err := s.Capacity(t.Context()); return err },
			"definitions": func() error { _, err := d.Load(t.Context()); return err },
		} {
			began := time.Now()
			if err := ask(); !errors.Is(err, sheepdog.ErrUnreachable) {
				t.Errorf("%s: %v", what, err)
			}
			if took := time.Since(began); took != patience {
				t.Errorf("%s took %v", what, took)
			}
		}
	})
}
