package replica

import (
	"math/rand/v2"
	"testing"

	"sheepdog"
)

// What is found at once is what the map has, whatever was put and forgotten before.
func TestDirtyObjectsAreThoseOfTheMap(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var o dirtyObjects
	want := make(map[replicaKey]*dirtyObject)
	for i := range 20_000 {
		key := replicaKey{sheepdog.ObjectID{Family: sheepdog.FamilyID(rnd.IntN(2)), Index: sheepdog.Index(rnd.IntN(3 * nearObjects))}, sheepdog.LayerID(rnd.IntN(2))}
		switch turn := i / 2000 % 3; {
		case rnd.IntN(3) < turn: // in its turn more go than come, until none is left
			o.forget(key)
			delete(want, key)
		default:
			d := newDirtyObject(sheepdog.Revision(i))
			o.put(key, d)
			want[key] = d
		}
		if i%5000 == 4999 {
			for key := range want {
				o.forget(key)
			}
			clear(want)
			if o.near != nil {
				t.Fatal("memory is kept for nothing")
			}
		}
		if got := o.find(key); got != want[key] {
			t.Fatalf("step %d: %+v has %p, want %p", i, key, got, want[key])
		}
	}
	if len(o.all) != len(want) {
		t.Fatalf("%d objects, want %d", len(o.all), len(want))
	}
	for key, d := range want {
		if o.find(key) != d || o.find(key) != d {
			t.Fatalf("%+v is not found", key)
		}
	}
}

// A placement that is remembered for an object is that of the table, also where there are
// more of them than are remembered.
func TestPlacementsAreThoseOfTheTable(t *testing.T) {
	for _, n := range []int{1, maxRows, 3 * maxRows} {
		rnd := rand.New(rand.NewPCG(1, uint64(n)))
		rows := make([]*sheepdog.Placement, n)
		for i := range rows {
			rows[i] = &sheepdog.Placement{Since: sheepdog.Revision(i)}
		}
		table := make(sheepdog.Table, sheepdog.Partitions)
		for p := range table {
			table[p] = rows[rnd.IntN(n)]
		}
		all, k := &rulings{}, &rules{table: table}
		for range 10_000 {
			obj := sheepdog.ObjectID{Family: 7, Index: sheepdog.Index(rnd.IntN(2 * nearObjects))}
			if p := obj.Partition(); k.placement(all, obj.Index, p) != table[p] {
				t.Fatalf("%d placements: object %s has another one", n, obj)
			}
		}
	}
}
