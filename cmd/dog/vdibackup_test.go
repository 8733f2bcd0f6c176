package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

// One damaged manifest kept every VDI of the directory from being backed up and
// restored, and every other one from being verified.
func TestDamagedManifestIsInTheWayOfNothingElse(t *testing.T) {
	f := newFixture(t, 1)
	dir := filepath.Join(f.dir, "store")
	for _, name := range []string{"good", "bad"} {
		f.must(t, "", "vdi", "create", name, "1M")
		f.must(t, name, "vdi", "write", name)
		f.must(t, "", "vdi", "snapshot", "-s", "s", name)
		f.must(t, "", "vdi", "backup", "-s", "s", "--dir", dir, name)
	}
	bad, err := f.backend.VDIs(t.Context(), &api.VDIQuery{Name: "bad"})
	if err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(filepath.Join(dir, "backups", "*-"+bad[0].ID.String()+"-1.json"))
	if err != nil || len(paths) != 1 {
		t.Fatal(paths, err)
	}
	if err := os.WriteFile(paths[0], []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.must(t, "", "vdi", "restore", "-s", "s", "--dir", dir, "--from", "good", "again")
	f.must(t, "", "vdi", "restore", "-s", "s", "--dir", dir, "good")
	f.must(t, "", "vdi", "snapshot", "-s", "t", "good")
	f.must(t, "", "vdi", "backup", "-s", "t", "--dir", dir, "good")
	if _, talk, code := f.run(t, "", "vdi", "restore", "-s", "s", "--dir", dir, "--from", "bad", "x"); code != 1 || !strings.Contains(talk, "corrupted") {
		t.Errorf("restore of what is damaged: exit %d, %q", code, talk)
	}
	// Whose it is cannot be said any more, so it may be of any VDI.
	if _, talk, code := f.run(t, "", "vdi", "backup", "--verify", "--dir", dir, "good"); code != 1 || !strings.Contains(talk, "corrupted") {
		t.Errorf("verify: exit %d, %q", code, talk)
	}
	f.must(t, "", "vdi", "backup", "-s", "s", "--dir", dir, "bad") // made anew
	f.must(t, "", "vdi", "backup", "--verify", "--dir", dir, "bad")
}

// A VDI that was deleted and made again begins to number its snapshots anew, and
// tags are used again: the backup with the highest number was restored, of the
// VDI of before. With ids that are used again (format -R) its backups were
// overwritten.
func TestBackupsOfAVDIThatWasMadeAgain(t *testing.T) {
	f := newFixture(t, 1)
	dir, now := filepath.Join(f.dir, "store"), day
	f.backend.Now = func() time.Time { return now }
	var ids []string
	for _, data := range []string{"old", "new"} {
		f.must(t, "", "vdi", "create", "v", "1M")
		if data == "old" {
			f.must(t, "", "vdi", "snapshot", "-s", "other", "v") // so that it is number 2
		}
		f.must(t, data, "vdi", "write", "v")
		f.must(t, "", "vdi", "snapshot", "-s", "daily", "v")
		f.must(t, "", "vdi", "snapshot", "-s", "last", "v")
		for _, tag := range []string{"daily", "last"} {
			var r backupReport
			if err := json.Unmarshal([]byte(f.must(t, "", "vdi", "backup", "-s", tag, "--dir", dir, "-o", "json", "v")), &r); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, r.ID)
		}
		for _, s := range []string{"other", "daily", "last"} {
			f.run(t, "", "vdi", "delete", "-s", s, "v")
		}
		f.must(t, "", "vdi", "delete", "--purge", "v")
		now = now.Add(time.Hour)
	}
	f.must(t, "", "vdi", "restore", "-s", "daily", "--dir", dir, "--from", "v", "tagged")
	if got := f.backend.Data("tagged", "")[:3]; string(got) != "new" {
		t.Errorf("restored by its tag: %q", got)
	}
	for i, id := range ids {
		name, want := fmt.Sprint("id", i), []string{"old", "new"}[i/2]
		f.must(t, "", "vdi", "restore", "-s", id, "--dir", dir, "--from", "v", name)
		if got := f.backend.Data(name, "")[:3]; string(got) != want {
			t.Errorf("restored by its id %s: %q, want %q", id, got, want)
		}
	}
	f.must(t, "", "vdi", "backup", "--verify", "--dir", dir, "v")
}

var _ api.Backend = (*apitest.Backend)(nil)
