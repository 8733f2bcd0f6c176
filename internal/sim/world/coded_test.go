package world

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/vdi/directory"
)

// TestCoded plays faults against VDIs that are encoded while they are written,
// snapshotted and cloned: all kinds together, and each by itself where there is
// time for many seeds.
func TestCoded(t *testing.T) {
	for _, s := range []struct {
		name string
		Script
	}{
		{"all kinds of faults", Script{Faults: Only("kill", "kill-quick", "kill-two", "power-loss", "power-loss-all", "freeze", "isolate", "join", "leave", "rot", "misdirect", "lost-writes", "spoil"), Count: 6}},
		{"killed nodes come back", Script{Faults: Only("kill", "kill-quick", "kill-two")}},
		{"power fails", Script{Faults: Only("power-loss", "power-loss-all"), Count: 4}},
		{"nodes pause and are cut off", Script{Faults: Only("freeze", "isolate", "partition")}},
		{"nodes join and leave", Script{Faults: Only("join", "leave"), Count: 4}},
		{"disks rot", Script{Faults: Only("rot", "misdirect", "lost-writes", "spoil")}},
	} {
		t.Run(s.name, func(t *testing.T) {
			if single := s.Count != 6; testing.Short() || single && number(t, "SEEDS", 20) < 20 {
				t.Skip("it takes long; SEEDS=20 plays it")
			}
			t.Parallel()
			if s.Count == 0 {
				s.Count = 5
			}
			s.Clients, s.Pause, s.Calm = 3, 25*time.Millisecond, 1500*time.Millisecond
			play(t, Options{Nodes: 6, Coded: sheepdog.Policy{Copies: 4, Parity: 2}, Seed: uint64(number(t, "SEED", 1))}, s.Script)
		})
	}
}

// codedWorld is six nodes with one VDI of 4:2.
type codedWorld struct {
	*World
	t    *testing.T
	want map[string][]byte // by VDI or VDI@TAG
}

const codedSize = 4 << 20

func newCodedWorld(t *testing.T) *codedWorld {
	w := &codedWorld{World: New(t, Options{Nodes: 6, Coded: sheepdog.Policy{Copies: 4, Parity: 2}, Seed: 1, Log: testLog()}), t: t, want: make(map[string][]byte)}
	w.BootAll()
	w.Format()
	if _, err := w.Up()[0].Node().Backend().CreateVDI(t.Context(), &api.CreateRequest{Name: "vm", SizeBytes: codedSize}); err != nil {
		t.Fatal(err)
	}
	w.want["vm"] = make([]byte, codedSize)
	return w
}

// write puts random bytes into a VDI through some node, and flushes.
func (w *codedWorld) write(name string, off, n int) {
	w.t.Helper()
	h := w.Up()[w.rng.IntN(len(w.Up()))]
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := h.Node().Cluster().Barrier(ctx); err != nil {
		w.t.Fatal(err)
	}
	vol, err := h.Node().VDIs().Open(name, "")
	if err != nil {
		w.t.Fatal(err)
	}
	p := w.want[name][off : off+n]
	for i := range p {
		p[i] = byte(w.rng.Uint32())
	}
	if err := errors.Join(vol.WriteAt(ctx, p, uint64(off)), vol.Flush(ctx), vol.Close(ctx)); err != nil {
		w.t.Fatalf("write %s through node %d: %v", name, h.Number, err)
	}
}

// look reads everything through one node and compares.
func (w *codedWorld) look(h *Host) {
	w.t.Helper()
	if err := h.Node().Cluster().Barrier(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	for name, want := range w.want {
		base, tag, _ := strings.Cut(name, "@")
		vol, err := h.Node().VDIs().Open(base, tag)
		if err != nil {
			w.t.Fatal(err)
		}
		got := make([]byte, len(want))
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		err = errors.Join(vol.ReadAt(ctx, got, 0), vol.Close(ctx))
		cancel()
		if err != nil {
			w.t.Fatalf("read %s through node %d: %v", name, h.Number, err)
		}
		if !bytes.Equal(got, want) {
			w.t.Fatalf("%s through node %d is not what was written", name, h.Number)
		}
	}
}

// settled waits until everything is encoded and where it should be.
func (w *codedWorld) settled() {
	w.t.Helper()
	w.encoded(func(directory.Layer) bool { return true })
}

// settledButSmall is settled after a write that is not worth encoding.
func (w *codedWorld) settledButSmall() {
	w.t.Helper()
	w.encoded(func(l directory.Layer) bool { return l.Frozen })
}

func (w *codedWorld) encoded(counts func(directory.Layer) bool) {
	w.t.Helper()
	w.Await(60*time.Second, "everything is encoded", func() error {
		work := slices.DeleteFunc(w.Up()[0].Node().Directory().CodingWork(), func(l directory.Layer) bool { return !counts(l) })
		if len(work) > 0 {
			return fmt.Errorf("left: %+v", work)
		}
		return nil
	})
	w.Audit()
}

// raw is how many bytes of blocks all disks hold.
func (w *codedWorld) raw() (n int) {
	for _, h := range w.Hosts() {
		h.Disk.mu.Lock()
		for _, blocks := range h.Disk.now {
			for _, b := range blocks {
				n += len(b.data)
			}
		}
		h.Disk.mu.Unlock()
	}
	return n
}

// What was written to a VDI of 4:2 is encoded, takes at most 1.05 times the
// space that the code takes, and survives the loss of two nodes, for reads and
// writes; tests/e2e has all pairs.
func TestCodedSurvivesLosses(t *testing.T) {
	if testing.Short() {
		t.Skip()
	}
	synctest.Test(t, func(t *testing.T) {
		w := newCodedWorld(t)
		defer w.Close()
		w.write("vm", 0, codedSize)
		w.settled()
		ratio := float64(w.raw()) / codedSize
		t.Logf("%d bytes of data take %d: ratio %.3f", codedSize, w.raw(), ratio)
		if ratio > 1.05*6/4 {
			t.Errorf("ratio of raw to used is %.3f, at most %.3f is wanted", ratio, 1.05*6/4)
		}
		for _, lost := range [][2]int{{0, 1}, {2, 5}, {3, 4}} {
			began := w.Now()
			w.Hosts()[lost[0]].Kill()
			w.Hosts()[lost[1]].Kill()
			up := w.Up()
			w.look(up[w.rng.IntN(len(up))])
			read := w.Now()
			w.write("vm", w.rng.IntN(codedSize-10000), 1+w.rng.IntN(10000))
			w.look(up[w.rng.IntN(len(up))])
			wrote := w.Now()
			w.BootAll()
			w.AwaitWhole()
			t.Logf("without %v: read after %v, written after %v, whole after %v", lost, read-began, wrote-read, w.Now()-wrote)
		}
		w.settledButSmall()
		w.look(w.Up()[0])
	})
}

// Snapshots, clones, resizes and rollbacks of a coded VDI are what they are of
// others, and what is deleted leaves nothing.
func TestCodedSnapshotsAndClones(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodedWorld(t)
		defer w.Close()
		b := func() api.Backend { return w.Up()[0].Node().Backend() }
		ctx := t.Context()
		check := func(_ any, err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		for i, tag := range []string{"a", "b", "c"} {
			w.write("vm", i<<19, 1<<20)
			w.write("vm", 3<<20+i*8192, 4096)
			if i != 1 {
				w.settled()
			}
			check(b().SnapshotVDI(ctx, &api.SnapshotRequest{Name: "vm", Tag: tag}))
			w.want["vm@"+tag] = bytes.Clone(w.want["vm"])
			w.look(w.Up()[i])
		}
		check(b().CloneVDI(ctx, &api.CloneRequest{Source: "vm", Snapshot: "b", Name: "clone"}))
		w.want["clone"] = bytes.Clone(w.want["vm@b"])
		w.write("clone", 1<<20+5, 1<<20)
		w.settled()
		for _, h := range w.Up() {
			w.look(h)
		}
		check(b().ResizeVDI(ctx, &api.ResizeRequest{Name: "vm", SizeBytes: codedSize + 3<<20}))
		w.want["vm"] = append(w.want["vm"], make([]byte, 3<<20)...)
		w.write("vm", codedSize-100, 2<<20)
		w.settled()
		w.look(w.Up()[1])
		check(b().RollbackVDI(ctx, &api.RollbackRequest{Name: "vm", Snapshot: "a"}))
		w.want["vm"] = bytes.Clone(w.want["vm@a"])
		w.look(w.Up()[2])
		w.write("vm", 3<<20, 1000)
		w.settledButSmall()
		w.rots()
		check(nil, b().DeleteVDI(ctx, &api.DeleteRequest{Name: "vm", Snapshot: "a"}))
		delete(w.want, "vm@a")
		w.settledButSmall()
		for _, h := range w.Up() {
			w.look(h)
		}
		for name := range w.want {
			vdi, tag, _ := strings.Cut(name, "@")
			check(nil, b().DeleteVDI(ctx, &api.DeleteRequest{Name: vdi, Snapshot: api.Selector(tag)}))
		}
		w.Await(60*time.Second, "nothing is left", func() error {
			if n := w.raw(); n > 0 {
				return fmt.Errorf("%d bytes are left", n)
			}
			return nil
		})
	})
}

// rots flips bits in the strips of one node: nobody reads them, and the check
// finds and heals them.
func (w *codedWorld) rots() {
	w.t.Helper()
	dir := w.Up()[0].Node().Directory()
	n := w.Hosts()[3].Disk.Rot(w.rng, 20, func(_ sheepdog.ObjectID, layer sheepdog.LayerID, _ sheepdog.BlockNo) bool {
		_, coded := dir.Coded(layer)
		return coded
	})
	if n == 0 {
		w.t.Fatal("there is no strip to damage")
	}
	for _, h := range w.Up()[:2] {
		w.look(h)
	}
	for _, dry := range []bool{true, false, true} {
		found := 0
		sum, err := w.Up()[0].Node().Backend().Check(context.Background(), &api.CheckRequest{DryRun: dry}, func(e *api.CheckEvent) error {
			if e.Finding != nil {
				found++
			}
			return nil
		})
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Logf("check, dry %v: %+v", dry, *sum)
		switch {
		case n > 0 && found == 0:
			w.t.Errorf("the check did not find %d damaged blocks", n)
		case n == 0 && found > 0:
			w.t.Errorf("after it healed the check still finds %d strips", found)
		}
		if !dry {
			n = 0
		}
	}
}
