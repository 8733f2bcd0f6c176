package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// damage flips a bit in every chunk of a store whose first byte is first, and says in
// how many.
func damage(t *testing.T, dir string, first byte) (n int) {
	t.Helper()
	chunks, err := filepath.Glob(filepath.Join(dir, "chunks", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range chunks {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if b[0] != first {
			continue
		}
		b[len(b)/2] ^= 1
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

// TestDamagedChunkIsWrittenAgain: a chunk in which a bit had flipped had its size, so
// every later backup took it for what it had been, and nothing could write it again.
func TestDamagedChunkIsWrittenAgain(t *testing.T) {
	f := newFixture(t, 1)
	dir := filepath.Join(f.dir, "store")
	f.must(t, "", "vdi", "create", "v", "12M")
	f.must(t, strings.Repeat("a", 6<<20), "vdi", "write", "v")
	f.must(t, "", "vdi", "snapshot", "-s", "one", "v")
	f.must(t, strings.Repeat("b", 4<<20), "vdi", "write", "v")
	f.must(t, "", "vdi", "snapshot", "-s", "two", "v")
	two := f.backend.Data("v", "two")
	for _, tag := range []string{"one", "two"} {
		f.must(t, "", "vdi", "backup", "-s", tag, "--dir", dir, "v")
	}
	verify := []string{"vdi", "backup", "--verify", "--dir", dir, "v"}
	repair := []string{"vdi", "backup", "--repair", "--dir", dir, "v"}
	f.must(t, "", verify...)
	if out := f.must(t, "", repair...); out != "2 backups of v are good\n" {
		t.Errorf("repair of what is whole: %q", out)
	}
	if damage(t, dir, 'a') != 2 || damage(t, dir, 'b') != 1 {
		t.Fatal("the pieces are not those that the test is about")
	}
	_, talk, code := f.run(t, "", verify...)
	for _, want := range []string{"corrupted", "3 chunks", "dog vdi backup --repair"} {
		if code != 1 || !strings.Contains(talk, want) {
			t.Errorf("verify: exit %d, %q without %q", code, talk, want)
		}
	}
	if out := f.must(t, "", repair...); out != "2 backups of v are good, 3 chunks were written again\n" {
		t.Errorf("repair: %q", out)
	}
	f.must(t, "", verify...)
	f.must(t, "", "vdi", "restore", "-s", "two", "--dir", dir, "--from", "v", "again")
	if !bytes.Equal(f.backend.Data("again", ""), two) {
		t.Error("the restored VDI is not what the snapshot was")
	}

	// The first two pieces of a are nowhere but in the first snapshot, the last one is
	// in what came later too.
	f.must(t, "", "vdi", "delete", "-s", "one", "v")
	damage(t, dir, 'a')
	_, talk, code = f.run(t, "", repair...)
	for _, want := range []string{"corrupted", "1 chunk ", "1 chunk was written again"} {
		if code != 1 || !strings.Contains(talk, want) {
			t.Errorf("repair without the snapshot: exit %d, %q without %q", code, talk, want)
		}
	}
	f.must(t, "", "vdi", "restore", "-s", "two", "--dir", dir, "--from", "v", "third")
	if !bytes.Equal(f.backend.Data("third", ""), two) {
		t.Error("the backup of which all was there is not what the snapshot was")
	}
	if _, talk, code := f.run(t, "", "vdi", "backup", "--repair", "v"); code != 64 || !strings.Contains(talk, "--dir") {
		t.Errorf("repair of nothing: exit %d, %q", code, talk)
	}
}

// The same bytes at two places of a VDI are one chunk: a place where they still are
// mends it, also if another backup has them elsewhere.
func TestDamagedChunkIsFoundElsewhere(t *testing.T) {
	f := newFixture(t, 1)
	dir := filepath.Join(f.dir, "store")
	f.must(t, "", "vdi", "create", "v", "12M")
	f.must(t, strings.Repeat("a", 4<<20), "vdi", "write", "v")
	f.must(t, "", "vdi", "snapshot", "-s", "one", "v")
	f.must(t, strings.Repeat("b", 4<<20), "vdi", "write", "v")
	f.must(t, strings.Repeat("a", 4<<20), "vdi", "write", "v", "4M")
	f.must(t, "", "vdi", "snapshot", "-s", "two", "v")
	for _, tag := range []string{"one", "two"} {
		f.must(t, "", "vdi", "backup", "-s", tag, "--dir", dir, "v")
	}
	f.must(t, "", "vdi", "delete", "-s", "one", "v")
	if damage(t, dir, 'a') != 1 {
		t.Fatal("the pieces are not those that the test is about")
	}
	if out := f.must(t, "", "vdi", "backup", "--repair", "--dir", dir, "v"); out != "2 backups of v are good, 1 chunk was written again\n" {
		t.Errorf("%q", out)
	}
}

// A chunk that is missing is made again as well, and the last one of a VDI, which is
// shorter, too.
func TestLostChunkIsWrittenAgain(t *testing.T) {
	f := newFixture(t, 1)
	dir := filepath.Join(f.dir, "store")
	_, two := twoSnapshots(t, f)
	f.must(t, "", "vdi", "backup", "-s", "two", "--dir", dir, "v")
	if err := os.RemoveAll(filepath.Join(dir, "chunks")); err != nil {
		t.Fatal(err)
	}
	f.must(t, "", "vdi", "resize", "v", "16M") // so that more follows
	f.must(t, strings.Repeat("z", 4<<20), "vdi", "write", "v", "8M")
	f.must(t, "", "vdi", "backup", "--repair", "--dir", dir, "v")
	f.must(t, "", "vdi", "restore", "-s", "two", "--dir", dir, "--from", "v", "again")
	if !bytes.Equal(f.backend.Data("again", ""), two) {
		t.Error("the restored VDI is not what the snapshot was")
	}
}
