package directory

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"sheepdog"
)

// failer is what tests, scripts and property tests have in common.
type failer interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

// world is a directory with the log that feeds it.
type world struct {
	t       failer
	d       *Directory
	index   uint64
	recycle bool
	bare    bool // no checks that slow down
}

var start = time.Date(2026, 11, 22, 14, 25, 0, 0, time.UTC)

func newWorld(t failer) *world { return &world{t: t, d: New()} }

// run encodes and applies a command, as a proposer and the log would.
func (w *world) run(cmd Command) ([]byte, error) {
	w.index++
	reflect.ValueOf(cmd).Elem().FieldByName("Time").Set(reflect.ValueOf(start.Add(time.Duration(w.index) * time.Minute)))
	kind, body, err := Encode(cmd)
	if err != nil {
		return nil, err
	}
	if w.bare {
		return w.d.Apply(w.index, kind, body)
	}
	before, dropped, next := w.image(), w.dropped(), w.d.NextLayer()
	version := w.d.CodedVersion()
	coded := w.d.AllCoded()
	_, upTo, _ := w.d.Departed(0)
	result, err := w.d.Apply(w.index, kind, body)
	w.checkDeparted(upTo, dropped, next)
	if w.d.CodedVersion() == version && !reflect.DeepEqual(coded, w.d.AllCoded()) {
		w.t.Fatalf("%s changed a coded layer, and its version says that it did not", kind)
	}
	if err != nil && !bytes.Equal(sansApplied(before), sansApplied(w.image())) {
		w.t.Fatalf("%s failed with %q and changed the directory", kind, err)
	}
	return result, err
}

// checkDeparted compares what a command says has gone with a look at all ids: those below
// next, which were there before it, and which of them were dropped then.
func (w *world) checkDeparted(upTo uint64, dropped map[sheepdog.LayerID]bool, next sheepdog.LayerID) {
	w.t.Helper()
	departed, _, complete := w.d.Departed(upTo)
	for id := range w.dropped() {
		if id < next && !dropped[id] && complete && !slices.Contains(departed, id) {
			w.t.Fatalf("layer %d is dropped, and not among those that departed: %v", id, departed)
		}
	}
}

// must runs a command that may not fail.
func (w *world) must(cmd Command) []byte {
	w.t.Helper()
	result, err := w.run(cmd)
	if err != nil {
		w.t.Fatalf("%T: %v", cmd, err)
	}
	return result
}

func decode[R Created | Snapped | SnappedGroup | Deleted | RolledBack | Acquired | Altered | Recoding](t failer, b []byte) R {
	t.Helper()
	r, err := Decode[R](b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (w *world) image() []byte {
	img, err := w.d.Snapshot()
	if err != nil {
		w.t.Fatal(err)
	}
	return img
}

// sansApplied cuts the index from an image; a refused command moves it too.
func sansApplied(img []byte) []byte {
	_, rest, _ := bytes.Cut(img, []byte(`"lastLayer"`))
	return rest
}

// restart goes on with a directory restored from the image of this one.
func (w *world) restart() {
	img := w.image()
	next := New()
	if err := next.Restore(img); err != nil {
		w.t.Fatal(err)
	}
	w.d = next
	if again := w.image(); !bytes.Equal(img, again) {
		w.t.Fatalf("image changed by a restore:\n%s\n%s", img, again)
	}
}

// tokenOf is the token that a proposer would have seen, unless one is given.
func (w *world) tokenOf(name string, given sheepdog.Token) sheepdog.Token {
	v, err := w.d.Lookup(name)
	if given != 0 || err != nil {
		return given
	}
	f, _ := w.d.Family(v.Family)
	return f.Token
}

func (w *world) open(name string) error {
	v, err := w.d.Lookup(name)
	if err != nil {
		return err
	}
	f, _ := w.d.Family(v.Family)
	if !f.Coordinator.IsZero() {
		return nil
	}
	_, err = w.run(&Acquire{Family: f.ID, Node: 1, Incarnation: 1, IfToken: f.Token})
	return err
}

func (w *world) close(name string) error {
	v, err := w.d.Lookup(name)
	if err != nil {
		return err
	}
	f, _ := w.d.Family(v.Family)
	_, err = w.run(&Release{Family: f.ID, Node: 1, Incarnation: 1, Token: f.Token})
	return err
}

func (w *world) write(name string) error {
	if err := w.open(name); err != nil {
		return err
	}
	v, _ := w.d.Lookup(name)
	f, _ := w.d.Family(v.Family)
	_, err := w.run(&MarkWritten{Layer: v.Layer, Token: f.Token})
	return err
}

// merge prunes everything that is absorbed.
func (w *world) merge() {
	prune := &Prune{Layers: map[sheepdog.LayerID][]sheepdog.LayerID{}}
	for _, l := range w.d.Absorbing() {
		prune.Layers[l.ID] = l.Absorbed
	}
	w.must(prune)
}

// layerOf finds the layer of NAME or NAME@REF.
func (w *world) layerOf(target string) (sheepdog.LayerID, error) {
	name, ref, isSnap := strings.Cut(target, "@")
	if !isSnap {
		v, err := w.d.Lookup(name)
		return v.Layer, err
	}
	e, err := w.d.LookupSnapshot(name, ref)
	return e.Layer, err
}

// check compares everything that the state keeps twice, and looks for layers
// that nobody needs or misses.
func (w *world) check() {
	w.t.Helper()
	s := w.d.state.Load()
	refs := map[sheepdog.LayerID]int{}
	for _, e := range w.everything() {
		refs[e.Layer]++
	}
	children, listed, perFamily := map[sheepdog.LayerID]int{}, 0, map[sheepdog.FamilyID]int{}
	for _, l := range w.layers() {
		refs[l.Base]++
		refs[l.Was]++
		refs[l.Recoding]++
		if l.Recoding != 0 || l.Retiring {
			refs[l.ID]++
		}
		children[l.Parent]++
		perFamily[l.Family]++
		listed += len(l.stripIDs()) + len(l.Absorbed)
		for _, id := range append(l.stripIDs(), l.Absorbed...) {
			if owner, ok := w.d.Owner(id); ok == l.empty() || owner != l.ID || !w.d.Listed(id) || w.d.Dropped(id) != l.empty() {
				w.t.Fatalf("layer %d: owner is %d, want %d", id, owner, l.ID)
			}
		}
	}
	inTable := 0
	s.layers.all(func(sheepdog.LayerID, *layerNode) { inTable++ })
	if inTable != listed {
		w.t.Fatalf("%d ids in the table, %d listed", inTable, listed)
	}
	for _, l := range w.layers() {
		w.checkLayer(l, refs[l.ID], children[l.ID])
	}
	w.checkFamilies(perFamily)
	w.checkIDs()
	w.checkCoding()
	if s.emptied != nil {
		w.t.Fatal("families left to be recycled")
	}
}

func (w *world) checkLayer(l *Layer, refs, children int) {
	w.t.Helper()
	s := w.d.state.Load()
	n := s.layers.get(l.ID)
	if n.refs != refs || len(n.children) != children {
		w.t.Fatalf("layer %d: counts %d users and %d children, has %d and %d", l.ID, n.refs, len(n.children), refs, children)
	}
	if refs == 0 && (children < 2 || !l.Written) {
		w.t.Fatalf("layer %d is kept without need: %+v", l.ID, *l)
	}
	if _, ok := s.absorbing[l.ID]; ok != (len(l.Absorbed) > 0) {
		w.t.Fatalf("layer %d: absorbing %v, absorbed %v", l.ID, ok, l.Absorbed)
	}
	chain, _ := w.d.Chain(l.ID)
	if want := w.slowChain(l.ID); !slices.Equal(chain, want) {
		w.t.Fatalf("chain of layer %d is %v, want %v", l.ID, chain, want)
	}
	fresh := s.resolve(n)
	base, family, _ := w.d.BaseOf(l.ID)
	if fresh.base != base || fresh.baseFamily != family || !slices.Equal(fresh.chain, chain) {
		w.t.Fatalf("path of layer %d is stale", l.ID)
	}
}

// checkCoding compares the lists of what is coded, or to be, with a look at all layers.
func (w *world) checkCoding() {
	w.t.Helper()
	var coded, work []sheepdog.LayerID
	for _, l := range w.layers() {
		f, _ := w.d.Family(l.Family)
		if l.Strips > 0 {
			coded = append(coded, l.ID)
		}
		if l.work(&f) {
			work = append(work, l.ID)
		}
	}
	if got := layerIDs(w.d.AllCoded()); !slices.Equal(got, coded) {
		w.t.Fatalf("lists the coded layers %v, has %v", got, coded)
	}
	if got := layerIDs(w.d.CodingWork()); !slices.Equal(got, work) {
		w.t.Fatalf("lists %v to be encoded, has %v", got, work)
	}
}

func layerIDs(layers []Layer) []sheepdog.LayerID {
	var out []sheepdog.LayerID
	for _, l := range layers {
		out = append(out, l.ID)
	}
	return out
}

// dropped are the ids of all layers that were listed once and are not any more.
func (w *world) dropped() map[sheepdog.LayerID]bool {
	out := make(map[sheepdog.LayerID]bool)
	for id := sheepdog.LayerID(1); id < w.d.NextLayer(); id++ {
		if w.d.Dropped(id) {
			out[id] = true
		}
	}
	return out
}

// slowChain follows parents by the public interface alone.
func (w *world) slowChain(id sheepdog.LayerID) []sheepdog.LayerID {
	var out []sheepdog.LayerID
	for top := id; id != 0; {
		l, ok := w.d.Layer(id)
		if !ok {
			w.t.Fatalf("layer %d is not listed", id)
		}
		if l.Written || id == top {
			out = append(out, w.d.Logical(id)...)
		}
		id = l.Parent
	}
	return out
}

func (w *world) checkFamilies(layers map[sheepdog.FamilyID]int) {
	w.t.Helper()
	working := map[sheepdog.FamilyID]string{}
	for _, e := range w.d.List() {
		if e.SnapID == 0 {
			working[e.Family] = fmt.Sprint(e.Name, e.VID, e.Layer, e.Size)
		}
	}
	if vdis, snapshots, trashed := w.d.Count(); vdis != len(working) || vdis+snapshots != len(w.d.List()) || trashed != len(w.d.Trash()) {
		w.t.Fatalf("counts %d VDIs, %d snapshots, %d in the trash; lists %d, %d of both, and %d", vdis, snapshots, trashed, len(working), len(w.d.List()), len(w.d.Trash()))
	}
	for _, f := range w.d.Families() {
		want, ok := working[f.ID]
		got := fmt.Sprint(f.Name, f.VID, f.Working, f.Size)
		if ok != (f.Working != 0) || ok && got != want {
			w.t.Fatalf("family %d shows %s, its VDI is %s", f.ID, got, want)
		}
		if n := w.d.state.Load().families.get(f.ID).layers; n != layers[f.ID] || n == 0 {
			w.t.Fatalf("family %d counts %d layers, has %d", f.ID, n, layers[f.ID])
		}
		delete(layers, f.ID)
	}
	if len(layers) > 0 {
		w.t.Fatalf("layers of unlisted families: %v", layers)
	}
}

func (w *world) checkIDs() {
	w.t.Helper()
	s := w.d.state.Load()
	rows := 0
	for name, r := range s.names {
		rows += len(w.d.ListName(name))
		if r.trash != nil && r.vdi == nil {
			w.t.Fatalf("nothing is in the trash as %q", r.trash.Name)
		}
		if r.vdi == nil && len(r.snaps) == 0 {
			w.t.Fatalf("name %q has nothing", name)
		}
	}
	if rows != len(s.vids) {
		w.t.Fatalf("%d ids, %d VDIs and snapshots", len(s.vids), rows)
	}
	for _, e := range w.d.List() {
		got, ok := w.d.ByVID(e.VID)
		if !ok || got != e || !s.used.has(e.VID) {
			w.t.Fatalf("id %s leads to %+v, want %+v", e.VID, got, e)
		}
	}
}

// everything is the list and the trash, whose names are those of its records.
func (w *world) everything() []Entry {
	out := w.d.List()
	for _, r := range w.d.state.Load().names {
		if r.trash != nil {
			out = append(out, Entry{VDI: *r.vdi})
		}
	}
	return out
}

// flatten copies nothing: it is for tests that have no blocks.
func (w *world) flatten(name string) Command {
	v, err := w.d.Lookup(name)
	if err != nil {
		return &Flatten{Name: name}
	}
	return &Flatten{Name: name, IfLayer: v.Layer, IfToken: w.tokenOf(name, 0)}
}

// trashed is the id of a name in the trash.
func (w *world) trashed(name string) sheepdog.VID {
	for _, t := range w.d.Trash() {
		if t.Name == name {
			return t.VID
		}
	}
	return 0
}
