package e2e

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"sheepdog/api"
)

// TestThousandClones is what CoreCluster does for 1,000 VMs on one base: nothing
// is left of the snapshots, the last clone is made as fast as the first, and all
// of them read as the base.
func TestThousandClones(t *testing.T) {
	w := start(t, 3)
	w.Format(2)
	base := noise(6, 6<<20)
	w.Dog("vdi", "create", "base", "8M")
	w.dogWith(base, "vdi", "write", "base")
	c := api.NewClient(fmt.Sprintf("127.0.0.1:%d", w.First().Port))
	defer c.Close()
	round := func(from, to int) time.Duration {
		begin := time.Now()
		for i := from; i < to; i++ {
			vm := fmt.Sprintf("vm%d", i)
			if _, err := c.SnapshotVDI(t.Context(), &api.SnapshotRequest{Name: "base", Tag: "snap_" + vm}); err != nil {
				t.Fatal(err)
			}
			if _, err := c.CloneVDI(t.Context(), &api.CloneRequest{Source: "base", Snapshot: api.Selector("snap_" + vm), Name: vm}); err != nil {
				t.Fatal(err)
			}
			if err := c.DeleteVDI(t.Context(), &api.DeleteRequest{Name: "base", Snapshot: api.Selector("snap_" + vm)}); err != nil {
				t.Fatal(err)
			}
		}
		return time.Since(begin)
	}
	first := round(0, 100)
	round(100, 900)
	if last := round(900, 1000); last > 5*first+5*time.Second {
		t.Errorf("the first 100 took %v, the last %v", first, last)
	}
	if n := len(rows(w.Dog("vdi", "list", "-r"))); n != 1001 {
		t.Errorf("%d VDIs and snapshots, want 1001", n)
	}
	w.dogWith([]byte("mine"), "vdi", "write", "vm500", "4096")
	for _, vm := range []string{"vm0", "vm499", "vm999"} {
		if w.Dog("vdi", "read", vm, "0", fmt.Sprint(len(base))) != string(base) {
			t.Errorf("%s has other bytes than the base", vm)
		}
	}
	if got := w.Dog("vdi", "read", "vm500", "4096", "4"); got != "mine" {
		t.Errorf("%q", got)
	}
}

// TestLifecycle: another redundancy, a group of snapshots, flatten, the trash, on
// real sheep.
func TestLifecycle(t *testing.T) {
	w := start(t, 4)
	w.Format(3)
	data := noise(7, 9<<20)
	w.Dog("vdi", "create", "v", "16M")
	w.dogWith(data, "vdi", "write", "v")
	same := func(name string) {
		t.Helper()
		if w.Dog("vdi", "read", name, "0", fmt.Sprint(len(data))) != string(data) {
			t.Errorf("%s has other bytes", name)
		}
	}
	for _, copies := range []string{"2", "4"} {
		w.Dog("vdi", "alter-copy", "-f", "-c", copies, "v")
		same("v")
		w.Dog("vdi", "check", "-e", "v")
		if f := strings.Fields(w.Dog("vdi", "list", "-r", "v")); f[8] != copies || f[4] != fmt.Sprint(12<<20) {
			t.Errorf("listed as %v", f)
		}
	}
	w.Dog("vdi", "create", "u", "4M")
	w.Dog("vdi", "snapshot", "-s", "both", "v", "u")
	w.Dog("vdi", "clone", "v@both", "c")
	if _, _, code := w.DogAt(w.First(), "vdi", "alter-copy", "-f", "-c", "2", "v"); code != 1 {
		t.Errorf("alter-copy of a VDI with a snapshot: exit %d", code)
	}
	w.Dog("vdi", "flatten", "c")
	w.Dog("vdi", "trash", "enable", "--keep", "1h")
	w.Dog("vdi", "delete", "v")
	w.Dog("vdi", "rollback", "-f", "-s", "both", "v")
	w.Dog("vdi", "trash", "restore", "v", "v2")
	w.Dog("vdi", "trash", "disable")
	w.Dog("vdi", "delete", "v@both")
	for _, name := range []string{"v", "v2", "c"} {
		same(name)
	}
	w.Checked()
}

// TestRestoreOntoAVDI: what differs is written, what was there stays as a
// snapshot, and a damaged backup changes nothing.
func TestRestoreOntoAVDI(t *testing.T) {
	store := t.TempDir() + "/store"
	w := start(t, 3)
	w.Format(2)
	data := noise(8, 40<<20)
	w.Dog("vdi", "create", "v", "40M")
	w.dogWith(data, "vdi", "write", "v")
	w.Dog("vdi", "snapshot", "-s", "one", "v")
	w.Dog("vdi", "backup", "-s", "one", "--dir", store, "v")
	w.dogWith([]byte("something else"), "vdi", "write", "v", "13000000")
	if out := w.Dog("vdi", "restore", "-s", "one", "--dir", store, "-o", "json", "v"); !strings.Contains(out, fmt.Sprintf("\"writtenBytes\": %d\n", 4<<20)) {
		t.Errorf("one object of ten had changed: %s", out)
	}
	if w.Dog("vdi", "read", "v") != string(data) {
		t.Error("the VDI is not what the backup has")
	}
	if n := len(rows(w.Dog("vdi", "list", "-r", "v"))); n != 3 {
		t.Errorf("%d rows, want the VDI, the snapshot and what was there", n)
	}
	full := w.Dog("vdi", "backup", "--full", "-s", "one", "v")
	bad := []byte(full)
	bad[len(bad)/2] ^= 1
	w.Dog("vdi", "create", "n", "40M")
	w.Dog("vdi", "snapshot", "-s", "empty", "n")
	if _, errText, code := w.DogIn(w.First(), bad, "vdi", "restore", "-s", "empty", "n"); code != 1 || !strings.Contains(errText, "corrupted") {
		t.Errorf("a damaged stream: exit %d, %s", code, errText)
	}
	if w.Dog("vdi", "read", "n") != string(make([]byte, 40<<20)) {
		t.Error("a damaged stream has left something")
	}
	w.dogWith([]byte(full), "vdi", "restore", "-s", "empty", "n")
	rest := rows(w.Dog("vdi", "list", "-r", "n"))
	if len(rest) != 3 || w.Dog("vdi", "read", "-s", strings.Fields(rest[1])[2], "n") != string(data) {
		t.Errorf("the restored snapshot has other bytes: %q", rest)
	}
	if err := os.RemoveAll(store + "/chunks"); err != nil {
		t.Fatal(err)
	}
	w.dogWith([]byte("again"), "vdi", "write", "v", "100")
	if _, _, code := w.DogAt(w.First(), "vdi", "restore", "-s", "one", "--dir", store, "v"); code != 1 {
		t.Errorf("a store without chunks: exit %d", code)
	}
	want := bytes.Clone(data)
	copy(want[100:], "again")
	if w.Dog("vdi", "read", "v") != string(want) {
		t.Error("a failed restore has changed the VDI")
	}
}

// rows are the lines of a raw listing.
func rows(out string) []string {
	return strings.FieldsFunc(out, func(r rune) bool { return r == '\n' })
}
