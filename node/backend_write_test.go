package node

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/internal/program"
	"sheepdog/objectstore"
)

func TestZeroRun(t *testing.T) {
	const u = zeroUnit
	data := func(n int) []byte { return bytes.Repeat([]byte{7}, n) }
	for _, c := range []struct {
		name string
		p    []byte
		n    int
		zero bool
	}{
		{"zeros", make([]byte, 3*u), 3 * u, true},
		{"data", data(3 * u), 3 * u, false},
		{"zeros, then data", append(make([]byte, 2*u), data(u)...), 2 * u, true},
		{"data, then zeros", append(data(u), make([]byte, u)...), u, false},
		{"zeros within a unit of data", append(data(1), make([]byte, u-1)...), u, false},
		{"a short end of zeros", append(data(u), make([]byte, 5)...), u, false},
		{"only a short end", make([]byte, 5), 5, true},
		{"one byte", data(1), 1, false},
	} {
		if n, zero := zeroRun(c.p); n != c.n || zero != c.zero {
			t.Errorf("%s: %d %t, want %d %t", c.name, n, zero, c.n, c.zero)
		}
	}
}

func TestWholeBlocks(t *testing.T) {
	for _, c := range []struct {
		off   uint64
		n     int
		take  int
		whole bool
	}{{0, 8192, 8192, true}, {0, 8193, 8192, true}, {8192, 1, 1, false}, {100, 50, 50, false}, {100, 8192, 3996, false}, {4096, 8188, 4096, true}} {
		if take, whole := wholeBlocks(c.off, c.n); take != c.take || whole != c.whole {
			t.Errorf("%d bytes at %d: %d %t, want %d %t", c.n, c.off, take, whole, c.take, c.whole)
		}
	}
}

// Sparse images that were uploaded took the space and the time of full ones.
func TestZerosWrittenTakeNoSpace(t *testing.T) {
	n := startAlone(t)
	b, ctx := backend{n}, t.Context()
	const size = 3 << 20
	if _, err := b.CreateVDI(ctx, &api.CreateRequest{Name: "v", SizeBytes: size}); err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("sheep"), size/5+1)[:size]
	write := func(off uint64, p []byte) {
		t.Helper()
		if n, err := b.WriteVDI(ctx, &api.WriteRequest{Name: "v", Offset: off, Length: -1}, bytes.NewReader(p)); err != nil || n != int64(len(p)) {
			t.Fatalf("%d bytes: %v", n, err)
		}
		copy(want[off:], p)
	}
	write(0, want)
	write(1<<20+100, make([]byte, 1<<20)) // over data, and at no border
	var got bytes.Buffer
	if err := b.ReadVDI(ctx, &api.ReadRequest{Name: "v", Length: size}, &got); err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Fatalf("other bytes come back: %v", err)
	}
	v, err := n.vdis.Open("v", "")
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close(ctx)
	runs, err := v.Status(ctx, 0, size, 100)
	if err != nil {
		t.Fatal(err)
	}
	var states []sheepdog.BlockState
	for _, r := range runs {
		states = append(states, r.State)
	}
	if !slices.Equal(states, []sheepdog.BlockState{sheepdog.Data, sheepdog.Zero, sheepdog.Data}) || runs[1].Length < 1<<20-2*sheepdog.BlockSize {
		t.Errorf("%+v", runs)
	}
}

// startAlone makes a formatted cluster of one node in memory.
func startAlone(t *testing.T) *Node {
	t.Helper()
	return startFormatted(t, Config{Engine: objectstore.NewMemory(), NoNBD: true, Identity: 7})
}

// startFormatted makes a formatted cluster of one node with a directory and a port of its own.
func startFormatted(t *testing.T, cfg Config) *Node {
	t.Helper()
	port, err := program.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Meta, cfg.Port, cfg.Logger = t.TempDir(), port, slog.New(slog.DiscardHandler)
	n, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close(context.Background()) })
	if err := n.cluster.Format(t.Context(), sheepdog.Config{Policy: sheepdog.Policy{Copies: 1}, BlockSizeShift: sheepdog.DefaultObjectShift}); err != nil {
		t.Fatal(err)
	}
	return n
}

// A clone of what a VDI holds now is one commit, and a single moment of it.
func TestCloneOfWorkingVDI(t *testing.T) {
	n := startAlone(t)
	b, ctx := backend{n}, t.Context()
	if _, err := b.CreateVDI(ctx, &api.CreateRequest{Name: "base", SizeBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	put := func(name, text string) {
		t.Helper()
		if _, err := b.WriteVDI(ctx, &api.WriteRequest{Name: name, Length: -1}, bytes.NewReader([]byte(text))); err != nil {
			t.Fatal(err)
		}
	}
	holds := func(name, text string) {
		t.Helper()
		var got bytes.Buffer
		if err := b.ReadVDI(ctx, &api.ReadRequest{Name: name, Length: int64(len(text))}, &got); err != nil || got.String() != text {
			t.Errorf("%s holds %q, %v; want %q", name, got.String(), err, text)
		}
	}
	put("base", "one")
	for size, name := range map[uint64]string{0: "same", 1: "less", 2 << 20: "more"} {
		v, err := b.CloneVDI(ctx, &api.CloneRequest{Source: "base", Name: name, SizeBytes: size})
		if err != nil || v.SizeBytes != max(size, 1<<20) || !v.Clone {
			t.Fatalf("%s: %+v %v", name, v, err)
		}
	}
	put("base", "two")
	put("less", "new")
	for name, text := range map[string]string{"base": "two", "same": "one", "less": "new", "more": "one"} {
		holds(name, text)
	}
	if _, err := b.CloneVDI(ctx, &api.CloneRequest{Source: "base", Name: "same"}); !errors.Is(err, sheepdog.ErrExists) {
		t.Errorf("a name that is taken: %v", err)
	}
	if err := b.DeleteVDI(ctx, &api.DeleteRequest{Name: "base"}); err != nil {
		t.Fatal(err)
	}
	holds("more", "one")
	list, err := b.VDIs(ctx, &api.VDIQuery{})
	if err != nil || len(list) != 3 {
		t.Errorf("left: %+v %v", list, err)
	}
}
