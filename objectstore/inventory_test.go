package objectstore

import (
	"cmp"
	"context"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"sheepdog"
)

// counted waits until the inventory is whole.
func counted(t testing.TB, d *Disk) {
	t.Helper()
	for !d.inventory.whole.Load() {
		if t.Context().Err() != nil {
			t.Fatal("the inventory is not whole")
		}
		runtime.Gosched()
	}
}

func TestInventoryIsASet(t *testing.T) {
	v := newInventory()
	if !v.may(sheepdog.ObjectID{}) {
		t.Error("an inventory that was not taken says no")
	}
	v.whole.Store(true)
	model := make(map[sheepdog.ObjectID]bool)
	r := rand.New(rand.NewPCG(1, 1))
	for step := range 60_000 {
		id := sheepdog.ObjectID{Family: sheepdog.FamilyID(1 + r.IntN(2)), Index: sheepdog.Index(1<<inventoryBits - 1000 + r.IntN(2000))}
		if grows := step%30_000 < 20_000; grows == (r.IntN(10) > 0) {
			v.add(objectKey{id, sheepdog.LayerID(id.Family)})
			model[id] = true
		} else {
			v.remove(id)
			v.drop(objectKey{id, sheepdog.LayerID(id.Family)})
			delete(model, id)
		}
		if step%5000 == 0 {
			checkLayers(t, v, model, id.Index)
		}
		if id.Index = sheepdog.Index(1<<inventoryBits - 1000 + r.IntN(2000)); v.may(id) != model[id] {
			t.Fatalf("step %d: object %s: %v", step, id, !model[id])
		}
	}
	for id := range model {
		v.remove(id)
		v.drop(objectKey{id, sheepdog.LayerID(id.Family)})
	}
	if len(v.pages) > 0 || len(v.layers) > 0 {
		t.Errorf("%d pages and %d layers are left of an empty set", len(v.pages), len(v.layers))
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
	v.each(1, from, func(id sheepdog.ObjectID) bool {
		got = append(got, id)
		return true
	})
	if !slices.Equal(got, want) {
		t.Fatalf("from %d on there are %d objects, want %d", from, len(got), len(want))
	}
}

// While the inventory is taken, what is dropped does not come back with an older list,
// and what is made anew then stays.
func TestInventoryTakenBesideChanges(t *testing.T) {
	keys := make([]objectKey, 3)
	meta := newFakeMeta()
	for i := range keys {
		keys[i] = objectKey{sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(i)}, 1}
		checkBoth(t, meta.Commit([]change{{key: layerKey(keys[i]), value: []byte{}}}), nil)
	}
	v := newInventory()
	v.drop(keys[0]) // after the list was read, before it is noted
	v.drop(keys[1])
	v.add(keys[1])
	checkBoth(t, v.fill(t.Context(), meta), nil)
	for i, want := range []bool{false, true, true} {
		if v.has(keys[i]) != want {
			t.Errorf("object %d is in the layer: %v", i, !want)
		}
	}
}

// The inventory of layers is what the metadata store has, through writes, merges, drops
// and destages, also while it is being taken.
func TestLayersAreListedFromMemory(t *testing.T) {
	meta := newFakeMeta()
	u := openDisk(t, Options{MapCacheBytes: 1 << 20, openMeta: meta.open})
	r := rand.New(rand.NewPCG(3, 3))
	for step := range 400 {
		obj := sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(r.IntN(12))}
		layer := sheepdog.LayerID(10 + r.IntN(3))
		inventoryStep(t, u, r.IntN(12), step, obj, layer, 10, 12)
		if step%2 == 0 {
			counted(t, u.d)
		}
		for layer := sheepdog.LayerID(10); layer <= 12; layer++ {
			got, err := u.d.layerObjects(layer, sheepdog.Index(step%7), 0)
			checkBoth(t, err, nil)
			counted(t, u.d)
			known, err := u.d.layerObjects(layer, sheepdog.Index(step%7), 0)
			checkBoth(t, err, nil)
			want := heldBy(t, u.d, layer, sheepdog.Index(step%7), 12)
			if !slices.Equal(got, want) || !slices.Equal(known, want) {
				t.Fatalf("step %d: layer %d has %v and, from memory, %v; want %v", step, layer, got, known, want)
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

// The inventory names whatever the metadata store has, through merges, drops and the
// end of the process; and what is gone it does not name, once the store was opened again.
func TestInventoryMissesNothing(t *testing.T) {
	meta := newFakeMeta()
	u := openDisk(t, Options{MapCacheBytes: 1 << 20, openMeta: meta.open})
	r := rand.New(rand.NewPCG(2, 2))
	for step := range 300 {
		obj := sheepdog.ObjectID{Family: sheepdog.FamilyID(1 + r.IntN(2)), Index: sheepdog.Index(r.IntN(12))}
		layer := sheepdog.LayerID(obj.Family)*10 + sheepdog.LayerID(r.IntN(3))
		inventoryStep(t, u, r.IntN(12), step, obj, layer, layer, layer/10*10+3)
		counted(t, u.d)
		for id := range storedIn(t, meta) {
			if !u.d.inventory.may(id) {
				t.Fatalf("step %d: object %s is stored, the inventory says no", step, id)
			}
		}
	}
	u.Reopen(t)
	counted(t, u.d)
	stored := storedIn(t, meta)
	for family := range sheepdog.FamilyID(3) {
		for i := range sheepdog.Index(12) {
			if id := (sheepdog.ObjectID{Family: family, Index: i}); u.d.inventory.may(id) != stored[id] {
				t.Errorf("object %s: the inventory says %v", id, !stored[id])
			}
		}
	}
}

// storedIn is the objects of which the metadata store has anything.
func storedIn(t *testing.T, meta metadata) map[sheepdog.ObjectID]bool {
	t.Helper()
	out := make(map[sheepdog.ObjectID]bool)
	err := meta.Scan(scan{prefix: []byte{keyObject}}, func(key, _ []byte) (bool, error) {
		k, err := decodeObjectKey(key)
		out[k.Object] = true
		return true, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
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
	counted(t, d)
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

// BenchmarkTakeInventory is what a start with so many objects does in the background.
func BenchmarkTakeInventory(b *testing.B) {
	const objects = 1 << 16
	d := openDisk(b, Options{}).d
	sparse(b, d, objects)
	for b.Loop() {
		if err := newInventory().fill(context.Background(), d.meta); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/objects, "us/object")
}
