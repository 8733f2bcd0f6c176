package node

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"sheepdog/api"
	"sheepdog/objectstore"
)

// What exclusiveBytes says of a VDI or snapshot is what its deletion frees, in
// random trees of snapshots, clones, branches, discards and deletions.
func TestExclusiveBytesAreFreed(t *testing.T) {
	seeds := uint64(6)
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			g := &grove{t: t, n: startAlone(t), rng: rand.New(rand.NewPCG(seed, 5))}
			g.b = backend{g.n}
			g.create()
			for range 30 {
				g.grow()
			}
			for len(g.list()) > 0 {
				g.fell()
			}
			if n := g.stored(); n != 0 {
				t.Errorf("%d bytes are left when everything is deleted", n)
			}
		})
	}
}

// grove is VDIs and snapshots of a node that grow at random.
type grove struct {
	t    *testing.T
	n    *Node
	b    backend
	rng  *rand.Rand
	made int
}

func (g *grove) must(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

func (g *grove) name() string {
	g.made++
	return fmt.Sprintf("v%d", g.made)
}

func (g *grove) create() {
	_, err := g.b.CreateVDI(g.t.Context(), &api.CreateRequest{Name: g.name(), SizeBytes: 9 << 20})
	g.must(err)
}

// list is all VDIs and snapshots, with what was counted just now.
func (g *grove) list() []api.VDI {
	g.t.Helper()
	g.n.spaces.mu.Lock()
	g.n.spaces.at = time.Time{}
	g.n.spaces.mu.Unlock()
	all, err := g.b.VDIs(g.t.Context(), &api.VDIQuery{Physical: true})
	g.must(err)
	return all
}

func (g *grove) stored() (sum uint64) {
	g.t.Helper()
	layers, err := g.n.engine.(*objectstore.Memory).LayerBytes()
	g.must(err)
	for _, n := range layers {
		sum += n
	}
	return sum
}

func (g *grove) grow() {
	ctx, all := g.t.Context(), g.list()
	v := all[g.rng.IntN(len(all))]
	switch {
	case v.Snapshot && g.rng.IntN(4) == 0:
		_, err := g.b.RollbackVDI(ctx, &api.RollbackRequest{Name: v.Name, Snapshot: api.Selector(fmt.Sprint(v.SnapshotID))})
		if err != nil {
			g.t.Logf("rollback of %s: %v", v.Name, err) // its VDI was deleted
		}
	case v.Snapshot && g.rng.IntN(2) == 0:
		_, err := g.b.CloneVDI(ctx, &api.CloneRequest{Source: v.Name, Snapshot: api.Selector(fmt.Sprint(v.SnapshotID)), Name: g.name()})
		g.must(err)
	case v.Snapshot && len(all) > 6:
		g.fell()
	case v.Snapshot:
		g.create()
	case g.rng.IntN(3) == 0:
		_, err := g.b.SnapshotVDI(ctx, &api.SnapshotRequest{Name: v.Name})
		g.must(err)
	default:
		g.write(v.Name)
	}
}

// write puts data, or sometimes zeros, over some blocks of the first objects.
func (g *grove) write(name string) {
	at := int64(g.rng.IntN(3))<<22 + int64(g.rng.IntN(16))*4096
	data := bytes.Repeat([]byte{byte(1 + g.rng.IntN(9))}, (1+g.rng.IntN(12))*4096)
	if g.rng.IntN(4) == 0 {
		clear(data)
	}
	_, err := g.b.WriteVDI(g.t.Context(), &api.WriteRequest{Name: name, Offset: uint64(at), Length: -1}, bytes.NewReader(data))
	g.must(err)
}

// settle waits until this node has dropped and merged what is not listed.
func (g *grove) settle() {
	g.t.Helper()
	g.await("drops and merges", func() bool {
		layers, err := g.n.engine.(*objectstore.Memory).LayerBytes()
		g.must(err)
		for id := range layers {
			if owner, ok := g.n.dir.Owner(id); !ok || owner != id {
				return false
			}
		}
		return len(g.n.dir.Absorbing()) == 0
	})
}

func (g *grove) await(what string, ok func() bool) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), 20*time.Second)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			g.t.Fatalf("waited in vain for %s", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// fell deletes one at random, and compares what is freed with what was told.
func (g *grove) fell() {
	g.t.Helper()
	g.settle()
	all := g.list()
	v, before, sum := all[g.rng.IntN(len(all))], g.stored(), uint64(0)
	for _, v := range all {
		sum += *v.ExclusiveBytes
	}
	if sum > before {
		g.t.Errorf("%d bytes are exclusive, %d are there", sum, before)
	}
	req := &api.DeleteRequest{Name: v.Name}
	if v.Snapshot {
		req.Snapshot = api.Selector(fmt.Sprint(v.SnapshotID))
	}
	g.must(g.b.DeleteVDI(g.t.Context(), req))
	want := before - *v.ExclusiveBytes
	g.await(fmt.Sprintf("%d bytes, after %d of %d were told to be exclusive of %s, snapshot %d", want, *v.ExclusiveBytes, before, v.Name, v.SnapshotID),
		func() bool { return g.stored() == want })
}
