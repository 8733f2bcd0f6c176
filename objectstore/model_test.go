package objectstore

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sheepdog"
	"sheepdog/objectstore/storetest"
)

// TestAgainstMemory runs random histories on a disk store, with reopens and
// destages in between, and on the memory engine; they must look the same.
func TestAgainstMemory(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		opts := smallOptions()
		opts.Meta, opts.Logger, opts.files, opts.DestageEvery = dir, quiet(), newSimFiles(), time.Hour
		opts.openMeta = newFakeMeta().open
		d, err := Open(opts)
		if err != nil {
			rt.Fatal(err)
		}
		defer func() {
			if err := d.Close(); err != nil {
				rt.Fatal(err)
			}
		}()
		m := NewMemory()
		seq := uint64(0)
		layer := rapid.Custom(func(t *rapid.T) sheepdog.LayerID { return sheepdog.LayerID(rapid.IntRange(1, 4).Draw(t, "layer")) })
		rt.Repeat(map[string]func(*rapid.T){
			"": func(rt *rapid.T) { compareEngines(rt, d, m) },
			"write": func(rt *rapid.T) {
				ops := rapid.SliceOfN(opGenerator(&seq), 1, 4).Draw(rt, "ops")
				got, want := make([]error, len(ops)), make([]error, len(ops))
				d.Write(ops, got)
				m.Write(ops, want)
				for i := range ops {
					if got[i] != nil || want[i] != nil {
						rt.Fatal(got[i], want[i])
					}
				}
			},
			"merge": func(rt *rapid.T) {
				from, to := layer.Draw(rt, "from"), layer.Draw(rt, "to")
				if got, want := d.Merge(from, to), m.Merge(from, to); (got == nil) != (want == nil) {
					rt.Fatal(got, want)
				}
			},
			"drop": func(rt *rapid.T) {
				l := layer.Draw(rt, "layer")
				if got, want := d.DropLayer(l), m.DropLayer(l); got != nil || want != nil {
					rt.Fatal(got, want)
				}
			},
			"flush": func(rt *rapid.T) {
				if err := d.Flush(); err != nil {
					rt.Fatal(err)
				}
			},
			"destage": func(rt *rapid.T) {
				if err := d.destage(true); err != nil {
					rt.Fatal(err)
				}
			},
			"defragment": func(rt *rapid.T) {
				if err := d.destage(true); err != nil {
					rt.Fatal(err)
				}
				m := defragmentation{d: d}
				for i := range sheepdog.Index(3) {
					if _, err := m.move([]window{{obj: sheepdog.ObjectID{Family: 3, Index: i}}}); err != nil {
						rt.Fatal(err)
					}
				}
			},
			"reopen": func(rt *rapid.T) {
				err := d.Close()
				if err == nil {
					d, err = Open(opts)
				}
				if err != nil {
					rt.Fatal(err)
				}
			},
			"kill": func(rt *rapid.T) {
				d.abandonProcess()
				var err error
				if d, err = Open(opts); err != nil {
					rt.Fatal(err)
				}
			},
		})
	})
}

func opGenerator(seq *uint64) *rapid.Generator[sheepdog.Op] {
	return rapid.Custom(func(t *rapid.T) sheepdog.Op {
		*seq++
		n := rapid.SampledFrom([]int{1, 2, 7, 16, 70}).Draw(t, "n")
		op := sheepdog.Op{
			Object: sheepdog.ObjectID{Family: 3, Index: sheepdog.Index(rapid.IntRange(0, 2).Draw(t, "index"))},
			Layer:  sheepdog.LayerID(rapid.IntRange(1, 4).Draw(t, "layer")),
			Start:  sheepdog.BlockNo(rapid.IntRange(0, 150).Draw(t, "start")),
			Count:  uint32(n),
			Stamp:  sheepdog.Stamp{Token: 1, Seq: rapid.Uint64Range(0, *seq).Draw(t, "seq")},
			Force:  rapid.IntRange(0, 9).Draw(t, "force") == 0,
		}
		if rapid.IntRange(0, 3).Draw(t, "zero") > 0 {
			op.Data = storetest.Fill(*seq, n)
		}
		return op
	})
}

func compareEngines(rt *rapid.T, d, m sheepdog.Engine) {
	if a, b := snapshotOf(rt, d), snapshotOf(rt, m); a != b {
		rt.Fatalf("engines differ:\n%s\n%s", a, b)
	}
	if rapid.IntRange(0, 5).Draw(rt, "compare") > 0 {
		return
	}
	const n = 230
	chain := []sheepdog.LayerID{4, 2, 1}
	for i := range sheepdog.Index(3) {
		obj := sheepdog.ObjectID{Family: 3, Index: i}
		var bufs [2][]byte
		var states [2][]sheepdog.BlockState
		var recs [2][]sheepdog.Record
		for k, e := range []sheepdog.Engine{d, m} {
			bufs[k], states[k], recs[k] = make([]byte, n*blockSize), make([]sheepdog.BlockState, n), make([]sheepdog.Record, n)
			if err := e.Read(obj, chain, 0, n, bufs[k], states[k]); err != nil {
				rt.Fatal(err)
			}
			if err := e.Records(obj, chain, 0, n, recs[k]); err != nil {
				rt.Fatal(err)
			}
		}
		if !bytes.Equal(bufs[0], bufs[1]) || !slices.Equal(states[0], states[1]) || !slices.Equal(recs[0], recs[1]) {
			rt.Fatalf("object %s differs", obj)
		}
	}
}

// snapshotOf is all that an engine lists.
func snapshotOf(rt *rapid.T, e sheepdog.Engine) string {
	var entries []sheepdog.ListEntry
	err := e.List(sheepdog.ListEntry{}, nil, func(l sheepdog.ListEntry) bool {
		entries = append(entries, l)
		return true
	})
	if err != nil {
		rt.Fatal(err)
	}
	layers, err := e.Layers()
	if err != nil {
		rt.Fatal(err)
	}
	out := fmt.Sprint(entries, layers)
	for l := sheepdog.LayerID(1); l <= 4; l++ {
		objects, err := e.LayerObjects(l, 0, 0)
		if err != nil {
			rt.Fatal(err)
		}
		out += fmt.Sprint(objects)
	}
	return out
}
