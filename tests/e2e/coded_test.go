package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sheepdog/tests/internal/lab"
)

// A VDI of 4:2 on six real nodes takes little more than its code needs, and every
// one of the 15 sets of two killed nodes leaves it readable and writable. That
// takes minutes: without LOSSES=all three of them are tried that have all nodes.
func TestEveryLossSetOf42(t *testing.T) {
	w := start(t, 6, "--recovery-delay", "300ms")
	w.Meet()
	w.Dog("cluster", "format", "-c", "4:2")
	w.Dog("vdi", "create", "vm", "12M")
	rng := rand.New(rand.NewPCG(4, 2))
	want := make([]byte, 12<<20)
	for i := range want {
		want[i] = byte(rng.Uint32())
	}
	w.dogWith(want, "vdi", "write", "vm")
	w.coded("the VDI", w.held(), len(want)*14/10)
	for a := range w.Sheep {
		for b := range a {
			if os.Getenv("LOSSES") != "all" && (a%2 == 0 || b != a-1) {
				continue
			}
			began := time.Now()
			w.Kill(w.Sheep[a], w.Sheep[b])
			w.readsBack("vm", want)
			read := time.Now()
			at := rng.IntN(len(want) - 8192)
			copy(want[at:], strings.Repeat(fmt.Sprintf("%d and %d are lost. ", a, b), 100))
			w.dogWith(want[at:at+8192], "vdi", "write", "vm", fmt.Sprint(at), "8192")
			w.readsBack("vm", want)
			wrote := time.Now()
			w.Run(w.Sheep[a])
			w.Run(w.Sheep[b])
			w.Recovered(60 * time.Second)
			t.Logf("without %d and %d: read after %v, written and read after %v more, recovered after %v", a, b,
				read.Sub(began).Round(time.Millisecond), wrote.Sub(read).Round(time.Millisecond), time.Since(wrote).Round(time.Millisecond))
		}
	}
	w.readsBack("vm", want)
	w.Checked()
	w.ratio("vm", len(want))
}

// A VDI that was encoded goes back to copies, and to another code, with its bytes.
func TestCodedVDIGetsAnotherRedundancy(t *testing.T) {
	w := start(t, 6, "--recovery-delay", "300ms")
	w.Meet()
	w.Dog("cluster", "format", "-c", "4:2")
	w.Dog("vdi", "create", "vm", "12M")
	want := noise(42, 12<<20)
	w.dogWith(want, "vdi", "write", "vm")
	w.coded("the VDI", w.held(), len(want)*14/10)
	copy(want[1<<20:], noise(43, 8192)) // on top of what is encoded
	w.dogWith(want[1<<20:1<<20+8192], "vdi", "write", "vm", fmt.Sprint(1<<20), "8192")
	w.Dog("vdi", "alter-copy", "-f", "-c", "3", "vm")
	w.readsBack("vm", want)
	w.Dog("vdi", "alter-copy", "-f", "-c", "2:1", "vm")
	w.coded("the VDI", w.held(), len(want)*4/10)
	w.readsBack("vm", want)
	w.Checked()
}

// ratio deletes a coded VDI of 4:2 with so many bytes of data and says how much
// space that gave back for each.
func (w *world) ratio(name string, data int) {
	w.TB.Helper()
	coded := w.held()
	w.Dog("vdi", "delete", name)
	ratio := 0.0
	w.Eventually(30*time.Second, "the space of the VDI comes back", func() error {
		if ratio = (float64(coded) - float64(w.held())) / float64(data); ratio < 1.4 {
			return fmt.Errorf("%.3f bytes for each are back", ratio)
		}
		return nil
	})
	w.TB.Logf("raw to used: %.3f", ratio)
	if limit := 1.05 * 6 / 4; ratio > limit {
		w.TB.Errorf("raw to used is %.3f, at most %.3f is wanted", ratio, limit)
	}
}

// readsBack reads a VDI, or VDI@TAG, and compares.
func (w *world) readsBack(name string, want []byte) {
	w.TB.Helper()
	w.readsBackAt(w.First(), name, want)
}

// readsBackAt does so through one sheep.
func (w *world) readsBackAt(s *lab.Sheep, name string, want []byte) {
	w.TB.Helper()
	args := []string{"vdi", "read", name}
	if vdi, tag, ok := strings.Cut(name, "@"); ok {
		args = []string{"vdi", "read", "-s", tag, vdi}
	}
	out, errText, code := w.DogAt(s, args...)
	if code != 0 || !bytes.Equal([]byte(out), want) {
		w.TB.Fatalf("read %s through port %d: exit %d, %d bytes, equal %v\n%s", name, s.Port, code, len(out), bytes.Equal([]byte(out), want), errText)
	}
}

// held is what the cluster uses without the logs of its stores: those grow in the
// background, by more than what is saved here. Bug: they did between two looks.
func (w *world) held() (now uint64) {
	w.TB.Helper()
	w.Eventually(30*time.Second, "nothing changes between two looks", func() error {
		last, logs := now, w.logs()
		now = w.used() - logs
		if now != last || logs != w.logs() {
			return fmt.Errorf("%d bytes are used, %d were", now, last)
		}
		return nil
	})
	return now
}

// logs is the size of the log files of all sheep that live, in bytes.
func (w *world) logs() (sum uint64) {
	w.TB.Helper()
	for _, s := range w.Sheep {
		if !s.Alive() {
			continue
		}
		names, err := filepath.Glob(filepath.Join(w.Meta(s), "log.??????"))
		if err != nil {
			w.TB.Fatal(err)
		}
		for _, name := range names {
			st, err := os.Stat(name)
			if err != nil {
				w.TB.Fatal(err)
			}
			sum += uint64(st.Size())
		}
	}
	if sum == 0 {
		w.TB.Fatal("no sheep has a log")
	}
	return sum
}

// coded waits until the nodes use so many bytes less than before: replicas go when
// their layer is encoded.
func (w *world) coded(what string, before uint64, saves int) {
	w.TB.Helper()
	w.Eventually(60*time.Second, what+" is erasure coded", func() error {
		if now := w.held(); now+uint64(saves) > before {
			return fmt.Errorf("%d bytes were used, %d are", before, now)
		}
		return nil
	})
}

// No crash while layers are encoded damages a byte, of those that were written
// last or of any other: all nodes are killed at once, or any two, some time after
// a snapshot had the encoding begin.
func TestCrashesWhileEncoding(t *testing.T) {
	w := start(t, 6, "--recovery-delay", "300ms")
	w.Meet()
	w.Dog("cluster", "format", "-c", "4:2")
	w.Dog("vdi", "create", "vm", "16M")
	rng := rand.New(rand.NewPCG(9, 9))
	all := map[string][]byte{"vm": make([]byte, 16<<20)}
	for round := range 6 {
		now := all["vm"]
		for range 20 { // in pieces that begin and end anywhere in a stripe
			at, n := rng.IntN(len(now)-200_000), 1+rng.IntN(200_000)
			copy(now[at:at+n], noise(rng.Uint64(), n))
			w.dogWith(now[at:at+n], "vdi", "write", "vm", fmt.Sprint(at), fmt.Sprint(n))
		}
		tag := fmt.Sprintf("round%d", round)
		w.Dog("vdi", "snapshot", "-s", tag, "vm")
		all["vm@"+tag] = bytes.Clone(now)
		pause := time.Duration(rng.IntN(2500)) * time.Millisecond
		time.Sleep(pause) // the crash is to be anywhere in the encoding
		lost := rng.Perm(len(w.Sheep))[:2+4*(round%2)]
		for _, i := range lost {
			w.Kill(w.Sheep[i])
		}
		if len(lost) == 2 {
			w.allReadBack(all)
		}
		for _, i := range lost {
			w.Spawn(w.Sheep[i])
		}
		for _, i := range lost {
			w.Answers(w.Sheep[i])
		}
		w.Recovered(60 * time.Second)
		t.Logf("%d nodes killed %v after the snapshot", len(lost), pause)
		w.allReadBack(all)
	}
	w.Checked()
}

func (w *world) allReadBack(all map[string][]byte) {
	w.TB.Helper()
	for name, want := range all {
		w.readsBack(name, want)
	}
}

// A VDI of copies becomes erasure coded while it is there, and does what others
// do: snapshots, clones, growing, rolling back.
func TestLifeOfACodedVDI(t *testing.T) {
	w := start(t, 3)
	w.Format(3)
	w.Dog("vdi", "create", "vm", "8M")
	all := map[string][]byte{"vm": noise(3, 8<<20)}
	w.dogWith(all["vm"], "vdi", "write", "vm")
	before := w.held()
	w.Dog("vdi", "alter-copy", "-f", "-c", "2:1", "vm")
	w.coded("the VDI", before, 8<<20)
	w.allReadBack(all)
	w.Dog("vdi", "snapshot", "-s", "one", "vm")
	all["vm@one"] = bytes.Clone(all["vm"])
	w.Dog("vdi", "clone", "-s", "one", "vm", "clone")
	all["clone"] = bytes.Clone(all["vm"])
	for name, at := range map[string]int{"vm": 1000, "clone": 3_000_000} {
		p := noise(uint64(at), 2<<20)
		copy(all[name][at:], p)
		w.dogWith(p, "vdi", "write", name, fmt.Sprint(at), fmt.Sprint(len(p)))
	}
	w.Dog("vdi", "resize", "vm", "12M")
	all["vm"] = append(all["vm"], make([]byte, 4<<20)...)
	w.Kill(w.Sheep[1])
	w.allReadBack(all)
	w.dogWith(all["clone"][:4096], "vdi", "write", "vm", "10000000", "4096")
	copy(all["vm"][10_000_000:], all["clone"][:4096])
	w.allReadBack(all)
	w.Run(w.Sheep[1])
	w.Recovered(60 * time.Second)
	w.Dog("vdi", "rollback", "-s", "one", "--yes", "vm")
	all["vm"] = bytes.Clone(all["vm@one"])
	w.allReadBack(all)
	w.Dog("vdi", "flatten", "clone")
	w.allReadBack(all)
	w.Checked()
}

// The snapshot of a VDI with copies is coded on request; its clones read the
// same. Too few zones are said so.
func TestSnapshotIsCodedOnRequest(t *testing.T) {
	w := start(t, 3)
	w.Format(3)
	w.Dog("vdi", "create", "base", "8M")
	want := bytes.Repeat([]byte("golden image "), 8<<20/13+1)[:8<<20]
	w.dogWith(want, "vdi", "write", "base")
	w.Dog("vdi", "snapshot", "-s", "v1", "base")
	if _, errText, code := w.DogAt(w.First(), "vdi", "alter-copy", "-c", "8:3", "base@v1"); code == 0 || !strings.Contains(errText, "zones") {
		t.Errorf("strips for more zones than there are: exit %d, %s", code, errText)
	}
	before := w.held()
	w.Dog("vdi", "alter-copy", "-c", "2:1", "base@v1")
	w.coded("the snapshot", before, 8<<20)
	w.Dog("vdi", "clone", "-s", "v1", "base", "clone")
	w.readsBack("clone", want)
	w.readsBack("base", want)
	w.Kill(w.Sheep[2])
	w.readsBack("clone", want)
	w.Run(w.Sheep[2])
	w.Recovered(60 * time.Second)
	w.Checked()
}

// With fewer zones than strips a VDI of D:P is there all the same, in replicas of
// which P may be lost; it is encoded when there are enough.
func TestCodedVDIWaitsForZones(t *testing.T) {
	w := start(t, 3, "--recovery-delay", "300ms")
	w.Meet()
	w.Dog("cluster", "format", "-c", "2:2", "--yes")
	w.Dog("vdi", "create", "vm", "8M")
	all := map[string][]byte{"vm": noise(5, 8<<20)}
	w.dogWith(all["vm"], "vdi", "write", "vm")
	w.Kill(w.Sheep[1])
	w.allReadBack(all)
	w.Run(w.Sheep[1])
	w.Recovered(40 * time.Second)
	w.Add(3, "--recovery-delay", "300ms")
	w.Eventually(60*time.Second, "the VDI is erasure coded", func() error {
		if out := w.Dog("vdi", "object", "location", "-i", "0", "vm"); strings.Count(out, " has the object") < 4 {
			return fmt.Errorf("not every node has a strip:\n%s", out)
		}
		return nil
	})
	w.Recovered(60 * time.Second)
	w.Kill(w.Sheep[0])
	w.allReadBack(all)
	w.Run(w.Sheep[0])
	w.Recovered(60 * time.Second)
	w.Checked()
}
