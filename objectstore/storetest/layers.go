package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"sheepdog"
)

func (s *store) layers() map[sheepdog.LayerID]sheepdog.FamilyID {
	s.t.Helper()
	l, err := s.engine().Layers()
	s.must(err)
	return l
}

func (s *store) layerObjects(layer sheepdog.LayerID) []sheepdog.Index {
	s.t.Helper()
	l, err := s.engine().LayerObjects(layer, 0, 0)
	s.must(err)
	return l
}

// samePart wants a part of a layer's list to be that of the whole.
func (s *store) samePart(layer sheepdog.LayerID, from sheepdog.Index, limit int) {
	s.t.Helper()
	want := s.layerObjects(layer)
	first, _ := slices.BinarySearch(want, from)
	if want = want[first:]; limit > 0 {
		want = want[:min(limit, len(want))]
	}
	got, err := s.engine().LayerObjects(layer, from, limit)
	s.must(err)
	if !slices.Equal(got, want) {
		s.t.Fatalf("%d objects of layer %d from %d on: %v, want %v", limit, layer, from, got, want)
	}
}

func testLayers(t *testing.T, s *store) {
	want := map[sheepdog.LayerID]sheepdog.FamilyID{}
	for i := range 30 {
		layer, family := sheepdog.LayerID(1+i%5), sheepdog.FamilyID(100+i%5)
		s.write(zero(sheepdog.ObjectID{Family: family, Index: sheepdog.Index(300 - 10*i)}, layer, 0, 1, 1))
		want[layer] = family
	}
	s.everywhere(func() {
		if got := s.layers(); !maps.Equal(got, want) {
			t.Fatalf("layers %v, want %v", got, want)
		}
		if got := s.layerObjects(2); !slices.Equal(got, []sheepdog.Index{40, 90, 140, 190, 240, 290}) {
			t.Fatalf("objects of layer 2: %v", got)
		}
		for from := range sheepdog.Index(300) {
			s.samePart(2, from, int(from%5))
		}
		if got := s.layerObjects(77); len(got) != 0 {
			t.Fatalf("objects of an unknown layer: %v", got)
		}
	})
	s.must(s.engine().DropLayer(3))
	delete(want, 3)
	s.everywhere(func() {
		if got := s.layers(); !maps.Equal(got, want) {
			t.Fatalf("layers %v, want %v", got, want)
		}
	})
}

func testDrop(t *testing.T, s *store) {
	v1, v2, big := Fill(1, 1), Fill(2, 1), Fill(3, 100)
	s.write(data(objA, 1, 0, v1, 1), data(objA, 2, 0, v2, 2), data(objB, 1, 0, v1, 1), data(objB, 1, 300, big, 1), data(objB, 2, 1, big, 1))
	s.must(s.engine().DropObject(objA, 2))
	s.must(s.engine().DropObject(objA, 2))
	s.must(s.engine().DropObject(sheepdog.ObjectID{Family: 1, Index: 1}, 50))
	s.everywhere(func() {
		s.expect(objA, []sheepdog.LayerID{2, 1}, 0, v1)
		s.expect(objB, []sheepdog.LayerID{2, 1}, 0, v1, big[:blockSize])
	})
	s.must(s.engine().DropLayer(1))
	s.must(s.engine().DropLayer(1))
	s.everywhere(func() {
		s.expect(objA, []sheepdog.LayerID{2, 1}, 0, nil)
		s.expect(objB, []sheepdog.LayerID{2, 1}, 0, nil, big[:blockSize])
		s.expect(objB, []sheepdog.LayerID{1}, 300, nil)
		if l := s.list(); len(l) != 1 || l[0].Object != objB || l[0].Layer != 2 {
			t.Fatalf("left: %v", l)
		}
		if o := s.layerObjects(1); len(o) != 0 {
			t.Fatalf("objects of a dropped layer: %v", o)
		}
	})
}

func testDropAgain(t *testing.T, s *store) {
	// Layers are not used again by the system; but if they were, nothing of
	// before the drop may show.
	v1, v2 := Fill(1, 30), Fill(2, 1)
	for round := range 3 {
		s.write(data(objA, 1, 0, v1, 5))
		if round == 1 {
			s.r.Reopen(t)
		}
		s.must(s.engine().DropObject(objA, 1))
		s.write(data(objA, 1, 1, v2, 1))
		s.everywhere(func() { s.expect(objA, []sheepdog.LayerID{1}, 0, nil, v2, nil) })
		s.must(s.engine().DropLayer(1))
		s.everywhere(func() {
			s.expect(objA, []sheepdog.LayerID{1}, 0, nil, nil, nil)
			if l := s.list(); len(l) != 0 {
				t.Fatalf("left: %v", l)
			}
		})
	}
}

func testMerge(t *testing.T, s *store) {
	from, to := Fill(1, 4), Fill(2, 4)
	block := func(b []byte, i int) []byte { return b[i*blockSize:][:blockSize] }
	s.write(data(objA, 1, 0, from, 1))                                 // both have it
	s.write(data(objA, 2, 2, to, 2))                                   //
	s.write(zero(objB, 1, 0, 1, 1))                                    // only from
	s.write(data(sheepdog.ObjectID{Family: 7, Index: 9}, 2, 0, to, 1)) // only to
	s.write(data(objA, 3, 0, block(to, 0), 9))                         // a layer that is no part of it
	records := s.records(objA, []sheepdog.LayerID{2, 1}, 0, 6)
	s.must(s.engine().Merge(1, 2))
	s.must(s.engine().Merge(1, 2))
	check := func() {
		s.expect(objA, []sheepdog.LayerID{2}, 0, block(from, 0), block(from, 1), block(to, 0), block(to, 1), block(to, 2), block(to, 3))
		s.expect(objA, []sheepdog.LayerID{1}, 0, nil, nil, nil, nil)
		s.expect(objB, []sheepdog.LayerID{2}, 0, zeroBlock, nil)
		s.expect(objA, []sheepdog.LayerID{3}, 0, block(to, 0), nil)
		if got := s.records(objA, []sheepdog.LayerID{2}, 0, 6); !slices.Equal(got, records) {
			t.Fatalf("records %v, want %v", got, records)
		}
		if got := s.layerObjects(2); !slices.Equal(got, []sheepdog.Index{3, 4, 9}) {
			t.Fatalf("objects %v", got)
		}
		if _, ok := s.layers()[1]; ok {
			t.Fatal("the merged layer is left")
		}
	}
	s.everywhere(check)
	s.must(s.engine().Merge(1, 2))
	s.everywhere(check)
	s.must(s.engine().Merge(2, 4)) // again, of what is stored
	s.everywhere(func() {
		s.expect(objA, []sheepdog.LayerID{4}, 0, block(from, 0), block(from, 1), block(to, 0), block(to, 1), block(to, 2), block(to, 3))
	})
}

func testMergeLarge(t *testing.T, s *store) {
	// Old and new data, in the log and not, over many chunks and merges.
	a, b, c := Fill(1, 1024), Fill(2, 200), Fill(3, 3)
	s.write(data(objA, 1, 0, a, 1))
	s.r.Reopen(t)
	s.write(data(objA, 2, 500, b, 2))
	s.write(data(objA, 1, 20, c, 2))
	s.must(s.engine().Merge(1, 2))
	s.write(data(objA, 3, 550, c, 3))
	s.must(s.engine().Merge(2, 3))
	want := bytes.Clone(a)
	copy(want[20*blockSize:], c)
	copy(want[500*blockSize:], b)
	copy(want[550*blockSize:], c)
	s.everywhere(func() {
		got, _ := s.read(objA, []sheepdog.LayerID{3}, 0, 1024)
		if !bytes.Equal(got, want) {
			t.Fatal("wrong bytes after merges")
		}
	})
	s.must(s.engine().DropLayer(3))
	s.everywhere(func() { s.expect(objA, []sheepdog.LayerID{3, 2, 1}, 0, nil) })
}

func testFacts(t *testing.T, s *store) {
	value := []byte("cluster")
	s.must(s.engine().Put("id", value))
	value[0] = 'X'
	s.must(s.engine().Put("empty", nil))
	s.must(s.engine().Put("twice", []byte("one")))
	s.must(s.engine().Put("twice", []byte("two")))
	s.everywhere(func() {
		for name, want := range map[string]string{"id": "cluster", "empty": "", "twice": "two"} {
			got, err := s.engine().Get(name)
			if err != nil || got == nil || string(got) != want {
				t.Fatalf("fact %s: %q, %v", name, got, err)
			}
		}
		if got, err := s.engine().Get("missing"); got != nil || err != nil {
			t.Fatalf("missing fact: %q, %v", got, err)
		}
	})
}

func testWipe(t *testing.T, s *store) {
	s.must(s.engine().Put("id", []byte("x")))
	s.write(data(objA, 1, 0, Fill(1, 40), 1), data(objB, 2, 0, Fill(1, 1), 1))
	s.r.Reopen(t)
	s.write(data(objA, 3, 0, Fill(1, 40), 1))
	s.must(s.engine().Wipe())
	s.everywhere(func() {
		if l := s.list(); len(l) != 0 || len(s.layers()) != 0 {
			t.Fatalf("left: %v", l)
		}
		s.expect(objA, []sheepdog.LayerID{3, 1}, 0, nil)
		if got, err := s.engine().Get("id"); string(got) != "x" || err != nil {
			t.Fatalf("fact: %q, %v", got, err)
		}
	})
	s.write(data(objA, 1, 0, Fill(2, 1), 1))
	s.everywhere(func() { s.expect(objA, []sheepdog.LayerID{1}, 0, Fill(2, 1)) })
}

func testUsage(t *testing.T, s *store) {
	before, err := s.engine().Usage()
	s.must(err)
	s.write(data(objA, 1, 0, Fill(1, 1024), 1))
	after, err := s.engine().Usage()
	s.must(err)
	if after.Used < before.Used+1024*blockSize || after.Free == 0 {
		t.Fatalf("usage %+v, before %+v", after, before)
	}
}

// testConcurrency has writers of objects of their own and of one shared object
// beside readers, listers, flushes, merges and drops. Every op writes blocks of
// one value, so a reader sees a half-applied op at once.
func testConcurrency(t *testing.T, s *store) {
	const writers, rounds, width = 6, 60, 20
	var wg sync.WaitGroup
	errc := make(chan error, 100)
	e := s.engine()
	run := func(f func() error) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := f(); err != nil {
				errc <- err
			}
		}()
	}
	for w := range writers {
		run(func() error { return concurrentWriter(e, w, rounds, width) })
		run(func() error { return concurrentReader(e, rounds, width) })
	}
	run(func() error { return concurrentKeeper(e, rounds) })
	wg.Wait()
	close(errc)
	for err := range errc {
		t.Error(err)
	}
	for w := range writers {
		obj := sheepdog.ObjectID{Family: 50, Index: sheepdog.Index(w)}
		s.everywhere(func() {
			got, _ := s.read(obj, []sheepdog.LayerID{1}, 0, width)
			if !bytes.Equal(got, bytes.Repeat([]byte{byte(rounds)}, width*blockSize)) {
				t.Fatalf("writer %d: last write is not there", w)
			}
		})
	}
}

func concurrentWriter(e sheepdog.Engine, w, rounds, width int) error {
	own, shared := sheepdog.ObjectID{Family: 50, Index: sheepdog.Index(w)}, sheepdog.ObjectID{Family: 51}
	for i := 1; i <= rounds; i++ {
		n := width
		if i%2 == 0 {
			n = 3 // carried in the log
		}
		value := bytes.Repeat([]byte{byte(i)}, n*blockSize)
		ops := []sheepdog.Op{data(own, 1, 0, value, uint64(i)), data(shared, 1, 0, value[:3*blockSize], uint64(i*100+w)),
			data(sheepdog.ObjectID{Family: 52, Index: sheepdog.Index(i)}, sheepdog.LayerID(w+10), 0, value, 1)}
		if i == rounds {
			ops[0] = data(own, 1, 0, bytes.Repeat([]byte{byte(i)}, width*blockSize), uint64(i))
		}
		errs := make([]error, len(ops))
		e.Write(ops, errs)
		if err := errors.Join(errs...); err != nil {
			return err
		}
		if i%10 == 0 {
			if err := e.Flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

func concurrentReader(e sheepdog.Engine, rounds, width int) error {
	buf, states := make([]byte, 3*blockSize), make([]sheepdog.BlockState, 3)
	for range rounds * 3 {
		for w := range 7 {
			obj := sheepdog.ObjectID{Family: 50, Index: sheepdog.Index(w)}
			if w == 6 {
				obj = sheepdog.ObjectID{Family: 51}
			}
			if err := e.Read(obj, []sheepdog.LayerID{1}, 0, 3, buf, states); err != nil {
				return err
			}
			if !bytes.Equal(buf, bytes.Repeat(buf[:1], len(buf))) {
				return fmt.Errorf("object %s: half of a write is visible", obj)
			}
		}
	}
	return nil
}

func concurrentKeeper(e sheepdog.Engine, rounds int) error {
	for i := range rounds {
		layer := sheepdog.LayerID(10 + i%5)
		if err := e.Merge(layer, layer+1); err != nil {
			return err
		}
		if i%7 == 0 {
			if err := e.DropLayer(12); err != nil {
				return err
			}
		}
		if err := e.List(sheepdog.ListEntry{}, nil, func(sheepdog.ListEntry) bool { return true }); err != nil {
			return err
		}
		if _, err := e.LayerObjects(layer, 0, 0); err != nil {
			return err
		}
	}
	return nil
}

func testClosed(t *testing.T, s *store) {
	e := s.engine()
	s.write(data(objA, 1, 0, Fill(1, 1), 1))
	s.must(e.Close())
	errs := make([]error, 1)
	e.Write([]sheepdog.Op{data(objA, 1, 0, Fill(1, 1), 2)}, errs)
	_, layersErr := e.Layers()
	_, getErr := e.Get("x")
	for name, err := range map[string]error{
		"write": errs[0], "layers": layersErr, "get": getErr, "flush": e.Flush(), "put": e.Put("x", nil),
		"drop": e.DropLayer(1), "close": e.Close(),
		"read": e.Read(objA, []sheepdog.LayerID{1}, 0, 1, make([]byte, blockSize), make([]sheepdog.BlockState, 1)),
	} {
		if !errors.Is(err, sheepdog.ErrClosed) {
			t.Errorf("%s after close: %v", name, err)
		}
	}
}
