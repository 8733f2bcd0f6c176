package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// After a death by SIGBUS, which nothing in the process can prevent, the next start
// says so, and reads what is mapped: if that cannot be read it does not start, time and
// again, and says why; else it starts.
func TestDeathByAFaultIsTold(t *testing.T) {
	dir := t.TempDir()
	meta := filepath.Join(dir, "m")
	if out, err := sheep(t, dir, "fault", "-P", "pid", "m"); err != nil {
		t.Fatal(err, out)
	}
	n := pid(t, filepath.Join(dir, "pid"))
	eventually(t, "the process dies", func() bool { return gone(n) })
	for _, left := range []string{filepath.Join(dir, "pid"), filepath.Join(meta, "alive")} {
		if err := os.Remove(left); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(meta, "meta"), 0o700); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(meta, "meta", "000001.sst")
	if err := os.Symlink("/proc/self/mem", bad); err != nil { // whose first byte is EIO
		t.Fatal(err)
	}
	for range 2 {
		out, err := sheep(t, dir, "serve", "-P", "pid", "m")
		if err == nil || !strings.Contains(out, "000001.sst: input/output error") || !strings.Contains(out, "start this node with an empty META") {
			t.Fatalf("a start on a disk that fails: %v, %s", err, out)
		}
	}
	if err := os.Remove(bad); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if out, err := sheep(t, dir, "serve", "-P", "pid", "m"); err != nil {
			t.Fatal(err, out)
		}
		n = pid(t, filepath.Join(dir, "pid"))
		if err := syscall.Kill(n, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the process ends", func() bool { return gone(n) })
	}
	log, err := os.ReadFile(filepath.Join(meta, "sheep.log"))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(log), "the process before this one crashed"); got != 3 {
		t.Errorf("told %d times, want twice by starts that failed and once by the one after:\n%s", got, log)
	}
	if !strings.Contains(string(log), "SIGBUS") {
		t.Errorf("the log does not say of what it died:\n%s", log)
	}
	if last, err := os.ReadFile(filepath.Join(meta, lastCrash)); err != nil || !strings.Contains(string(last), "daemon.fault") {
		t.Errorf("the report of the runtime: %v, %s", err, last)
	}
}
