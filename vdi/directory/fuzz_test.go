package directory

import (
	"bytes"
	"strconv"
	"testing"
)

// FuzzApply feeds commands as they might come from a log. Whatever is accepted
// must leave a sound directory, whose image restores to the same.
func FuzzApply(f *testing.F) {
	for _, cmd := range []Command{
		&Create{Name: "new", Size: 1 << 30, BlockSizeShift: 22},
		&Snapshot{Name: "v", Tag: "t", IfToken: 1},
		&Clone{Source: "v", Snapshot: "1", Name: "d"},
		&Delete{Name: "v", RecycleVIDs: true},
		&DeleteSnapshot{Name: "v", Snapshot: "one"},
		&Rollback{Name: "v", Snapshot: "one", IfToken: 1},
		&Resize{Name: "v", Size: 1 << 31},
		&Rename{Name: "v", NewName: "w"},
		&SetAttr{Name: "v", Key: "k", Value: []byte("x")},
		&Acquire{Family: 1, Node: 2, Incarnation: 3, IfToken: 1},
		&Release{Family: 1, Node: 1, Incarnation: 1, Token: 1},
		&MarkWritten{Layer: 4, Token: 1},
		&Claim{Family: 1, Token: 1},
		&Reset{},
		&SnapshotGroup{Members: []Snapshot{{Name: "v", IfToken: 1}, {Name: "c"}}},
		&SnapshotGroup{Members: []Snapshot{{Name: "v", Clone: &CloneOf{Name: "n"}}}},
		&AlterPolicy{Name: "c", IfToken: 1},
		&Flatten{Name: "c", IfLayer: 5, IfToken: 1},
		&SetTrash{KeepSeconds: 60},
		&Untrash{VID: 1, Name: "n"},
		&Purge{VID: 1},
		&Expire{},
	} {
		if kind, body, err := Encode(cmd); err == nil {
			f.Add(kind, body)
		}
	}
	f.Add(kindCreate, []byte(`{"name":"n","size":1,"copies":"4:2","blockSizeShift":31}`))
	f.Add(kindPrune, []byte(`{"layers":{"4":[3],"1":[2,9]}}`))
	f.Fuzz(func(t *testing.T, kind string, body []byte) {
		w := sample(t)
		before := sansApplied(w.image())
		if _, err := w.d.Apply(w.index+1, kind, body); err != nil && !bytes.Equal(before, sansApplied(w.image())) {
			t.Fatalf("%v, and the directory changed", err)
		}
		w.check()
		w.restart()
		w.check()
	})
}

// FuzzRestore feeds images. Whatever is accepted must be usable to the end:
// everything in it can be read and deleted.
func FuzzRestore(f *testing.F) {
	f.Add(sample(f).image())
	f.Add((&world{t: f, d: New()}).image())
	f.Fuzz(func(t *testing.T, img []byte) {
		w := &world{t: t, d: New(), bare: true}
		if w.d.Restore(img) != nil {
			return
		}
		first := w.image()
		w.restart()
		if !bytes.Equal(first, w.image()) {
			t.Fatal("image changed by a second restore")
		}
		w.index = w.d.Applied()
		if w.index > 1<<62 {
			return
		}
		for _, e := range w.d.List() {
			w.d.Chain(e.Layer)
			if e.SnapID > 0 {
				w.must(&DeleteSnapshot{Name: e.Name, Snapshot: strconv.FormatUint(uint64(e.SnapID), 10), RecycleVIDs: true})
			} else {
				w.must(&Delete{Name: e.Name, RecycleVIDs: true, Purge: true})
			}
		}
		for _, t := range w.d.Trash() {
			w.must(&Purge{VID: t.VID, RecycleVIDs: true})
		}
		if len(w.d.List())+len(w.d.Trash()) > 0 {
			t.Fatal("something is left")
		}
	})
}

// FuzzDecode feeds results as a proposer gets them.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"vid":8137509,"family":1,"layer":1}`))
	f.Add([]byte(`{"token":18446744073709551615}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := Decode[Created](b)
		_, err2 := Decode[Acquired](b)
		if len(b) == 0 && (err == nil || err2 == nil) {
			t.Fatal("nothing was decoded")
		}
	})
}
