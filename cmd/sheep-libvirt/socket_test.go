package main

import (
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Who may open a socket is what was asked for: its mode, and its group.
func TestSocketHasItsModeAndGroup(t *testing.T) {
	group, err := user.LookupGroupId(strconv.Itoa(os.Getgid()))
	if err != nil {
		t.Skipf("SKIPPED: the group of this process has no name: %v", err)
	}
	for mode, want := range map[string]fs.FileMode{"0660": 0o660, "600": 0o600, "0666": 0o666} {
		path := filepath.Join(t.TempDir(), "a", "s")
		l, err := listen(path, mode, group.Name)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("mode %s: %v %v", mode, info.Mode(), err)
		}
		if st := info.Sys().(*syscall.Stat_t); int(st.Gid) != os.Getgid() {
			t.Errorf("group %d", st.Gid)
		}
		l.Close()
	}
}

func TestSocketRefuses(t *testing.T) {
	dir := t.TempDir()
	file, served := filepath.Join(dir, "file"), filepath.Join(dir, "served")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", served)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, c := range []struct{ path, mode, group, words string }{
		{filepath.Join(dir, "s"), "0999", "", "octal"},
		{filepath.Join(dir, "s"), "rw", "", "octal"},
		{filepath.Join(dir, "s"), "0660", "no-such-group", "group"},
		{file, "0660", "", "no socket"},
		{served, "0660", "", "another process"},
	} {
		if l, err := listen(c.path, c.mode, c.group); err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%+v: %v %v", c, l, err)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file was touched: %q %v", b, err)
	}
}

// What a process that was killed left does not keep the next one from starting.
func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	old, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	old.(*net.UnixListener).SetUnlinkOnClose(false)
	old.Close()
	l, err := listen(path, "0600", "")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestOptionsThatContradictEachOther(t *testing.T) {
	for words, o := range map[string]options{
		"needs --upstream-ro": {listen: "a", listenRO: "b", upstream: "c"},
		"path of its own":     {listen: "a", upstream: "a"},
		"of its own":          {listen: "a", listenRO: "a"},
		"negative":            {listen: "a", reconnect: -1},
	} {
		if err := o.check(); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%+v: %v, want %q", o, err, words)
		}
	}
	if err := (&options{listen: "a", listenRO: "b", upstream: "c", upstreamRO: "d"}).check(); err != nil {
		t.Error(err)
	}
}
