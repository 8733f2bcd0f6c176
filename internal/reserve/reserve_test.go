package reserve

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"sheepdog"
)

// smallFS mounts a file system in memory that is full after size bytes.
func smallFS(t *testing.T, size int64) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("cannot mount a small file system (needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func fill(t *testing.T, name string, n int64) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n == 0 {
		return
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, n); err != nil {
		t.Fatal(err)
	}
}

// A commit passes while the file that it goes to has its blocks; beyond that
// only with room for what follows, for which the ballast is given up first.
func TestReserve(t *testing.T) {
	dir := smallFS(t, 64<<20)
	o := Options{Dir: filepath.Join(dir, "db"), Table: 4 << 20, Need: 8 << 20, Ballast: 10 << 20}
	r, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	table := func(no int) string { return filepath.Join(o.Dir, fmt.Sprintf("%05d.mem", no)) }
	fill(t, table(1), 0)
	r.Opened()
	if !r.ballast || !r.mapped {
		t.Fatalf("ballast %v, table allocated %v", r.ballast, r.mapped)
	}
	left, err := free(dir)
	if err != nil {
		t.Fatal(err)
	}
	hog := filepath.Join(dir, "hog")
	fill(t, hog, left)
	admit := func(bytes int) error { return r.Admit(1, bytes) }
	for range 2 {
		if err := admit(1 << 20); err != nil { // 2 of 2.4 MiB
			t.Fatal(err)
		}
	}
	if !r.ballast {
		t.Fatal("the ballast was given up for a commit that needed no room")
	}
	if err := admit(1 << 20); err != nil || r.ballast {
		t.Fatalf("a commit that may begin another table: %v, ballast %v", err, r.ballast)
	}
	left, err = free(dir)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, filepath.Join(dir, "hog2"), left)
	if err := admit(100 << 10); !errors.Is(err, sheepdog.ErrNoSpace) {
		t.Fatalf("a commit without room: %v", err)
	}
	if err := r.AdmitVital(1, 100); err != nil { // 3.0 of 3.2 MiB
		t.Fatalf("a vital commit: %v", err)
	}
	if err := r.Closing(); !errors.Is(err, sheepdog.ErrNoSpace) {
		t.Fatalf("closing without room: %v", err)
	}
	if err := os.Remove(hog); err != nil {
		t.Fatal(err)
	}
	fill(t, table(2), 0)
	if err := admit(100 << 10); err != nil || !r.mapped || !r.ballast || r.table != 2 {
		t.Fatalf("after the neighbour left: %v, table %d allocated %v, ballast %v", err, r.table, r.mapped, r.ballast)
	}
}

// What an earlier process left unwritten needs room at the start.
func TestOpenWithoutRoom(t *testing.T) {
	dir := smallFS(t, 8<<20)
	fill(t, filepath.Join(dir, "00001.mem"), 4096)
	left, err := free(dir)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, filepath.Join(dir, "hog"), left-1<<20)
	if _, err := Open(Options{Dir: dir, Table: 4 << 20, Need: 8 << 20}); !errors.Is(err, sheepdog.ErrNoSpace) {
		t.Fatalf("open: %v", err)
	}
}
