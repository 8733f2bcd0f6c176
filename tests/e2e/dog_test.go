package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sheepdog/tests/internal/lab"
)

// noise is n bytes that do not compress and are the same in every run.
func noise(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, seed))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// dogWith runs a command with standard input at the first sheep and wants it to
// succeed.
func (w *world) dogWith(stdin []byte, args ...string) string {
	w.TB.Helper()
	out, errText, code := w.DogIn(w.First(), stdin, args...)
	if code != 0 {
		w.TB.Fatalf("dog %s: exit %d: %s", strings.Join(args, " "), code, errText)
	}
	return out
}

// TestCoreCluster is what CoreCluster's storage agent types: an image written in
// pieces of 1 MiB by one process each, a VM on it, a VM saved as an image.
func TestCoreCluster(t *testing.T) {
	w := start(t, 3)
	w.Format(2)
	w.Dog("node", "list")
	image := noise(1, 5<<20)
	w.Dog("vdi", "create", "image", strconv.Itoa(8<<20))
	for off := 0; off < len(image); off += 1 << 20 {
		w.dogWith(image[off:off+1<<20], "vdi", "write", "image", strconv.Itoa(off))
	}
	for i := range 5 {
		vm := fmt.Sprintf("vm%d", i)
		w.Dog("vdi", "snapshot", "-s", "snap_"+vm, "image")
		w.Dog("vdi", "clone", "-s", "snap_"+vm, "image", vm)
		w.Dog("vdi", "delete", "-s", "snap_"+vm, "image")
	}
	w.dogWith([]byte("written by the guest"), "vdi", "write", "vm1", "1000000")
	w.Dog("vdi", "snapshot", "-s", "snap_save", "vm1")
	w.Dog("vdi", "clone", "-s", "snap_save", "vm1", "saved")
	w.Dog("vdi", "delete", "-s", "snap_save", "vm1")
	w.Dog("vdi", "delete", "vm1")

	want := append(bytes.Clone(image), make([]byte, 3<<20)...)
	for _, name := range []string{"image", "vm0", "vm4"} {
		if got := w.Dog("vdi", "read", name); got != string(want) {
			t.Errorf("%s has other bytes", name)
		}
	}
	copy(want[1000000:], "written by the guest")
	if got := w.Dog("vdi", "read", "saved"); got != string(want) {
		t.Error("the saved image has other bytes")
	}
	if n := len(lab.Rows(w.Dog("vdi", "list", "-r"))); n != 6 {
		t.Errorf("%d VDIs and snapshots are left, want 6:\n%s", n, w.Dog("vdi", "list"))
	}
	if _, _, code := w.DogAt(w.First(), "vdi", "delete", "nosuch"); code == 0 {
		t.Error("deleting nothing succeeds")
	}
	w.Checked()
}

// TestObjectsOfOtherSizes: VDIs with larger and smaller objects than the cluster's
// take data everywhere, and all of it moves when nodes are lost.
func TestObjectsOfOtherSizes(t *testing.T) {
	w := start(t, 3, "--recovery-delay", "0s")
	w.Format(2)
	all := make(map[string][]byte)
	for _, shift := range []string{"20", "23", "25"} {
		name := "v" + shift
		w.Dog("vdi", "create", "-z", shift, name, "40M")
		all[name] = noise(uint64(len(all)), 40<<20)
		w.dogWith(all[name], "vdi", "write", name)
	}
	for _, lost := range []int{2, 0} {
		w.Kill(w.Sheep[lost])
		w.Recovered(40 * time.Second)
		w.allReadBack(all)
		w.Run(w.Sheep[lost])
		w.Recovered(40 * time.Second)
	}
	w.Checked()
	w.allReadBack(all)
}

// TestSnapshotsExpire: a snapshot goes when its time is over, though the node that
// led the cluster when it was taken has died, and takes nothing of others along.
func TestSnapshotsExpire(t *testing.T) {
	w := start(t, 3)
	w.Format(3)
	w.Dog("vdi", "create", "v", "8M")
	one, two := noise(31, 8<<20), noise(32, 8<<20)
	w.dogWith(one, "vdi", "write", "v")
	w.Dog("vdi", "snapshot", "-s", "soon", "--expires", "3s", "v")
	w.dogWith(two, "vdi", "write", "v")
	w.Dog("vdi", "snapshot", "-s", "later", "--expires", "7d", "v")
	w.Dog("vdi", "clone", "-s", "soon", "v", "clone")
	w.Kill(w.Leader())
	w.Eventually(30*time.Second, "the snapshot has expired", func() error {
		if _, _, code := w.DogAt(w.First(), "vdi", "read", "-s", "soon", "v", "0", "1"); code == 0 {
			return errors.New("it can be read")
		}
		return nil
	})
	for name, want := range map[string][]byte{"v": two, "v@later": two, "clone": one} {
		if w.Dog("vdi", "read", name) != string(want) {
			t.Errorf("%s has other bytes", name)
		}
	}
	w.Recovered(30 * time.Second)
	w.Checked()
}

// TestAttributeIsALock: of many processes that set an attribute exclusively, at
// different nodes, exactly one wins.
func TestAttributeIsALock(t *testing.T) {
	w := start(t, 3)
	w.Format(2)
	w.Dog("vdi", "create", "v", "4M")
	codes := make([]int, 12)
	var wg sync.WaitGroup
	for i := range codes {
		wg.Go(func() {
			_, _, codes[i] = w.DogAt(w.Sheep[i%3], "vdi", "setattr", "-x", "v", "lock", strconv.Itoa(i))
		})
	}
	wg.Wait()
	winner := -1
	for i, code := range codes {
		switch {
		case code == 0 && winner < 0:
			winner = i
		case code != 3:
			t.Errorf("process %d: exit %d", i, code)
		}
	}
	if got := w.Dog("vdi", "getattr", "v", "lock"); got != strconv.Itoa(winner) {
		t.Errorf("the attribute is %q, the winner was %d", got, winner)
	}
	w.Dog("vdi", "setattr", "-d", "v", "lock")
	if _, _, code := w.DogAt(w.Sheep[1], "vdi", "getattr", "v", "lock"); code != 5 {
		t.Errorf("exit %d after deletion", code)
	}
}

// TestBackupElsewhere: snapshots go to a directory, the cluster is destroyed,
// another one gets them back.
func TestBackupElsewhere(t *testing.T) {
	store := filepath.Join(t.TempDir(), "store")
	one := noise(2, 9<<20)
	two := bytes.Clone(one)
	copy(two[5000000:], noise(3, 100000))
	func() {
		w := start(t, 3)
		w.Format(2)
		w.Dog("vdi", "create", "v", strconv.Itoa(len(one)))
		w.dogWith(one, "vdi", "write", "v")
		w.Dog("vdi", "snapshot", "-s", "one", "v")
		w.dogWith(two[5000000:5100000], "vdi", "write", "v", "5000000")
		w.Dog("vdi", "snapshot", "-s", "two", "v")
		dump := w.Dog("vdi", "backup", "-F", "one", "-s", "two", "v")
		if n := len(dump); n < 100000 || n > 102000 {
			t.Errorf("100,000 changed bytes make a dump of %d", n)
		}
		w.dogWith([]byte(dump), "vdi", "restore", "-s", "one", "v")
		if w.Dog("vdi", "read", "-s", "3", "v") != string(two) {
			t.Error("the restored snapshot is not the second")
		}
		w.Dog("cluster", "snapshot", "save", "night", store)
		w.End()
	}()
	w := start(t, 2)
	w.Format(1)
	w.Dog("cluster", "snapshot", "load", "-f", "night", store)
	for tag, want := range map[string][]byte{"one": one, "two": two} {
		if w.Dog("vdi", "read", "-s", tag, "v") != string(want) {
			t.Errorf("snapshot %s has other bytes", tag)
		}
	}
	w.Dog("vdi", "restore", "-s", "two", "--dir", store, "--from", "v", "again")
	if w.Dog("vdi", "read", "again") != string(two) {
		t.Error("the restored VDI has other bytes")
	}
	chunks, err := filepath.Glob(filepath.Join(store, "chunks", "*", "*"))
	if err != nil || len(chunks) == 0 {
		t.Fatal(chunks, err)
	}
	b, err := os.ReadFile(chunks[0])
	if err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if err := os.WriteFile(chunks[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errText, code := w.DogAt(w.First(), "vdi", "backup", "--verify", "--dir", store, "v"); code != 1 || !strings.Contains(errText, "corrupted") {
		t.Errorf("a flipped byte: exit %d, %s", code, errText)
	}
	w.Checked()
}

// TestObjectsAreWhereDogSays: a crash leaves objects missing where they belong,
// recovery brings them there.
func TestObjectsAreWhereDogSays(t *testing.T) {
	w := start(t, 3, "--recovery-delay", "0s")
	w.Format(2)
	w.Dog("vdi", "create", "v", "32M")
	w.dogWith(noise(4, 32<<20), "vdi", "write", "v")
	if out := w.Dog("vdi", "check", "-e", "v"); out != "v is fine, no object is missing.\n" {
		t.Errorf("%q", out)
	}
	if n := len(lab.Rows(w.Dog("vdi", "object", "map", "-r", "v"))); n != 8 {
		t.Errorf("%d objects are mapped, want 8", n)
	}
	w.Dog("vdi", "clone", "-n", "-s", snapshotOf(w, "v"), "v", "copy")
	if w.Dog("vdi", "read", "copy") != string(noise(4, 32<<20)) {
		t.Error("the copy has other bytes")
	}
	w.Kill(w.Sheep[2])
	w.Recovered(30 * time.Second)
	if out := w.Dog("vdi", "check", "-e", "copy"); out != "copy is fine, no object is missing.\n" {
		t.Errorf("%q", out)
	}
	if out := w.Dog("vdi", "track", "-i", "0", "-r", "copy"); len(lab.Rows(out)) != 2 {
		t.Errorf("two epochs are wanted:\n%s", out)
	}
	w.Checked()
}

func snapshotOf(w *world, name string) string {
	w.Dog("vdi", "snapshot", "-s", "now", name)
	return "now"
}

// TestCare is what operators set on a running cluster.
func TestCare(t *testing.T) {
	w := start(t, 3)
	w.Eventually(20*time.Second, "all sheep see each other", func() error {
		for _, s := range w.Sheep {
			if n := len(lab.Rows(w.DogOn(s, "node", "list", "-r"))); n != 3 {
				return fmt.Errorf("port %d sees %d", s.Port, n)
			}
		}
		return nil
	})
	w.Dog("cluster", "format", "-c", "2", "-V", "-l")
	w.Dog("node", "vnodes", "set", "32")
	if out := w.Dog("node", "list", "-r"); !strings.Contains(out, fmt.Sprintf(":%d 32 0", w.First().Port)) {
		t.Errorf("weight is not 32:\n%s", out)
	}
	if _, _, code := w.DogAt(w.First(), "cluster", "reweight"); code != 1 {
		t.Errorf("reweight of fixed weights: exit %d", code)
	}
	w.Dog("cluster", "alter-copy", "-c", "3", "-f")
	w.Dog("vdi", "create", "v", "4M")
	if out := w.Dog("vdi", "list", "-r", "v"); !strings.HasSuffix(out, " 3  22\n") {
		t.Errorf("%q", out)
	}
	w.Dog("node", "log", "level", "set", "debug")
	if _, errText, _ := w.DogAt(w.First(), "node", "log", "level", "get"); errText != "debug (7)\n" {
		t.Errorf("%q", errText)
	}
	w.Dog("node", "recovery", "set-throttle", "5", "100")
	if _, errText, _ := w.DogAt(w.First(), "node", "recovery", "get-throttle"); errText != "max (5), interval (100)\n" {
		t.Errorf("%q", errText)
	}
	w.Dog("node", "recovery", "set-throttle", "0", "0")
	w.Recovered(30 * time.Second)
	w.dogWith(noise(5, 1<<20), "vdi", "write", "v")
	if f := strings.Fields(lab.Rows(w.Dog("node", "stat", "-r"))[0]); f[3] == "0" || f[7] != "1048576" {
		t.Errorf("counters of the client: %v", f)
	}
	if out := w.Dog("status"); !strings.HasPrefix(out, "Health    ok\n") {
		t.Errorf("%s", out)
	}
	if out := w.Dog("doctor"); strings.Contains(out, "BAD") {
		t.Errorf("%s", out)
	}
	w.Checked()
}

// TestLockedVDI: in a cluster with locks a second gateway may not open a VDI
// while the first has it, and may afterwards.
func TestLockedVDI(t *testing.T) {
	lab.Need(t, "qemu-io")
	w := start(t, 2)
	w.Eventually(20*time.Second, "both sheep see each other", func() error {
		if n := len(lab.Rows(w.DogOn(w.Sheep[0], "node", "list", "-r"))); n != 2 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	w.Dog("cluster", "format", "-c", "2", "-l")
	w.Dog("vdi", "create", "v", "4M")
	if out := w.Dog("vdi", "lock", "list", "-r"); out != "" {
		t.Errorf("%q", out)
	}
	release := w.hold(w.URI(w.Sheep[0], "v"))
	w.Eventually(20*time.Second, "the VDI is locked", func() error {
		if out := w.Dog("vdi", "lock", "list", "-r"); !strings.Contains(out, fmt.Sprintf(":%d\n", w.Sheep[0].Port)) {
			return fmt.Errorf("%q", out)
		}
		return nil
	})
	if err := w.try("qemu-io", "-f", "raw", "-c", "read 0 4k", w.URI(w.Sheep[1], "v")); err == nil {
		t.Error("a second gateway may open a locked VDI")
	}
	release()
	w.Eventually(20*time.Second, "the VDI is free", func() error {
		return w.try("qemu-io", "-f", "raw", "-c", "write 0 4k", w.URI(w.Sheep[1], "v"))
	})
	w.Checked()
}

// hold opens an export until release is called.
func (w *world) hold(uri string) (release func()) {
	w.TB.Helper()
	cmd := exec.Command("qemu-io", "-f", "raw", uri)
	in, err := cmd.StdinPipe()
	if err != nil {
		w.TB.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.TB.Fatal(err)
	}
	return func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			w.TB.Errorf("qemu-io: %v", err)
		}
	}
}

// try runs a client and says how it failed.
func (w *world) try(name string, args ...string) error {
	ctx, cancel := context.WithTimeout(w.TB.Context(), time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}
