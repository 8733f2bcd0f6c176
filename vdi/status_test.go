package vdi

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// countedRecords counts how often replicas are asked for the states of blocks.
type countedRecords struct {
	Objects
	asked atomic.Int32
}

func (c *countedRecords) Records(ctx context.Context, s sheepdog.Scope, obj sheepdog.ObjectID, layers []sheepdog.LayerID, start sheepdog.BlockNo, count uint32) ([]sheepdog.Record, error) {
	c.asked.Add(1)
	return c.Objects.Records(ctx, s, obj, layers, start, count)
}

// A map of a large disk asked replicas for each of its objects.
func TestStatusOfAHoleAsksNobody(t *testing.T) {
	const size, ask = 4 << 50, 4<<30 - 4096
	w, _, v := oneVDI(t, size)
	write(t, v, 3<<30, fill(4096, 1))
	if err := v.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := w.manager(t, 2)
	objects := &countedRecords{Objects: m.opt.Objects}
	m.opt.Objects = objects
	v = open(t, m, "v", "")
	for _, c := range []struct {
		off  uint64
		want []Extent
	}{
		{0, []Extent{{3 << 30, sheepdog.Absent}, {4096, sheepdog.Data}, {ask - 3<<30 - 4096, sheepdog.Absent}}},
		{4096, []Extent{{3<<30 - 4096, sheepdog.Absent}, {4096, sheepdog.Data}, {ask - 3<<30, sheepdog.Absent}}},
		{size - ask, []Extent{{ask, sheepdog.Absent}}},
		{1<<50 + 512, []Extent{{ask, sheepdog.Absent}}},
	} {
		got, err := v.Status(t.Context(), c.off, ask, 100)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("from %d: %v, %v; want %v", c.off, got, err, c.want)
		}
	}
	if n := objects.asked.Load(); n != 2 {
		t.Errorf("replicas were asked %d times for one object, which was looked at twice", n)
	}
}

// A node that has lost its lease does not know what another one has written since.
func TestStatusWaitsForTheLease(t *testing.T) {
	_, m, v := oneVDI(t, 8<<20)
	write(t, v, 0, fill(4096, 1))
	n := m.opt.Cluster.(*node)
	n.mu.Lock()
	n.lease = false
	n.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if got, err := v.Status(ctx, 4<<20, 4096, 1); err == nil {
		t.Errorf("answered %v without a lease", got)
	}
	n.mu.Lock()
	n.lease = true
	n.mu.Unlock()
	if got, err := v.Status(t.Context(), 4<<20, 4096, 1); err != nil || len(got) != 1 || got[0] != (Extent{4096, sheepdog.Absent}) {
		t.Errorf("%v, %v", got, err)
	}
}

// Bug: a write of zeros that was under way was told as a hole, and what had been there came
// back when all that had it lost power.
func TestStatusWaitsForWritesUnderWay(t *testing.T) {
	w, _, v := oneVDI(t, 8<<20)
	write(t, v, 0, fill(8192, 1))
	hold := make(chan struct{})
	w.mu.Lock()
	w.hold = hold
	w.mu.Unlock()
	zeroed := make(chan error, 1)
	go func() { zeroed <- v.ZeroAt(t.Context(), 4096, 4096) }()
	c := v.m.families[v.family.Load().id].coord.Load()
	for under := false; !under; time.Sleep(time.Millisecond) {
		c.mu.Lock()
		under = len(c.ranges.held) > 0
		c.mu.Unlock()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if got, err := v.Status(ctx, 0, 8192, 10); err == nil {
		t.Errorf("%v was told while a write was under way", got)
	}
	close(hold)
	if err := <-zeroed; err != nil {
		t.Fatal(err)
	}
	want := []Extent{{4096, sheepdog.Data}, {4096, sheepdog.Zero}}
	if got, err := v.Status(t.Context(), 0, 8192, 10); err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
}

// late is a replica that has not heard that layers were absorbed: it has nothing of them
// under the id of another.
type late struct{ Objects }

func (l late) Records(ctx context.Context, s sheepdog.Scope, obj sheepdog.ObjectID, layers []sheepdog.LayerID, start sheepdog.BlockNo, count uint32) ([]sheepdog.Record, error) {
	return make([]sheepdog.Record, count), nil
}

// Bug: what a deleted snapshot held was told as a hole while the replica that was asked had
// not heard of the deletion.
func TestStatusBelievesNoReplicaThatIsLate(t *testing.T) {
	_, m, v := oneVDI(t, 8<<20)
	write(t, v, 0, fill(4096, 1))
	if _, err := m.Snapshot(t.Context(), directory.Snapshot{Name: "v", Tag: "s"}); err != nil {
		t.Fatal(err)
	}
	write(t, v, 8192, fill(4096, 2))
	if err := m.DeleteSnapshot(t.Context(), directory.DeleteSnapshot{Name: "v", Snapshot: "s"}); err != nil {
		t.Fatal(err)
	}
	m.opt.Objects = late{m.opt.Objects}
	got, err := v.Status(t.Context(), 0, 4096, 10)
	if want := []Extent{{4096, sheepdog.Data}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
}

// Bug: a chain was empty, and what it held told as a hole, if a layer below was absorbed
// while it was listed.
func TestChainsAreWholeWhileLayersAreAbsorbed(t *testing.T) {
	_, m, v := oneVDI(t, 8<<20)
	write(t, v, 0, fill(4096, 1))
	dir, family := m.opt.Directory, v.family.Load().id
	torn := make(chan int)
	stop := make(chan struct{})
	go func() {
		n := 0
		defer func() { torn <- n }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			f, _ := dir.Family(family)
			chain := logicalChain(dir, f.Working)
			if _, ok := dir.Layer(f.Working); ok && len(chain) == 0 {
				n++
			}
		}
	}()
	for range 300 {
		if _, err := m.Snapshot(t.Context(), directory.Snapshot{Name: "v", Tag: "s"}); err != nil {
			t.Fatal(err)
		}
		write(t, v, 0, fill(4096, 1))
		if err := m.DeleteSnapshot(t.Context(), directory.DeleteSnapshot{Name: "v", Snapshot: "s"}); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	if n := <-torn; n > 0 {
		t.Errorf("the chain of a layer that is there was empty %d times", n)
	}
}

// The coordinator answers from its object maps what replicas say, here and for another
// node, for working layers, snapshots and clones.
func TestStatusIsThatOfTheReplicas(t *testing.T) {
	const size = 24 << 20
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := newWorld()
		near, far := w.manager(t, 1), w.manager(t, 2)
		create(t, near, "v0", size)
		for disk := range 3 {
			name := fmt.Sprintf("v%d", disk)
			v := open(t, near, name, "")
			for range r.IntN(12) {
				change(t, r, near, v, name)
			}
			compareStatus(t, r, v, open(t, far, name, ""))
			tag := directory.Snapshot{Name: name, Tag: "last"}
			if _, err := near.Snapshot(t.Context(), tag); err != nil {
				t.Fatal(err)
			}
			compareStatus(t, r, open(t, near, name, "last"), open(t, far, name, "last"))
			if _, err := near.Clone(t.Context(), directory.Clone{Source: name, Snapshot: "last", Name: fmt.Sprintf("v%d", disk+1)}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A coordinator of an older build does not know the question: then all of it is data, which
// is true of everything that can be read.
func TestStatusByAnOlderCoordinatorIsAllData(t *testing.T) {
	w := newWorld()
	near, far := w.manager(t, 1), w.manager(t, 2)
	create(t, near, "v", 8<<20)
	write(t, open(t, near, "v", ""), 0, fill(4096, 1))
	w.unknown = map[string]bool{methodStatus: true}
	got, err := open(t, far, "v", "").Status(t.Context(), 4096, 4<<20, 10)
	if want := []Extent{{4 << 20, sheepdog.Data}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
}

// change writes, zeroes or takes a snapshot.
func change(t *testing.T, r *rand.Rand, m *Manager, v *Volume, name string) {
	t.Helper()
	off := r.Uint64N(v.Size()/4096-600) * 4096
	switch r.IntN(4) {
	case 0:
		if err := v.ZeroAt(t.Context(), off, (1+r.Uint64N(600))*4096); err != nil {
			t.Fatal(err)
		}
	case 1:
		if _, err := m.Snapshot(t.Context(), directory.Snapshot{Name: name}); err != nil {
			t.Fatal(err)
		}
	default:
		write(t, v, off, fill(4096*(1+r.IntN(3)), byte(1+r.IntN(200))))
	}
}

func compareStatus(t *testing.T, r *rand.Rand, near, far *Volume) {
	t.Helper()
	for range 10 {
		off := r.Uint64N(near.Size())
		n := 1 + r.Uint64N(near.Size()-off)
		a, err := near.Status(t.Context(), off, n, 1000)
		if err != nil {
			t.Fatal(err)
		}
		b, err := far.Status(t.Context(), off, n, 1000)
		if err != nil {
			t.Fatal(err)
		}
		layer := near.layer
		if layer == 0 {
			f, _ := near.m.opt.Directory.Family(near.family.Load().id)
			layer = f.Working
		}
		c, err := describer{near.m, nil, near.shift}.describe(t.Context(), nil, layer, statusCall{off, n, 1000})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(a, b) || !slices.Equal(a, c) {
			t.Fatalf("%s, %d bytes from %d: here %v, elsewhere %v, from replicas %v", near.name, n, off, a, b, c)
		}
		for _, e := range a {
			n -= e.Length
		}
		if n != 0 {
			t.Fatalf("%s: %d bytes are missing in %v", near.name, n, a)
		}
	}
}

// meddled has something happen just before replicas are asked for the first time, which
// then know of no layer that the directory has not.
type meddled struct {
	Objects
	dir  *directory.Directory
	once func()
}

func (m *meddled) known(layers ...sheepdog.LayerID) error {
	m.once()
	for _, layer := range layers {
		if _, ok := m.dir.Layer(layer); !ok {
			return fmt.Errorf("layer %d is deleted: %w", layer, sheepdog.ErrNotFound)
		}
	}
	return nil
}

func (m *meddled) Records(ctx context.Context, s sheepdog.Scope, obj sheepdog.ObjectID, layers []sheepdog.LayerID, start sheepdog.BlockNo, count uint32) ([]sheepdog.Record, error) {
	if err := m.known(layers...); err != nil {
		return nil, err
	}
	return m.Objects.Records(ctx, s, obj, layers, start, count)
}

func (m *meddled) Read(ctx context.Context, r *sheepdog.ReadRequest) error {
	if err := m.known(r.Layer); err != nil {
		return err
	}
	return m.Objects.Read(ctx, r)
}

// deleteSnapshot has the working layer absorb that of a snapshot, as replicas do of themselves,
// and all have heard of it.
func deleteSnapshot(t *testing.T, w *world, m *Manager, snapped directory.Snapped) {
	t.Helper()
	if err := m.DeleteSnapshot(t.Context(), directory.DeleteSnapshot{Name: "v", Snapshot: "s"}); err != nil {
		t.Error(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for k, b := range w.blocks {
		if k.layer == snapped.Layer {
			delete(w.blocks, k)
			k.layer = snapped.Working
			w.blocks[k] = b
		}
	}
	w.apply(&directory.Prune{Layers: map[sheepdog.LayerID][]sheepdog.LayerID{snapped.Working: {snapped.Layer}}})
}

// Bug: a client that asked what is a hole while a snapshot below was deleted was told that
// the layer of the snapshot was not found. So was one, and one that read, whose request began
// before the snapshot was taken and ended after it was deleted.
func TestLayersGoUnderARequest(t *testing.T) {
	for _, before := range []bool{true, false} {
		w, m, v := oneVDI(t, 8<<20)
		write(t, v, 0, fill(4096, 1))
		var snapped directory.Snapped
		snapshot := func() {
			var err error
			if snapped, err = m.Snapshot(t.Context(), directory.Snapshot{Name: "v", Tag: "s"}); err != nil {
				t.Error(err)
			}
		}
		objects, happened := m.opt.Objects, 0
		meddle := func() {
			if before {
				snapshot()
				write(t, v, 8192, fill(4096, 2))
			}
			m.opt.Objects = &meddled{Objects: objects, dir: m.opt.Directory, once: sync.OnceFunc(func() {
				if happened++; !before {
					snapshot()
				}
				deleteSnapshot(t, w, m, snapped)
			})}
		}
		write(t, v, 8192, fill(4096, 2))
		meddle()
		want := []Extent{{4096, sheepdog.Data}, {4096, sheepdog.Absent}, {4096, sheepdog.Data}}
		if got, err := v.Status(t.Context(), 0, 12288, 10); err != nil || !slices.Equal(got, want) {
			t.Errorf("snapshot before %v: %v, %v; want %v", before, got, err, want)
		}
		meddle()
		expect(t, v, 0, slices.Concat(fill(4096, 1), make([]byte, 4096), fill(4096, 2)))
		if happened != 2 {
			t.Errorf("layers went %d times, want 2", happened)
		}
	}
}
