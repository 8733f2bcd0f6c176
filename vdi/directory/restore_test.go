package directory

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"sheepdog"
)

// sample is a directory in which everything occurs.
func sample(t failer) *world {
	w := newWorld(t)
	w.written("v")
	for _, tag := range []string{"one", "two", "three"} {
		w.must(&Snapshot{Name: "v", Tag: tag, IfToken: w.tokenOf("v", 0)})
		if err := w.write("v"); err != nil {
			t.Fatal(err)
		}
	}
	w.must(&Clone{Source: "v", Snapshot: "two", Name: "c"})
	w.must(&Snapshot{Name: "c"})
	w.must(&DeleteSnapshot{Name: "v", Snapshot: "two"})
	w.must(&DeleteSnapshot{Name: "v", Snapshot: "three"})
	w.must(&SetAttr{Name: "v", Key: "k", Value: []byte{0, 255}})
	w.must(&Create{Name: "ec", Size: 5, Policy: sheepdog.Policy{Copies: 4, Parity: 2}, BlockSizeShift: 20})
	w.check()
	return w
}

func TestRestoreKeepsEverything(t *testing.T) {
	w := sample(t)
	changed := w.d.Changed()
	before := w.image()
	if err := w.d.Restore(before); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	default:
		t.Error("a restore wakes nobody")
	}
	if !bytes.Equal(before, w.image()) || w.d.Applied() != w.index {
		t.Fatalf("applied %d of %d\n%s\n%s", w.d.Applied(), w.index, before, w.image())
	}
	w.check()
	if v, err := w.d.Attr("v", "", "k"); err != nil || string(v) != "\x00\xff" {
		t.Fatalf("attribute %q, %v", v, err)
	}
	w.must(&Delete{Name: "v"})
	w.check()
}

// Each change of a sound image makes it unsound.
func TestRestoreRefusesWhatIsNotSound(t *testing.T) {
	w := sample(t)
	good := string(w.image())
	for _, tt := range []struct{ what, old, new string }{
		{"newer version", `"version":1`, `"version":2`},
		{"unknown field", `"version":1`, `"version":1,"wings":2`},
		{"counter of layers too low", `"lastLayer":7`, `"lastLayer":6`},
		{"counter of families too low", `"lastFamily":3`, `"lastFamily":2`},
		{"counter of tokens too low", `"lastToken":1`, `"lastToken":0`},
		{"retired id in use", `[[132618,132619]],"fam`, `[[132617,132619]],"fam`},
		{"retired ids out of order", `[[132618,132619]],"fam`, `[[132618,132619],[5,6]],"fam`},
		{"id in a family's list only", `[[132618,132619]]},`, `[[1,1],[132618,132619]]},`},
		{"parent missing", `"parent":1`, `"parent":99`},
		{"parent absorbed", `"parent":1`, `"parent":2`},
		{"parent is itself", `"parent":1`, `"parent":3`},
		{"base missing", `"base":2`, `"base":99`},
		{"base not frozen", `"base":2`, `"base":4`},
		{"empty layer with a parent", `"parent":1,"frozen":true,"written":true`, `"parent":1,"frozen":true`},
		{"absorbed but not written", `"written":true,"absorbed"`, `"absorbed"`},
		{"working layer frozen", `"parent":2,"written"`, `"parent":2,"frozen":true,"written"`},
		{"snapshot layer not frozen", `{"id":6,"family":2,"base":2,"frozen":true`, `{"id":6,"family":2,"base":2`},
		{"layer without a user", `"layers":[`, `"layers":[{"id":3,"family":1,"written":true,"frozen":true},`},
		{"coordinator without a VDI", `"name":"v","vdi"`, `"name":"v","vdj"`},
		{"absorbed twice", `"absorbed":[3]`, `"absorbed":[3,3]`},
		{"absorbed lives", `"absorbed":[3]`, `"absorbed":[1]`},
		{"family missing", `"family":2`, `"family":9`},
		{"VDI of another policy", `"copies":"4:2"`, `"copies":"4:3"`},
		{"bad name", `"name":"ec"`, `"name":"e@"`},
		{"name of nothing", `"names":[`, `"names":[{"name":"nothing"},`},
		{"snapshot id too high", `"lastSnap":3`, `"lastSnap":0`},
		{"null layer", `"layers":[`, `"layers":[null,`},
		{"null snapshot", `"snapshots":[`, `"snapshots":[null,`},
		{"tag is a number", `"tag":"one"`, `"tag":"1"`},
		{"size 0", `"size":5`, `"size":0`},
		{"bad shift", `"blockSizeShift":20`, `"blockSizeShift":19`},
		{"two values", `{"version"`, `{"version":1}{"version"`},
	} {
		if !strings.Contains(good, tt.old) {
			t.Errorf("%s: the image has no %s:\n%s", tt.what, tt.old, good)
			continue
		}
		bad := strings.Replace(good, tt.old, tt.new, 1)
		if err := w.d.Restore([]byte(bad)); !errors.Is(err, sheepdog.ErrInvalid) {
			t.Errorf("%s: %v", tt.what, err)
		}
		if string(w.image()) != good {
			t.Fatalf("%s: a refused image changed the directory", tt.what)
		}
	}
}

// Circles through parents and bases would make readers run for ever.
func TestRestoreRefusesCircles(t *testing.T) {
	family := func(id int) string {
		return `{"id":` + string(rune('0'+id)) + `,"copies":"1","blockSizeShift":22}`
	}
	img := `{"version":1,"applied":1,"lastLayer":2,"lastFamily":2,"lastToken":0,"retired":null,"names":[],
		"families":[` + family(1) + `,` + family(2) + `],"layers":[
		{"id":1,"family":1,"base":2,"frozen":true,"written":true,"createdIndex":1},
		{"id":2,"family":2,"base":1,"frozen":true,"written":true,"createdIndex":1}]}`
	if err := New().Restore([]byte(img)); !errors.Is(err, sheepdog.ErrInvalid) || !strings.Contains(err.Error(), "itself") {
		t.Fatal(err)
	}
}

// The command Reset and Clear empty everything but the counters.
func TestResetKeepsCounters(t *testing.T) {
	for _, reset := range []func(*world){
		func(w *world) { w.must(&Reset{}) },
		func(w *world) { w.d.Clear() },
	} {
		w := sample(t)
		layers := w.d.Absorbing()
		changed := w.d.Changed()
		reset(w)
		<-changed
		if len(w.d.List())+len(w.d.Families())+len(w.layers())+len(w.d.Absorbing()) > 0 {
			t.Fatal("something is left")
		}
		if !w.d.Dropped(layers[0].ID) || w.d.Listed(layers[0].ID) {
			t.Error("old layers are not dropped")
		}
		w.restart()
		r := decode[Created](t, w.must(&Create{Name: "v", Size: 1, Policy: sheepdog.Policy{Copies: 1}, BlockSizeShift: 22}))
		if r.VID != NameVID("v") || r.Layer+1 != w.d.NextLayer() || r.Layer <= layers[0].ID || r.Family < 4 {
			t.Errorf("%+v: ids of VDIs begin again, those of layers and families go on", r)
		}
		w.check()
	}
}

func TestDirectoryResetIsNew(t *testing.T) {
	w := sample(t)
	changed := w.d.Changed()
	w.d.Reset()
	<-changed
	if img := w.image(); !bytes.Equal(img, (&world{t: t, d: New()}).image()) || w.d.Dropped(1) {
		t.Errorf("after Reset: %s", img)
	}
}

func TestApplyRefusesNonsense(t *testing.T) {
	w := sample(t)
	before := sansApplied(w.image())
	next := w.index
	for _, tt := range []struct{ kind, body string }{
		{"vdi-explode", `{}`},
		{kindDelete, `{"name":"v"`},
		{kindDelete, `{"name":"v"} {}`},
		{kindDelete, `{"name":"v","really":true}`},
		{kindDelete, `{"name":1}`},
		{kindDelete, `{"time":"yesterday","name":"v"}`},
		{kindCreate, `{"name":"n","size":1,"copies":"99","blockSizeShift":22}`},
		{kindSnapshot, `{"vid":16777216}`},
		{kindPrune, `{"layers":{"x":[1]}}`},
		{kindDelete, `"` + strings.Repeat("x", MaxCommandLength) + `"`},
	} {
		next++
		if _, err := w.d.Apply(next, tt.kind, []byte(tt.body)); !errors.Is(err, sheepdog.ErrInvalid) {
			t.Errorf("%s %.80s: %v", tt.kind, tt.body, err)
		}
	}
	if _, err := w.d.Apply(next, kindDelete, []byte(`{"name":"v"}`)); !errors.Is(err, sheepdog.ErrConflict) {
		t.Errorf("an index twice: %v", err)
	}
	if !bytes.Equal(before, sansApplied(w.image())) {
		t.Error("nonsense changed the directory")
	}
}

func TestEveryKindOfCommand(t *testing.T) {
	for _, cmd := range []Command{
		&Create{}, &Snapshot{}, &Clone{}, &Delete{}, &DeleteSnapshot{}, &Rollback{}, &Resize{},
		&Rename{}, &SetAttr{}, &Acquire{}, &Release{}, &Claim{}, &MarkWritten{}, &Prune{}, &Reset{},
	} {
		kind := kindOf(cmd)
		again := newCommand(kind)
		if kind == "" || again == nil || kindOf(again) != kind {
			t.Errorf("%T has kind %q, which makes %T", cmd, kind, again)
		}
		want, _ := json.Marshal(cmd)
		got, _ := json.Marshal(again)
		if !bytes.Equal(want, got) {
			t.Errorf("kind %s makes %s, want %s", kind, got, want)
		}
	}
	if newCommand("epoch") != nil {
		t.Error("handles a kind of another package")
	}
}

// Time zones of proposers do not show, and nonsense times cannot break images.
func TestTimesAreKeptInUTC(t *testing.T) {
	w := newWorld(t)
	for i, at := range []string{"2026-11-22T15:25:00+01:00", "9999-12-31T23:59:59-23:59", "0000-01-01T00:00:00+23:00"} {
		body := `{"time":"` + at + `","name":"` + string(rune('a'+i)) + `","size":1,"copies":"1","blockSizeShift":22}`
		w.index++
		if _, err := w.d.Apply(w.index, kindCreate, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if v, _ := w.d.Lookup("a"); v.Created != start {
		t.Errorf("created %v, want %v", v.Created, start)
	}
	w.restart()
}

// What was frozen stays what it was, whatever is done to the directory meanwhile.
func TestFrozenImageDoesNotChange(t *testing.T) {
	w := newWorld(t)
	w.written("v")
	w.must(&Snapshot{Name: "v", Tag: "s", IfToken: w.tokenOf("v", 0)})
	w.must(&SetAttr{Name: "v", Key: "k", Value: []byte("1")})
	want, encode := w.image(), w.d.Freeze()
	w.must(&SetAttr{Name: "v", Key: "k", Value: []byte("2")})
	w.must(&Clone{Source: "v", Snapshot: "s", Name: "c"})
	w.must(&DeleteSnapshot{Name: "v", Snapshot: "s"})
	w.must(&Rename{Name: "c", NewName: "d"})
	w.must(&Delete{Name: "v"})
	got, err := encode()
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
}
