package daemon

import (
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"sheepdog/internal/systemdtest"
)

func TestStore(t *testing.T) {
	systemd := systemdtest.Listen(t)
	s := &Store{Socket: systemd.Socket}
	a, b, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	for _, name := range []string{"one", "two"} {
		if err := s.Put(name, a, b); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := systemd.Names(); !maps.Equal(got, map[string]int{"one": 2, "two": 2}) {
		t.Errorf("after Flush systemd has %v", got)
	}
	systemd.Take()
	none := &Store{Socket: filepath.Join(t.TempDir(), "none")}
	if none.Put("x", a) == nil || none.Flush() == nil {
		t.Error("a systemd that is not there keeps descriptors")
	}
}

func TestWhatIsNotPassedIsNotTaken(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("LISTEN_PID", "1")
	t.Setenv("LISTEN_FDS", "1")
	t.Setenv("LISTEN_FDNAMES", "x")
	if s, kept, err := openStore(); s != nil || kept != nil || err != nil {
		t.Errorf("descriptors of another process: %v %v %v", s, kept, err)
	}
	pid := os.Getpid()
	for _, count := range []string{"-1", "x", "99999999"} {
		t.Setenv("LISTEN_PID", strconv.Itoa(pid))
		t.Setenv("LISTEN_FDS", count)
		if _, _, err := openStore(); err == nil || !strings.Contains(err.Error(), "LISTEN_FDS") {
			t.Errorf("LISTEN_FDS=%s: %v", count, err)
		}
	}
}
