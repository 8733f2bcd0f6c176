package replica

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"sheepdog"
	"sheepdog/replica/replicatest"
)

const (
	fam  = sheepdog.FamilyID(7)
	top  = sheepdog.LayerID(1)
	self = sheepdog.NodeID(1)
)

var object = sheepdog.ObjectID{Family: fam, Index: 5}

// bench is one server with its surroundings.
type bench struct {
	t      *testing.T
	engine *replicatest.Engine
	views  *replicatest.Views
	layers *replicatest.Layers
	server *Server
}

func nodes(ids ...sheepdog.NodeID) []sheepdog.NodeID { return ids }

// newBench starts in revision 10, node 1 acting and target everywhere, the
// family's token 3, layer 1 writable.
func newBench(t *testing.T) *bench {
	return newBenchIn(t, replicatest.NewView(10, nodes(1, 2, 3), nodes(1, 2, 3), nodes(1, 2, 3)))
}

func newBenchIn(t *testing.T, v *sheepdog.View) *bench {
	b := &bench{t: t, engine: replicatest.NewEngine(), views: replicatest.NewViews(v), layers: replicatest.NewLayers()}
	b.layers.Add(top, fam, 0)
	b.layers.Appoint(fam, 3)
	b.server = New(Config{Self: self, Incarnation: 1, Engine: b.engine, Views: b.views, Layers: b.layers, CatchUp: 20 * time.Millisecond})
	return b
}

// fill is the content of a block written with a stamp.
func fill(s sheepdog.Stamp, count uint32) []byte {
	return bytes.Repeat([]byte{byte(s.Token)*16 + byte(s.Seq)}, int(count)*sheepdog.BlockSize)
}

func request(seq uint64) *sheepdog.WriteRequest {
	s := sheepdog.Stamp{Token: 3, Seq: seq}
	return &sheepdog.WriteRequest{Fence: sheepdog.Fence{Revision: 10, Token: 3}, Policy: replicatest.Policy,
		Object: object, Layer: top, Start: 4, Count: 2, Data: fill(s, 2), Stamp: s}
}

func repair(s sheepdog.Stamp) *sheepdog.WriteRequest {
	r := request(s.Seq)
	r.Token, r.Stamp, r.Data, r.Repair = 0, s, fill(s, 2), true
	return r
}

// write runs one batch and returns the error of each request.
func (b *bench) write(reqs ...*sheepdog.WriteRequest) []error {
	b.t.Helper()
	errs := make([]error, len(reqs))
	seen := make([]int, len(reqs))
	b.server.Write(context.Background(), reqs, func(i int, err error) { errs[i] = err; seen[i]++ })
	for i, n := range seen {
		if n != 1 {
			b.t.Fatalf("done was called %d times for request %d", n, i)
		}
	}
	return errs
}

func (b *bench) mustWrite(reqs ...*sheepdog.WriteRequest) {
	b.t.Helper()
	for i, err := range b.write(reqs...) {
		if err != nil {
			b.t.Fatalf("request %d: %v", i, err)
		}
	}
}

func wantError(t *testing.T, got, want error) {
	t.Helper()
	if !errors.Is(got, want) || got == nil && want != nil {
		t.Errorf("got error %v, want %v", got, want)
	}
}

func (b *bench) read(revision sheepdog.Revision, token sheepdog.Token) ([]byte, error) {
	r := &sheepdog.ReadRequest{Fence: sheepdog.Fence{Revision: revision, Token: token}, Policy: replicatest.Policy, Object: object,
		Layer: top, Start: 4, Count: 2, Buf: make([]byte, 2*sheepdog.BlockSize), States: make([]sheepdog.BlockState, 2)}
	err := b.server.Read(context.Background(), r)
	b.promptly(r, err)
	return r.Buf, err
}

// promptly wants TryRead to have the outcome of a Read.
func (b *bench) promptly(r *sheepdog.ReadRequest, err error) {
	b.t.Helper()
	q := *r
	q.Buf, q.States = make([]byte, len(r.Buf)), make([]sheepdog.BlockState, len(r.States))
	took := b.server.TryRead(&q)
	if took != (err == nil) {
		b.t.Errorf("TryRead says %v where Read says %v", took, err)
	}
	if took && (!bytes.Equal(q.Buf, r.Buf) || !slices.Equal(q.States, r.States)) {
		b.t.Error("TryRead reads something else than Read")
	}
}

func (b *bench) record(at sheepdog.BlockNo) sheepdog.Record {
	b.t.Helper()
	recs := make([]sheepdog.Record, 1)
	if err := b.engine.Records(object, []sheepdog.LayerID{top}, at, 1, recs); err != nil {
		b.t.Fatal(err)
	}
	return recs[0]
}

// step publishes the next view with the partition of object placed anew.
func (b *bench) step(pl sheepdog.Placement) sheepdog.Revision {
	v := replicatest.Next(b.views.View(), func(next *sheepdog.View, table sheepdog.Table) {
		pl.Since = next.Revision
		table[object.Partition()] = &pl
	})
	b.views.Publish(v)
	return v.Revision
}
