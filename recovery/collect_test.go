package recovery

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"sheepdog"
	"sheepdog/replica/replicatest"
)

// lister counts how often all layers of a store were listed.
type lister struct {
	sheepdog.Engine
	lists int
}

func (l *lister) Layers() (map[sheepdog.LayerID]sheepdog.FamilyID, error) {
	l.lists++
	return l.Engine.Layers()
}

// Bug: every node listed all layers that it stores after each change of the directory, a
// millisecond or more with 10,000 disks, while the next change waited for the processor.
func TestCollectLooksOnlyForWhatHasGone(t *testing.T) {
	store := new(lister)
	c := newCluster(t, replicatest.NewView(10, nodes(1), nodes(1), nodes(1)), func(cfg *Config) {
		store.Engine, cfg.Store = cfg.Store, store
	})
	k := newCollector(c.nodes[1].agent)
	collect := func() {
		t.Helper()
		if err := k.collect(t.Context(), c.views.View()); err != nil {
			t.Fatal(err)
		}
	}
	collect()
	for layer := sheepdog.LayerID(10); layer < 20; layer++ {
		c.layers.Add(layer, fam, 0)
		c.put(1, object(0), layer, 1, 1, 1)
		c.layers.Remove(layer)
		collect()
		if held, _ := store.Engine.Layers(); len(held) != 0 {
			t.Errorf("layers %v, want none", held)
		}
	}
	if store.lists != 1 {
		t.Errorf("%d lists of all layers, want the first one alone", store.lists)
	}
	c.step(*c.placement(object(0)))
	collect()
	if store.lists != 2 {
		t.Errorf("%d lists of all layers after another view, want 2", store.lists)
	}
}

// A collection of what has gone since the one before leaves what one of everything does.
func TestCollectOfWhatHasGoneEqualsOneOfAll(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	c := newCluster(t, replicatest.NewView(10, nodes(1, 2), nodes(1, 2), nodes(1, 2)), nil)
	k := newCollector(c.nodes[1].agent)
	listed, next := []sheepdog.LayerID{top}, sheepdog.LayerID(3)
	for range 300 {
		at := r.IntN(len(listed))
		switch layer := listed[at]; r.IntN(4) {
		case 0:
			c.layers.Add(next, fam, 0)
			listed, next = append(listed, next), next+1
		case 1:
			i, b := object(r.IntN(3)), sheepdog.BlockNo(r.IntN(50))
			c.put(1, i, layer, b, 1, uint64(next))
			c.put(2, i, layer, b, 1, uint64(next))
		case 2:
			if len(listed) > 1 {
				c.layers.Remove(layer)
				listed = append(listed[:at], listed[at+1:]...)
			}
		case 3:
			if into := listed[(at+1)%len(listed)]; into != layer {
				c.layers.Absorb(layer, into)
				listed = append(listed[:at], listed[at+1:]...)
			}
		}
		if r.IntN(3) > 0 {
			continue
		}
		if err := k.collect(t.Context(), c.views.View()); err != nil {
			t.Fatal(err)
		}
		if err := c.nodes[2].agent.Collect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if some, all := c.nodes[1].engine.Dump(nil), c.nodes[2].engine.Dump(nil); !reflect.DeepEqual(some, all) {
			t.Fatalf("what has gone was looked for, and %v is left; all was, and it is %v", some, all)
		}
	}
}
