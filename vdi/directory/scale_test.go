package directory

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"

	"sheepdog"
)

// What a cloud controller does a thousand times on one image leaves the
// directory as it was, but for counters and retired ids, which are one run.
func TestCyclesLeaveNothingBehind(t *testing.T) {
	w := newWorld(t)
	w.bare = true
	w.written("image")
	cycle := func(i int) {
		w.must(&Snapshot{Name: "image", Tag: "for-vm", IfToken: w.tokenOf("image", 0)})
		w.must(&Clone{Source: "image", Snapshot: "for-vm", Name: "vm"})
		w.must(&DeleteSnapshot{Name: "image", Snapshot: "for-vm"})
		w.must(&Delete{Name: "vm"})
		if i%2 == 0 {
			if err := w.write("image"); err != nil {
				t.Fatal(err)
			}
		}
		if i%10 == 9 {
			w.merge()
		}
	}
	for i := range 10 {
		cycle(i)
	}
	size := len(w.image())
	for i := range 1000 {
		cycle(i)
	}
	w.merge()
	w.check()
	if got := len(w.image()); got > size+100 || len(w.layers()) != 1 {
		t.Fatalf("image of %d bytes after 10 cycles, %d after 1000; layers %v", size, got, w.layers())
	}
}

// Without a merge in between, chains grow, but nothing else does.
func TestCyclesWithoutMergeStayCorrect(t *testing.T) {
	w := newWorld(t)
	w.bare = true
	w.written("v")
	for range 500 {
		w.must(&Snapshot{Name: "v", Tag: "s", IfToken: w.tokenOf("v", 0)})
		if err := w.write("v"); err != nil {
			t.Fatal(err)
		}
		w.must(&DeleteSnapshot{Name: "v", Snapshot: "s"})
	}
	v, _ := w.d.Lookup("v")
	if chain, _ := w.d.Chain(v.Layer); len(chain) != 501 || len(w.layers()) != 1 {
		t.Fatalf("chain of %d ids, %d layers", len(chain), len(w.layers()))
	}
	w.restart()
	w.check()
	w.merge()
	if chain, _ := w.d.Chain(v.Layer); len(chain) != 1 {
		t.Fatalf("chain %v", chain)
	}
	w.check()
}

// deep makes a VDI with n written snapshots.
func deep(t failer, n int) (*world, sheepdog.LayerID) {
	w := newWorld(t)
	w.bare = true
	w.written("v")
	for range n {
		w.must(&Snapshot{Name: "v", IfToken: w.tokenOf("v", 0)})
		if err := w.write("v"); err != nil {
			t.Fatal(err)
		}
	}
	v, _ := w.d.Lookup("v")
	return w, v.Layer
}

func TestDataPathQueriesDoNotAllocate(t *testing.T) {
	w, layer := deep(t, 500)
	v, _ := w.d.Lookup("v")
	if n := testing.AllocsPerRun(100, func() {
		chain, ok := w.d.Chain(layer)
		_, _, based := w.d.BaseOf(layer)
		l, listed := w.d.Layer(layer)
		f, known := w.d.Family(v.Family)
		if !ok || !based || !listed || !known || len(chain) != 501 || l.ID != f.Working || !w.d.Listed(chain[7]) {
			t.Fatal("wrong answers")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Readers beside commands see states, not halves of them: a family's working
// layer is listed in every state in which the family shows it.
func TestReadersBesideCommands(t *testing.T) {
	w := newWorld(t)
	w.bare = true
	f, _ := w.written("v")
	ctx, stop := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for ctx.Err() == nil {
				readOnce(t, w.d, f.ID)
			}
		})
	}
	for i := range 300 {
		w.must(&Snapshot{Name: "v", Tag: "s", IfToken: w.tokenOf("v", 0)})
		if err := w.write("v"); err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			w.must(&Rollback{Name: "v", Snapshot: "s", IfToken: w.tokenOf("v", 0)})
		}
		w.must(&DeleteSnapshot{Name: "v", Snapshot: "s"})
		if i%7 == 0 {
			w.merge()
		}
	}
	stop()
	readers.Wait()
	w.check()
}

func readOnce(t *testing.T, d *Directory, id sheepdog.FamilyID) {
	f, ok := d.Family(id)
	if !ok || f.Working == 0 || f.Name != "v" {
		t.Errorf("family %+v, %v", f, ok)
	}
	if chain, ok := d.Chain(f.Working); ok && chain[0] != f.Working {
		t.Errorf("chain %v of layer %d", chain, f.Working)
	}
	if l, ok := d.Layer(f.Working); ok && l.Family != id {
		t.Errorf("layer %+v", l)
	}
	d.Logical(f.Working)
	if d.Dropped(f.Working) && d.Listed(f.Working) {
		t.Errorf("layer %d is back", f.Working)
	}
	for _, e := range d.List() {
		if e.Name != "v" {
			t.Errorf("entry %+v", e)
		}
	}
	if img, err := d.Snapshot(); err != nil || New().Restore(img) != nil {
		t.Errorf("image: %v\n%s", err, img)
	}
}

func BenchmarkChain(b *testing.B) {
	for _, depth := range []int{1, 500} {
		w, layer := deep(b, depth-1)
		b.Run(fmt.Sprint("depth=", depth), func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if chain, _ := w.d.Chain(layer); len(chain) != depth {
						b.Error(len(chain))
					}
				}
			})
		})
	}
}

// crowd makes n VDIs, each with a snapshot and a written layer on it.
func crowd(t failer, n int) *world {
	w := newWorld(t)
	w.bare = true
	for i := range n {
		name := fmt.Sprint("vdi-", i)
		w.written(name)
		w.must(&Snapshot{Name: name, IfToken: w.tokenOf(name, 0)})
	}
	return w
}

func BenchmarkApplyWith10000VDIs(b *testing.B) {
	w := crowd(b, 10_000)
	w.written("image")
	b.Run("cycle", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() { // 5 commands
			w.must(&Snapshot{Name: "image", Tag: "s", IfToken: w.tokenOf("image", 0)})
			w.must(&Clone{Source: "image", Snapshot: "s", Name: "vm"})
			w.must(&DeleteSnapshot{Name: "image", Snapshot: "s"})
			w.must(&Delete{Name: "vm"})
			w.merge()
		}
	})
	b.Run("list", func(b *testing.B) {
		for b.Loop() {
			w.d.List()
		}
	})
	b.Run("freeze", func(b *testing.B) {
		for b.Loop() {
			w.d.Freeze()
		}
	})
	b.Run("image", func(b *testing.B) {
		for b.Loop() {
			b.SetBytes(int64(len(w.image())))
		}
	})
	img := w.image()
	b.Run("restore", func(b *testing.B) {
		for b.Loop() {
			if err := New().Restore(img); err != nil {
				b.Fatal(err)
			}
		}
	})
	if !bytes.Equal(img, w.image()) {
		b.Error("image changed")
	}
}
