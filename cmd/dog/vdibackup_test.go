package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sheepdog/api"
	"sheepdog/api/apitest"
)

// must runs a dog that has to succeed.
func (f *fixture) must(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, talk, code := f.run(t, stdin, args...)
	if code != 0 {
		t.Fatalf("dog %s: exit %d, %s%s", strings.Join(args, " "), code, out, talk)
	}
	return out
}

// twoSnapshots makes v with snapshots one and two, and returns their bytes.
func twoSnapshots(t *testing.T, f *fixture) (one, two []byte) {
	t.Helper()
	f.must(t, "", "vdi", "create", "v", "9000000")
	f.must(t, strings.Repeat("a", 5000000), "vdi", "write", "v")
	f.must(t, "", "vdi", "snapshot", "-s", "one", "v")
	one = f.backend.Data("v", "one")
	f.must(t, strings.Repeat("b", 700), "vdi", "write", "v", "4194000") // over the border of pieces
	f.must(t, strings.Repeat("c", 100), "vdi", "write", "v", "8999900") // at the very end
	f.must(t, "", "vdi", "snapshot", "-s", "two", "v")
	return one, f.backend.Data("v", "two")
}

func TestBackupStream(t *testing.T) {
	f := newFixture(t, 1)
	one, two := twoSnapshots(t, f)
	dump := f.must(t, "", "vdi", "backup", "-F", "one", "-s", "two", "v")
	if len(dump) > 4096 {
		t.Errorf("the dump of 800 bytes has %d", len(dump))
	}
	f.must(t, "unsaved", "vdi", "write", "v", "100")
	f.must(t, dump, "vdi", "restore", "-s", "one", "v")
	// One and two, what was unsaved, the restored one.
	if got := f.backend.Data("v", "4"); !bytes.Equal(got, two) {
		t.Errorf("restored snapshot is not the second")
	}
	if got := f.backend.Data("v", ""); string(got[100:107]) != "unsaved" || got[0] != 'a' {
		t.Errorf("the working VDI has lost %q", got[100:107])
	}
	if !bytes.Equal(f.backend.Data("v", "one"), one) {
		t.Error("the first snapshot has changed")
	}
	for _, bad := range []string{"", dump[:len(dump)-1], "x" + dump[1:], dump[:8] + "\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\x00\x00\x00\x00"} {
		if _, talk, code := f.run(t, bad, "vdi", "restore", "-s", "one", "v"); code != 1 || !strings.Contains(talk, "corrupted") {
			t.Errorf("exit %d, %q", code, talk)
		}
		if got := f.backend.Data("v", ""); string(got[100:107]) != "unsaved" {
			t.Fatalf("a bad backup has changed the working VDI: %q", got[100:107])
		}
	}
}

func TestBackupDirectory(t *testing.T) {
	f := newFixture(t, 1)
	one, two := twoSnapshots(t, f)
	dir := filepath.Join(f.dir, "store")
	f.must(t, "", "vdi", "backup", "-s", "one", "--dir", dir, "v")
	out := f.must(t, "", "vdi", "backup", "-s", "two", "--dir", dir, "v", "-o", "json")
	if !strings.Contains(out, `"base": "`) {
		t.Errorf("the second backup is not on the first: %s", out)
	}
	f.must(t, "", "vdi", "backup", "--verify", "--dir", dir, "v")
	f.must(t, "", "vdi", "restore", "-s", "two", "--dir", dir, "--from", "v", "again")
	if !bytes.Equal(f.backend.Data("again", ""), two) {
		t.Error("restored VDI differs")
	}

	f.must(t, "", "cluster", "snapshot", "save", "s1", dir)
	if _, talk, code := f.run(t, "", "cluster", "snapshot", "save", "s1", dir); code != 2 || !strings.Contains(talk, "already been used") {
		t.Errorf("exit %d, %q", code, talk)
	}
	if out := f.must(t, "", "cluster", "snapshot", "list", dir); out != "Index\t\tTag\t\tSnapshot Time\n1\t\ts1\t\tSun Nov 22 14:25:04 2026\n" {
		t.Errorf("%q", out)
	}
	if out := f.must(t, "", "cluster", "snapshot", "show", "1", dir); out != "1. VDI id: 1, name: v, tag: one\n2. VDI id: 2, name: v, tag: two\n" {
		t.Errorf("%q", out)
	}
	f.must(t, "", "cluster", "snapshot", "load", "-f", "--yes", "s1", dir)
	for tag, want := range map[api.Selector][]byte{"one": one, "two": two, "": two} {
		if !bytes.Equal(f.backend.Data("v", tag), want) {
			t.Errorf("snapshot %q differs after load", tag)
		}
	}

	chunks, err := filepath.Glob(filepath.Join(dir, "chunks", "*", "*"))
	if err != nil || len(chunks) == 0 {
		t.Fatal(chunks, err)
	}
	for _, path := range chunks {
		b, _ := os.ReadFile(path)
		b[len(b)/2] ^= 1
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	formats := len(f.backend.Formats())
	for _, words := range [][]string{{"vdi", "backup", "--verify", "--dir", dir, "v"}, {"vdi", "restore", "-s", "two", "--dir", dir, "--from", "v", "bad"}, {"cluster", "snapshot", "load", "-f", "--yes", "s1", dir}} {
		if _, talk, code := f.run(t, "", words...); code == 0 || !strings.Contains(talk, "corrupted") {
			t.Errorf("%v: exit %d, %q", words, code, talk)
		}
	}
	if f.backend.Data("bad", "") != nil || len(f.backend.Formats()) != formats {
		t.Error("a damaged backup was restored in part")
	}
}

// A VDI that ended within an object grew: the last piece of its older backups is
// shorter than that of newer ones. What was written behind it since stayed after a
// restore.
func TestRestoreOfABackupOfBeforeTheVDIGrew(t *testing.T) {
	f := newFixture(t, 1)
	dir := filepath.Join(f.dir, "store")
	f.must(t, "", "vdi", "create", "v", "1M")
	f.must(t, "first", "vdi", "write", "v")
	f.must(t, "", "vdi", "snapshot", "-s", "small", "v")
	f.must(t, "", "vdi", "backup", "-s", "small", "--dir", dir, "v")
	f.must(t, "", "vdi", "resize", "v", "4M")
	f.must(t, "", "vdi", "snapshot", "-s", "grown", "v")
	f.must(t, "", "vdi", "backup", "-s", "grown", "--dir", dir, "v")
	f.must(t, "behind", "vdi", "write", "v", "2M")
	f.must(t, "", "vdi", "snapshot", "-s", "written", "v")
	f.must(t, "", "vdi", "backup", "-s", "written", "--dir", dir, "v")
	f.must(t, "", "vdi", "restore", "-s", "grown", "--dir", dir, "v")
	if !bytes.Equal(f.backend.Data("v", ""), f.backend.Data("v", "grown")) {
		t.Error("the VDI is not what the backup has")
	}

	// The same with one backup on top of another, in whatever order they were made.
	f.must(t, "", "vdi", "rollback", "-f", "-s", "grown", "v")
	f.must(t, "", "vdi", "snapshot", "-s", "back", "v")
	dir = filepath.Join(f.dir, "other")
	for _, tag := range []string{"small", "grown", "back", "written"} {
		f.must(t, "", "vdi", "backup", "-s", tag, "--dir", dir, "v")
	}
	want := f.backend.Data("v", "back")
	f.must(t, "", "cluster", "snapshot", "save", "all", dir)
	f.must(t, "", "cluster", "snapshot", "load", "-f", "--yes", "all", dir)
	if !bytes.Equal(f.backend.Data("v", "back"), want) {
		t.Error("the loaded snapshot is not what was saved")
	}
}

var _ api.Backend = (*apitest.Backend)(nil)
