package objectstore

import (
	"context"
	"math/rand/v2"
	"runtime"
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
			v.add(id)
			model[id] = true
		} else {
			v.remove(id)
			delete(model, id)
		}
		if id.Index = sheepdog.Index(1<<inventoryBits - 1000 + r.IntN(2000)); v.may(id) != model[id] {
			t.Fatalf("step %d: object %s: %v", step, id, !model[id])
		}
	}
	for id := range model {
		v.remove(id)
	}
	if len(v.pages) > 0 {
		t.Errorf("%d pages are left of an empty set", len(v.pages))
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
		switch n := r.IntN(12); {
		case n == 0:
			checkBoth(t, u.d.Merge(layer, layer/10*10+3), nil)
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
					v.add(sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(i * step)})
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
