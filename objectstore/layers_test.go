package objectstore

import (
	"maps"
	"testing"

	"sheepdog"
)

// layersOf writes a block to each of so many objects of layers 1, 2, ...: layer n is of family n.
func layersOf(t testing.TB, d *Disk, objects ...int) {
	t.Helper()
	var ops []sheepdog.Op
	for i, n := range objects {
		for k := range n {
			ops = append(ops, sheepdog.Op{Object: sheepdog.ObjectID{Family: sheepdog.FamilyID(i + 1), Index: sheepdog.Index(k)}, Layer: sheepdog.LayerID(i + 1),
				Count: 1, Data: make([]byte, blockSize), Stamp: sheepdog.Stamp{Token: 1, Seq: uint64(len(ops) + 1)}})
		}
	}
	errs := make([]error, len(ops))
	d.Write(ops, errs)
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := d.destage(true); err != nil {
		t.Fatal(err)
	}
}

// Layers are found whether they have few objects or many, and also when what is first of
// them in the metadata is gone.
func TestLayersOfFewAndManyObjects(t *testing.T) {
	d := openDisk(t, Options{}).d
	layersOf(t, d, 1, 15, 16, 17, 48, 1)
	check := func(what string, want ...sheepdog.LayerID) {
		t.Helper()
		got, err := d.Layers()
		if err != nil {
			t.Fatal(err)
		}
		listed := make(map[sheepdog.LayerID]sheepdog.FamilyID)
		for _, id := range want {
			listed[id] = sheepdog.FamilyID(id)
		}
		if !maps.Equal(got, listed) {
			t.Errorf("%s: %v, want %v", what, got, listed)
		}
	}
	check("written", 1, 2, 3, 4, 5, 6)
	for i := range 32 {
		if err := d.DropObject(sheepdog.ObjectID{Family: 5, Index: sheepdog.Index(i)}, 5); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []sheepdog.LayerID{1, 3} {
		if err := d.DropLayer(id); err != nil {
			t.Fatal(err)
		}
	}
	check("dropped", 2, 4, 5, 6)
	if err := d.destage(true); err != nil {
		t.Fatal(err)
	}
	check("destaged", 2, 4, 5, 6)
}

// BenchmarkLayers lists 10,000 layers of one object, as a node does after a change of the directory.
func BenchmarkLayers(b *testing.B) {
	d := openDisk(b, Options{}).d
	objects := make([]int, 10_000)
	for i := range objects {
		objects[i] = 1
	}
	layersOf(b, d, objects...)
	for b.Loop() {
		if _, err := d.Layers(); err != nil {
			b.Fatal(err)
		}
	}
}
