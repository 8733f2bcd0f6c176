package control

import (
	"bytes"
	"context"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/api/apitest"
	"sheepdog/libvirtpool/rpc"
	"sheepdog/libvirtpool/storage"
)

// client is a node in memory as *api.Client shows it.
type client struct{ *apitest.Backend }

func (c client) ReadVDI(ctx context.Context, r *api.ReadRequest, w io.Writer) (int64, error) {
	return r.Length, c.Backend.ReadVDI(ctx, r, w)
}

// names is all VDIs and snapshots.
func names(t *testing.T, c client) (out []string) {
	t.Helper()
	all, err := c.VDIs(t.Context(), &api.VDIQuery{})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range all {
		if v.Snapshot {
			v.Name += "@" + v.Tag
		}
		out = append(out, v.Name)
	}
	slices.Sort(out)
	return out
}

func TestCloneLeavesNothingBehind(t *testing.T) {
	c := client{apitest.New(3)}
	s := NewStore(c)
	ctx := t.Context()
	if err := s.Create(ctx, "p/base", 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(ctx, "p/base", 5, strings.NewReader("data")); err != nil {
		t.Fatal(err)
	}
	for n := range 100 {
		size, err := s.Clone(ctx, "p/base", "p/vm", uint64(n)<<15)
		if err != nil || size != max(1<<20, uint64(n)<<15) {
			t.Fatalf("clone %d: size %d, %v", n, size, err)
		}
		var b bytes.Buffer
		if err := s.Read(ctx, "p/vm", 5, 4, &b); err != nil || b.String() != "data" {
			t.Fatalf("%q %v", b.String(), err)
		}
		if err := s.Delete(ctx, "p/vm"); err != nil {
			t.Fatal(err)
		}
	}
	if got := names(t, c); !reflect.DeepEqual(got, []string{"p/base"}) {
		t.Errorf("left: %v", got)
	}
}

func TestCloneThatFailsLeavesNothing(t *testing.T) {
	c := client{apitest.New(3)}
	s := NewStore(c)
	if err := s.Create(t.Context(), "base", 4096); err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	c.Fail = func(string) error { return boom }
	if _, err := s.Clone(t.Context(), "base", "vm", 8192); !errors.Is(err, boom) {
		t.Errorf("error %v", err)
	}
	c.Fail = nil
	if got := names(t, c); !reflect.DeepEqual(got, []string{"base"}) {
		t.Errorf("left %v", got)
	}
	if _, err := s.Clone(t.Context(), "nope", "vm", 0); !errors.Is(err, sheepdog.ErrNotFound) {
		t.Errorf("no source: %v", err)
	}
}

func TestDeleteTakesTheSnapshots(t *testing.T) {
	c := client{apitest.New(3)}
	s := NewStore(c)
	ctx := t.Context()
	if err := s.Create(ctx, "base", 4096); err != nil {
		t.Fatal(err)
	}
	if err := s.Snapshot(ctx, "base", "mine"); err != nil {
		t.Fatal(err)
	}
	if v, err := s.Find(ctx, "base"); err != nil || !reflect.DeepEqual(v.Snapshots, []string{"mine"}) {
		t.Errorf("snapshots shown: %v %v", v.Snapshots, err)
	}
	if err := s.Delete(ctx, "base"); err != nil || len(names(t, c)) != 0 {
		t.Errorf("deleted with snapshots: %v, %v", names(t, c), err)
	}
}

func TestDefinitionsLiveInTheCluster(t *testing.T) {
	c := client{apitest.New(3)}
	d, other := NewDefinitions(c), NewDefinitions(c)
	ctx := t.Context()
	def := storage.Definition{Name: "a b/ä", UUID: rpc.UUID{1, 15: 2}, Namespace: "img", Host: "h:7000"}
	load := func(want ...storage.Definition) {
		t.Helper()
		got, err := other.Load(ctx)
		if err != nil || len(got) != len(want) || len(want) > 0 && got[0] != want[0] {
			t.Fatalf("another host loads %v, want %v (%v)", got, want, err)
		}
	}
	load()
	if err := d.Add(ctx, def); err != nil {
		t.Fatal(err)
	}
	load(def)
	if err := other.Add(ctx, def); !errors.Is(err, sheepdog.ErrExists) {
		t.Errorf("added twice: %v", err)
	}
	for n := range 20 { // autostart on and off
		def.Autostart = n%2 == 0
		if err := d.Replace(ctx, def); err != nil {
			t.Fatal(err)
		}
		load(def)
	}
	if got := names(t, c); len(got) != 2 {
		t.Errorf("a definition is kept in %v", got)
	}
	// A removal that stopped half-way: the snapshot of the old definition is left,
	// and does not count again.
	if err := c.DeleteVDI(ctx, &api.DeleteRequest{Name: definitionVDI(def.Name)}); err != nil {
		t.Fatal(err)
	}
	load()
	def.Namespace, def.Autostart = "new", false
	if err := d.Add(ctx, def); err != nil {
		t.Fatal(err)
	}
	load(def)
	if err := d.Remove(ctx, def.Name); err != nil {
		t.Fatal(err)
	}
	load()
	if got := names(t, c); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
	if err := d.Replace(ctx, def); !errors.Is(err, sheepdog.ErrNotFound) {
		t.Errorf("replaced what is not there: %v", err)
	}
	if err := d.Add(ctx, storage.Definition{Name: strings.Repeat("n", 255)}); !errors.Is(err, sheepdog.ErrInvalid) {
		t.Errorf("long name: %v", err)
	}
}

// An Add that stopped before it wrote anything can be repeated.
func TestHalfADefinitionIsAdopted(t *testing.T) {
	c := client{apitest.New(3)}
	d := NewDefinitions(c)
	if _, err := c.CreateVDI(t.Context(), &api.CreateRequest{Name: definitionVDI("p"), SizeBytes: 4096}); err != nil {
		t.Fatal(err)
	}
	if list, err := d.Load(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%v %v", list, err)
	}
	if err := d.Add(t.Context(), storage.Definition{Name: "p"}); err != nil {
		t.Error(err)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add("p", "v1:g=3&id=00000000-0000-4000-8000-000000000001&n=img&a=1")
	f.Fuzz(func(t *testing.T, name, tag string) {
		r, err := parseRecord(name, tag)
		if err != nil {
			return
		}
		again, err := formatRecord(r.Definition, r.generation)
		if err != nil {
			return // too long in the one form
		}
		back, err := parseRecord(name, again)
		if err != nil || back.Definition != r.Definition || back.generation != r.generation {
			t.Errorf("%q became %q: %v", tag, again, err)
		}
	})
}

func TestCapacity(t *testing.T) {
	node := func(zone int, used, free uint64) api.NodeCapacity {
		return api.NodeCapacity{Node: api.Node{Zone: sheepdog.Zone(zone)}, UsedBytes: used, FreeBytes: free}
	}
	for name, c := range map[string]struct {
		nodes []api.NodeCapacity
		p     sheepdog.Policy
		want  storage.Capacity
	}{
		"equal zones":    {[]api.NodeCapacity{node(1, 30, 100), node(2, 30, 100), node(3, 30, 100)}, sheepdog.Policy{Copies: 3}, storage.Capacity{Total: 130, Used: 30, Free: 100}},
		"a big zone":     {[]api.NodeCapacity{node(1, 0, 1000), node(2, 0, 100), node(3, 0, 100)}, sheepdog.Policy{Copies: 2}, storage.Capacity{Total: 200, Free: 200}},
		"small third":    {[]api.NodeCapacity{node(1, 0, 100), node(2, 0, 100), node(3, 0, 10)}, sheepdog.Policy{Copies: 3}, storage.Capacity{Total: 10, Free: 10}},
		"one zone twice": {[]api.NodeCapacity{node(1, 0, 50), node(1, 0, 50), node(2, 0, 100)}, sheepdog.Policy{Copies: 2}, storage.Capacity{Total: 100, Free: 100}},
		"too few zones":  {[]api.NodeCapacity{node(1, 0, 100)}, sheepdog.Policy{Copies: 3}, storage.Capacity{Total: 100, Free: 100}},
		"a gateway":      {[]api.NodeCapacity{node(1, 0, 100), node(2, 0, 0)}, sheepdog.Policy{Copies: 1}, storage.Capacity{Total: 100, Free: 100}},
		"a full zone":    {[]api.NodeCapacity{node(1, 0, 100), node(2, 0, 100), node(3, 60, 0)}, sheepdog.Policy{Copies: 3}, storage.Capacity{Total: 20, Used: 20}},
		"nothing":        {nil, sheepdog.Policy{Copies: 3}, storage.Capacity{}},
	} {
		if got := capacity(c.nodes, c.p); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}
