package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// A VDI of 4:2 on six real nodes takes little more than its code needs, and every
// one of the 15 sets of two killed nodes leaves it readable and writable.
func TestEveryLossSetOf42(t *testing.T) {
	w := start(t, 6, "--recovery-delay", "300ms")
	w.Meet()
	w.Dog("cluster", "format", "-c", "4:2")
	w.Dog("vdi", "create", "vm", "32M")
	rng := rand.New(rand.NewPCG(4, 2))
	want := make([]byte, 32<<20)
	for i := range want {
		want[i] = byte(rng.Uint32())
	}
	w.mustIn(want, "vdi", "write", "vm")
	// The log of a store counts as used, so that only differences tell.
	replicated, saved := w.used(), uint64(len(want))*14/10
	var coded uint64
	w.Eventually(40*time.Second, "the VDI is erasure coded", func() error {
		if coded = w.used(); coded > replicated-saved {
			return fmt.Errorf("%d bytes were used, %d are", replicated, coded)
		}
		return nil
	})
	for a := range w.Sheep {
		for b := range a {
			w.Kill(w.Sheep[a])
			w.Kill(w.Sheep[b])
			w.readsBack("vm", want)
			at := rng.IntN(len(want) - 8192)
			copy(want[at:], strings.Repeat(fmt.Sprintf("%d and %d are lost. ", a, b), 100))
			w.mustIn(want[at:at+8192], "vdi", "write", "vm", fmt.Sprint(at), "8192")
			w.readsBack("vm", want)
			w.Run(w.Sheep[a])
			w.Run(w.Sheep[b])
			w.Recovered(60 * time.Second)
		}
	}
	w.readsBack("vm", want)
	w.Checked()
	w.ratio("vm", len(want))
}

// ratio deletes a coded VDI of 4:2 with so many bytes of data and says how much
// space that gave back for each.
func (w *world) ratio(name string, data int) {
	w.TB.Helper()
	coded := w.used()
	w.Dog("vdi", "delete", name)
	ratio := 0.0
	w.Eventually(30*time.Second, "the space of the VDI comes back", func() error {
		if ratio = (float64(coded) - float64(w.used())) / float64(data); ratio < 1.4 {
			return fmt.Errorf("%.3f bytes for each are back", ratio)
		}
		return nil
	})
	w.TB.Logf("raw to used: %.3f", ratio)
	if limit := 1.05 * 6 / 4; ratio > limit {
		w.TB.Errorf("raw to used is %.3f, at most %.3f is wanted", ratio, limit)
	}
}

func (w *world) mustIn(stdin []byte, args ...string) {
	w.TB.Helper()
	if out, errText, code := w.DogIn(w.First(), stdin, args...); code != 0 {
		w.TB.Fatalf("dog %v: exit %d\n%s%s", args, code, out, errText)
	}
}

func (w *world) readsBack(name string, want []byte) {
	w.TB.Helper()
	out, errText, code := w.DogAt(w.First(), "vdi", "read", name)
	if code != 0 || !bytes.Equal([]byte(out), want) {
		w.TB.Fatalf("read %s: exit %d, %d bytes, equal %v\n%s", name, code, len(out), bytes.Equal([]byte(out), want), errText)
	}
}

// The snapshot of a VDI with copies is coded on request; its clones read the
// same. Too few zones are said so.
func TestSnapshotIsCodedOnRequest(t *testing.T) {
	w := start(t, 3)
	w.Format(3)
	w.Dog("vdi", "create", "base", "8M")
	want := bytes.Repeat([]byte("golden image "), 8<<20/13+1)[:8<<20]
	w.mustIn(want, "vdi", "write", "base")
	w.Dog("vdi", "snapshot", "-s", "v1", "base")
	for _, args := range [][]string{{"vdi", "create", "-c", "4:2", "no", "8M"}, {"vdi", "alter-copy", "-c", "8:3", "base@v1"}} {
		if _, errText, code := w.DogAt(w.First(), args...); code == 0 || !strings.Contains(errText, "zones") {
			t.Errorf("dog %v: exit %d, %s", args, code, errText)
		}
	}
	before := w.used()
	w.Dog("vdi", "alter-copy", "-c", "2:1", "base@v1")
	w.Eventually(40*time.Second, "the snapshot is erasure coded", func() error {
		if now := w.used(); now > before-8<<20 {
			return fmt.Errorf("%d bytes were used, %d are", before, now)
		}
		return nil
	})
	w.Dog("vdi", "clone", "-s", "v1", "base", "clone")
	w.readsBack("clone", want)
	w.readsBack("base", want)
	w.Kill(w.Sheep[2])
	w.readsBack("clone", want)
	w.Run(w.Sheep[2])
	w.Recovered(60 * time.Second)
	w.Checked()
}
