package libvirt

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// trace runs lifecycle.py.
func trace(t *testing.T, args ...string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "/usr/bin/python3", append([]string{"lifecycle.py"}, args...)...).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "LIFECYCLE-OK") {
		t.Fatalf("lifecycle.py %v: %v\n%s", args, err, out)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

// alike compares traces. Lines that differ by design are in except, from the
// line as libvirt's dir pools have it to ours.
func alike(t *testing.T, what string, want, got []string, except map[string]string) {
	t.Helper()
	if len(want) != len(got) {
		t.Errorf("%s: %d lines, libvirt itself has %d", what, len(got), len(want))
	}
	section := ""
	for i := range min(len(want), len(got)) {
		if strings.HasPrefix(want[i], "---") {
			section = want[i]
		}
		if want[i] != got[i] && except[want[i]] != got[i] {
			t.Errorf("%s\n%s\n   got %s\n  want %s", what, section, got[i], want[i])
		}
	}
}

// libvirt-tck's storage cases, restated: a dir pool behaves the same behind us as
// at libvirtd itself, and our pools behave as dir pools do, error codes included.
func TestLifecycleIsLibvirts(t *testing.T) {
	need(t, "virsh", "libvirtd")
	needPython(t)
	w := start(t)
	_, lv := w.libvirtd()
	sock := filepath.Join(lv, "run/libvirt-sock")
	direct := "qemu+unix:///system?socket=" + sock
	proxy := "qemu+unix:///system?socket=" + w.serve("c", "--upstream", sock)
	alone := "storage+unix:///system?socket=" + w.serve("a")

	want := trace(t, direct, "dir", w.mkdir("pools"))
	t.Logf("libvirt itself:\n%s", strings.Join(want, "\n"))
	alike(t, "a dir pool through sheep-libvirt", want, trace(t, proxy, "dir", w.mkdir("pools2")), nil)
	except := map[string]string{
		// libvirt fails to write a link; that a transient pool has no autostart is an
		// invalid argument elsewhere in it.
		"autostart: error 1 of domain 18": "autostart: error 8 of domain 18",
		// A code of its own tells what is wrong better than an internal error.
		"clone again: error 1 of domain 18": "clone again: error 90 of domain 18",
		// Beyond the end there is nothing to read, which is said.
		"download behind the end: b''":            "download behind the end: error 8 of domain 18",
		"clone onto itself: error 1 of domain 18": "clone onto itself: error 90 of domain 18",
		// The limit is that of VDIs, not one of the file system.
		"a capacity that overflows: error 82 of domain 0": "a capacity that overflows: error 8 of domain 18",
		"resize beyond everything: error 38 of domain 0":  "resize beyond everything: error 8 of domain 18",
		// libvirt counts below nothing and finds a large number.
		"resize by more than there is: 0": "resize by more than there is: error 8 of domain 18",
		// A raw file has no backing file; a volume of ours may be a clone.
		"a backing volume that is not there: error 3 of domain 18": "a backing volume that is not there: error 50 of domain 18",
		// The same errors from another file of libvirt's.
		"a capacity with a unit that nobody knows: error 8 of domain 0": "a capacity with a unit that nobody knows: error 8 of domain 18",
	}
	for _, what := range []string{"no type", "a type that nobody knows", "another document"} {
		for _, how := range []string{"", ", transient"} {
			except[what+how+": error 27 of domain 5"] = what + how + ": error 27 of domain 18"
		}
	}
	alike(t, "our pool beside libvirtd", want, trace(t, proxy, "sheepdog", "-"), except)
	alike(t, "our pool alone", want, trace(t, alone, "sheepdog", "-"), except)
}
