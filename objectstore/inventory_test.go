package objectstore

import (
	"cmp"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"sheepdog"
)

func TestInventoryIsASet(t *testing.T) {
	v := newInventory()
	model := make(map[sheepdog.ObjectID]bool)
	r := rand.New(rand.NewPCG(1, 1))
	for step := range 60_000 {
		id := sheepdog.ObjectID{Family: sheepdog.FamilyID(1 + r.IntN(2)), Index: sheepdog.Index(1<<inventoryBits - 1000 + r.IntN(2000))}
		if grows := step%30_000 < 20_000; grows == (r.IntN(10) > 0) {
			v.add(objectKey{id, sheepdog.LayerID(id.Family)})
			model[id] = true
		} else {
			v.drop(objectKey{id, sheepdog.LayerID(id.Family)})
			delete(model, id)
		}
		if step%5000 == 0 {
			checkLayers(t, v, model, id.Index)
		}
		id.Index = sheepdog.Index(1<<inventoryBits - 1000 + r.IntN(2000))
		if v.has(objectKey{id, sheepdog.LayerID(id.Family)}) != model[id] {
			t.Fatalf("step %d: object %s: %v", step, id, !model[id])
		}
	}
	for id := range model {
		v.drop(objectKey{id, sheepdog.LayerID(id.Family)})
	}
	if len(v.layers) > 0 {
		t.Errorf("%d layers are left of an empty set", len(v.layers))
	}
}

// checkLayers compares the lists of layers, of which each family has one, with a model.
func checkLayers(t *testing.T, v *inventory, model map[sheepdog.ObjectID]bool, from sheepdog.Index) {
	t.Helper()
	var want, got []sheepdog.ObjectID
	for id := range model {
		if !v.has(objectKey{id, sheepdog.LayerID(id.Family)}) || v.has(objectKey{id, 3}) {
			t.Fatalf("whether object %s is in a layer is not known", id)
		}
		if id.Family == 1 && id.Index >= from {
			want = append(want, id)
		}
	}
	slices.SortFunc(want, func(a, b sheepdog.ObjectID) int { return cmp.Compare(a.Index, b.Index) })
	v.objects(1, from, func(id sheepdog.ObjectID) bool {
		got = append(got, id)
		return true
	})
	if !slices.Equal(got, want) {
		t.Fatalf("from %d on there are %d objects, want %d", from, len(got), len(want))
	}
}

// The inventory of layers is what the metadata store has, through writes, merges, drops
// and destages.
func TestLayersAreListedFromMemory(t *testing.T) {
	meta := newFakeMeta()
	u := openDisk(t, Options{MapCacheBytes: 1 << 20, openMeta: meta.open})
	r := rand.New(rand.NewPCG(3, 3))
	for step := range 400 {
		obj := sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(r.IntN(12))}
		layer := sheepdog.LayerID(10 + r.IntN(3))
		inventoryStep(t, u, r.IntN(12), step, obj, layer, 10, 12)
		for layer := sheepdog.LayerID(10); layer <= 12; layer++ {
			got := u.d.layerObjects(layer, sheepdog.Index(step%7), 0)
			want := heldBy(t, u.d, layer, sheepdog.Index(step%7), 12)
			if !slices.Equal(got, want) {
				t.Fatalf("step %d: layer %d has %v, want %v", step, layer, got, want)
			}
		}
	}
}

// inventoryStep is the step-th of a walk: one of twelve things that happen to a store.
func inventoryStep(t *testing.T, u *diskUnderTest, n, step int, obj sheepdog.ObjectID, layer, from, to sheepdog.LayerID) {
	t.Helper()
	switch {
	case n == 0:
		checkBoth(t, u.d.Merge(from, to), nil)
	case n == 1:
		checkBoth(t, u.d.DropLayer(layer), nil)
	case n < 5:
		checkBoth(t, u.d.DropObject(obj, layer), nil)
	case n == 5:
		checkBoth(t, u.d.destage(true), nil)
	case n == 6 && step%3 == 0:
		u.Reopen(t)
	default:
		mustWrite(t, u.d, sheepdog.Op{Object: obj, Layer: layer, Count: 1, Stamp: sheepdog.Stamp{Token: 1, Seq: uint64(step + 1)}})
	}
}

// heldBy asks for each object whether a layer has it.
func heldBy(t *testing.T, d *Disk, layer sheepdog.LayerID, from, end sheepdog.Index) (out []sheepdog.ObjectID) {
	t.Helper()
	recs := make([]sheepdog.Record, 1)
	for i := from; i < end; i++ {
		id := sheepdog.ObjectID{Family: 1, Index: i}
		checkBoth(t, d.Records(id, []sheepdog.LayerID{layer}, 0, 1, recs), nil)
		if recs[0].State != sheepdog.Absent {
			out = append(out, id)
		}
	}
	return out
}

// Bug: the first write into an object asked the metadata store for it, by a scan that
// found nothing and took longer than the write.
func TestFirstWriteAsksNoMetadata(t *testing.T) {
	d, meta := countedDisk(t, Options{})
	before := meta.asked.Load()
	for i := range sheepdog.Index(100) {
		obj := sheepdog.ObjectID{Family: 1, Index: i}
		states := make([]sheepdog.BlockState, 1)
		if !d.TryRead(obj, []sheepdog.LayerID{1}, 0, 1, make([]byte, blockSize), states) || states[0] != sheepdog.Absent {
			t.Errorf("object %s: that it is not there is not at hand", obj)
		}
		mustWrite(t, d, sheepdog.Op{Object: obj, Layer: 1, Count: 1, Stamp: sheepdog.Stamp{Token: 1, Seq: 1}})
	}
	if n := meta.asked.Load() - before; n > 0 {
		t.Errorf("the metadata store was asked %d times for 100 new objects", n)
	}
}

// BenchmarkInventory fills one with a million objects, all of a disk or one in 30, as
// a node of a large cluster has.
func BenchmarkInventory(b *testing.B) {
	for name, step := range map[string]int{"all": 1, "one in 30": 30} {
		b.Run(name, func(b *testing.B) {
			const objects = 1_000_000
			var before, after runtime.MemStats
			for b.Loop() {
				runtime.GC()
				runtime.ReadMemStats(&before)
				v := newInventory()
				for i := range objects {
					v.add(objectKey{sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(i * step)}, 1})
				}
				runtime.GC()
				runtime.ReadMemStats(&after)
				runtime.KeepAlive(v)
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/objects, "bytes/object")
		})
	}
}
