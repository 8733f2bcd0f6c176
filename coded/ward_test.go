package coded

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
	"sheepdog/replica/replicatest"
)

// ward is nodes with strips of one coded layer of 2:1 and nothing else. Its
// members are 1 to n; the first three of homes should hold the strips.
type ward struct {
	t       *testing.T
	layer   Layer
	homes   []sheepdog.NodeID
	engines map[sheepdog.NodeID]*replicatest.Engine
	servers map[sheepdog.NodeID]*Server
	views   *replicatest.Views
	version atomic.Uint64 // of the coded layers
	listed  atomic.Int64  // how often all layers were looked at
}

func newWard(t *testing.T, n int) *ward {
	w := &ward{t: t, layer: Layer{ID: 100, Family: 7, Policy: policy(2, 1).Strips(), Shift: 22, Objects: 1}, homes: nodesOf(1, 2, 3),
		engines: make(map[sheepdog.NodeID]*replicatest.Engine), servers: make(map[sheepdog.NodeID]*Server)}
	v := &sheepdog.View{Epoch: 1, Revision: 1}
	for id := sheepdog.NodeID(1); id <= sheepdog.NodeID(n); id++ {
		e := replicatest.NewEngine()
		w.engines[id], w.servers[id] = e, NewServer(flusher{engine: e}, e, w)
		v.Members = append(v.Members, sheepdog.Member{ID: id, Incarnation: sheepdog.Incarnation(id), VNodes: 1, Zone: sheepdog.Zone(id)})
	}
	w.views = replicatest.NewViews(v)
	return w
}

// flusher is the replica of a node that has nothing but strips.
type flusher struct {
	sheepdog.Replica
	engine *replicatest.Engine
}

func (f flusher) Flush(context.Context, *sheepdog.FlushRequest) error { return f.engine.Flush() }

func (w *ward) Coded(id sheepdog.LayerID) (Layer, bool) {
	return w.layer, id >= w.layer.ID && id < w.layer.ID+3
}
func (w *ward) AllCoded() []Layer                          { w.listed.Add(1); return []Layer{w.layer} }
func (w *ward) Dropped(sheepdog.LayerID) bool              { return false }
func (w *ward) CodedVersion() uint64                       { return w.version.Load() }
func (w *ward) Changed() <-chan struct{}                   { return nil }
func (w *ward) Replica(m sheepdog.Member) sheepdog.Replica { return w.servers[m.ID] }
func (w *ward) place(*sheepdog.View, int) (rows [][]sheepdog.NodeID) {
	rows = make([][]sheepdog.NodeID, sheepdog.Partitions)
	for i := range rows {
		rows[i] = w.homes
	}
	return rows
}

func (w *ward) client(id sheepdog.NodeID) *Client {
	return NewClient(Config{Self: id, Views: w.views, Peers: w, Layers: w, Ring: w.place})
}

func (w *ward) keeper(id sheepdog.NodeID) *Keeper {
	return NewKeeper(w.client(id), KeeperConfig{Engine: w.engines[id]})
}

// encode makes the layer of one object with these bytes.
func (w *ward) encode(data []byte) {
	w.t.Helper()
	c := w.client(1)
	holders, err := c.Encode(w.t.Context(), w.layer.ID, 0, func(_ context.Context, start sheepdog.BlockNo, count uint32, buf []byte, states []sheepdog.BlockState) error {
		copy(buf, data[uint64(start)*sheepdog.BlockSize:])
		for i := range states {
			states[i] = sheepdog.Data
		}
		return nil
	})
	if err := errors.Join(err, c.Flush(w.t.Context(), w.layer.ID, holders)); err != nil {
		w.t.Fatal(err)
	}
	w.layer.Complete = true
}

// has reports whether a node has anything of a strip.
func (w *ward) has(id sheepdog.NodeID, strip int) bool {
	w.t.Helper()
	objects, err := w.engines[id].LayerObjects(w.layer.strip(strip), 0, 1)
	if err != nil {
		w.t.Fatal(err)
	}
	return len(objects) > 0
}

func (w *ward) round(id sheepdog.NodeID) {
	w.t.Helper()
	if _, err := w.keeper(id).Round(w.t.Context(), w.views.View()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *ward) reads(want []byte) {
	w.t.Helper()
	got, states := make([]byte, len(want)), make([]sheepdog.BlockState, len(want)/sheepdog.BlockSize)
	req := &sheepdog.ReadRequest{Policy: w.layer.Policy, Object: w.layer.object(0), Layer: w.layer.ID, Count: uint32(len(states)), Buf: got, States: states}
	if err := w.client(4).Read(w.t.Context(), req); err != nil {
		w.t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		w.t.Fatal("the object has other bytes")
	}
}

// A strip moves to its new home, and the old one keeps its own until the new one
// is whole: of a crash in the middle there may be a header without rows.
func TestStripStaysUntilItsNewHomeHasAllOfIt(t *testing.T) {
	w := newWard(t, 4)
	data := make([]byte, 4<<20)
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(data)
	w.encode(data)
	w.homes = nodesOf(4, 2, 3)
	w.round(4)
	if !w.has(4, 0) {
		t.Fatal("the new home did not take the strip")
	}
	lay, torn := w.layer.layout(), w.engines[4]
	header := make([]byte, sheepdog.BlockSize)
	if err := torn.Read(w.layer.object(0), []sheepdog.LayerID{w.layer.ID}, lay.headerAt(0), 1, header, make([]sheepdog.BlockState, 1)); err != nil {
		t.Fatal(err)
	}
	if err := torn.DropObject(w.layer.object(0), w.layer.ID); err != nil {
		t.Fatal(err)
	}
	errs := make([]error, 1)
	torn.Write([]sheepdog.Op{{Object: w.layer.object(0), Layer: w.layer.ID, Start: lay.headerAt(0), Count: 1, Data: header, Stamp: stripStamp, Force: true}}, errs)
	w.round(1)
	if !w.has(1, 0) {
		t.Fatal("the last whole strip was dropped")
	}
	w.reads(data)
	if _, err := w.client(2).Check(t.Context(), w.layer.ID, CheckRequest{}, func(Finding) {}); err != nil || errs[0] != nil {
		t.Fatal(err, errs)
	}
	w.round(1)
	if w.has(1, 0) {
		t.Error("the strip stays though its new home has all of it")
	}
	w.reads(data)
}

// Any one strip of 2:1 may be lost, on the node that should have it or elsewhere,
// and is made anew.
func TestLostStripIsMadeAnew(t *testing.T) {
	data := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{2}).Read(data)
	for lost := range 3 {
		w := newWard(t, 4)
		w.encode(data)
		id := sheepdog.NodeID(lost + 1)
		if err := w.engines[id].DropObject(w.layer.object(0), w.layer.strip(lost)); err != nil {
			t.Fatal(err)
		}
		w.reads(data)
		w.round(id)
		if !w.has(id, lost) {
			t.Errorf("strip %d is not made anew", lost)
		}
		w.reads(data)
	}
}

// The nodes of a scrub check each object once, and only in the partitions of its
// turn; what is rotten is healed.
func TestScrubChecksItsShare(t *testing.T) {
	w := newWard(t, 4)
	data := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{3}).Read(data)
	w.encode(data)
	w.engines[2].Rot(w.layer.object(0), w.layer.strip(1), 5)
	turn := w.layer.object(0).Partition()
	check := func(id sheepdog.NodeID, want sheepdog.Partition) (found, healed int) {
		t.Helper()
		req := CheckRequest{Mine: true, Want: func(p sheepdog.Partition) bool { return p == want }}
		_, err := w.client(id).Check(t.Context(), w.layer.ID, req, func(f Finding) {
			found++
			if f.Healed {
				healed++
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		return found, healed
	}
	for _, id := range []sheepdog.NodeID{2, 3, 4} {
		if found, _ := check(id, turn); found != 0 {
			t.Errorf("node %d checks what is another's", id)
		}
	}
	if found, _ := check(1, turn+1); found != 0 {
		t.Error("an object is checked out of its turn")
	}
	if found, healed := check(1, turn); found != 1 || healed != 1 {
		t.Errorf("%d strips found, %d healed, want one", found, healed)
	}
	if found, _ := check(1, turn); found != 0 {
		t.Error("it is still rotten")
	}
}

// A keeper that left nothing to do asks for all layers again, which takes a while
// where there are many disks, only when they or the members have changed.
func TestKeeperRestsUntilSomethingChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWard(t, 4)
		w.encode(bytes.Repeat([]byte{1}, 4<<20))
		done := make(chan struct{})
		ctx, stop := context.WithCancel(t.Context())
		go func() { defer close(done); w.keeper(1).Run(ctx) }()
		defer func() { stop(); <-done }()
		looks := func() int64 {
			before := w.listed.Load()
			time.Sleep(10*keepEvery + keepEvery/2)
			synctest.Wait()
			return w.listed.Load() - before
		}
		if n := looks(); n != 1 {
			t.Errorf("%d looks with nothing to do, want the first one alone", n)
		}
		w.version.Add(1)
		if n := looks(); n != 1 {
			t.Errorf("%d looks after a change of the coded layers, want one", n)
		}
		v := *w.views.View()
		v.Epoch, v.Revision = v.Epoch+1, v.Revision+1
		w.homes = nodesOf(4, 2, 3) // node 4 has not taken its strip yet
		w.views.Publish(&v)
		if n := looks(); n < 10 {
			t.Errorf("%d looks while a strip has to move, want one each second", n)
		}
	})
}
