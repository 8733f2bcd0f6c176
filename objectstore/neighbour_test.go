package objectstore

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"sheepdog"
	"sheepdog/objectstore/storetest"
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

// neighbour takes what is free but left bytes.
func neighbour(t *testing.T, dir string, left int64) (leave func()) {
	t.Helper()
	name := filepath.Join(dir, "neighbour")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	// The store takes room meanwhile, so what was free may be too much by now.
	at, end := int64(0), int64(st.Bavail)*st.Bsize-left
	for n := end; n >= st.Bsize && at < end; n = min(n, end-at) {
		switch err := unix.Fallocate(int(f.Fd()), 0, at, n); {
		case err == nil:
			at += n
		case errors.Is(err, unix.ENOSPC):
			n = n / 2 / st.Bsize * st.Bsize
		default:
			t.Fatal(err)
		}
	}
	return func() {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}

// A neighbour that fills the file system took the daemon down: metadata are
// written through memory maps of sparse files. With nothing free the store
// reads, flushes, keeps facts, deletes, closes and opens; writes are refused
// with ErrNoSpace, and go on when the neighbour has left.
func TestNeighbourFillsFileSystem(t *testing.T) {
	dir := smallFS(t, 400<<20)
	u := openDisk(t, Options{Meta: filepath.Join(dir, "sheep")})
	big := storetest.Fill(1, 256)
	for i := range sheepdog.Index(40) {
		mustWrite(t, u.d, dataOp(i, 1, 0, big, 1))
		mustWrite(t, u.d, dataOp(i, 2, 7, storetest.Fill(uint64(i)+9, 3), 1))
	}
	leave := neighbour(t, dir, 0)
	check := func(when string, layers ...sheepdog.LayerID) {
		t.Helper()
		for i := range sheepdog.Index(40) {
			for _, l := range layers {
				want, at, n := big, sheepdog.BlockNo(0), 256
				if l == 2 {
					want, at, n = storetest.Fill(uint64(i)+9, 3), 7, 3
				}
				if got, err := readBlocks(t, u.d, i, l, at, n); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("%s: object %d layer %d: %v", when, i, l, err)
				}
			}
		}
	}
	refused := func(when string) {
		t.Helper()
		for _, n := range []int{256, 1} {
			var err error
			for seq := uint64(1); err == nil && seq < 100; seq++ { // the log has some room
				err = writeOne(u.d, dataOp(50, 3, 0, storetest.Fill(5, n), seq))
			}
			if !errors.Is(err, sheepdog.ErrNoSpace) {
				t.Fatalf("%s: writes of %d blocks to a full store: %v", when, n, err)
			}
		}
	}
	refused("full")
	if err := u.d.Flush(); err != nil {
		t.Fatal(err)
	}
	check("full", 1, 2)
	for i := range 200 {
		if err := u.d.Put("fact", []byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := u.d.Close(); err != nil {
		t.Fatal(err)
	}
	u.open(t)
	check("full and opened again", 1, 2)
	refused("full and opened again")
	if err := u.d.DropLayer(1); err != nil {
		t.Fatal(err)
	}
	if err := u.d.destage(true); err != nil {
		t.Fatal(err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	if got := int64(st.Bavail) * st.Bsize; got < 20<<20 {
		t.Errorf("only %d MiB came back of 40 MiB that were deleted", got>>20)
	}
	check("after the deletion", 2)
	leave()
	mustWrite(t, u.d, dataOp(50, 3, 0, big, 1000))
	if err := u.d.destage(true); err != nil {
		t.Fatal(err)
	}
	check("after the neighbour left", 2)
}

// Metadata on a file system of their own that somebody fills: commits go on as
// long as they need no space, so that deletions do, and none ends the process.
func TestNeighbourFillsMetadata(t *testing.T) {
	dir, disk := smallFS(t, 160<<20), t.TempDir()
	u := openDisk(t, Options{Meta: filepath.Join(dir, "sheep"), Disks: []string{disk}, LogBytes: 16 << 20, NoSync: true})
	for i := range sheepdog.Index(200) {
		mustWrite(t, u.d, dataOp(i, 1, 0, storetest.Fill(1, 16), 1))
	}
	if err := u.d.destage(true); err != nil {
		t.Fatal(err)
	}
	neighbour(t, dir, 0)
	before := allocated(t, disk)
	if err := u.d.DropLayer(1); err != nil {
		t.Fatal(err)
	}
	if err := u.d.destage(true); err != nil {
		t.Fatal(err)
	}
	if used := u.d.volumes.usedBlocks(); used != 0 {
		t.Errorf("%d blocks are in use after the deletion; the disk had %d MiB", used, before>>20)
	}
	var err error
	for i := range 200_000 { // until nothing goes any more
		if err = u.d.Put(fmt.Sprint("fact ", i%100), make([]byte, 4096)); err != nil {
			break
		}
	}
	if !errors.Is(err, sheepdog.ErrNoSpace) {
		t.Errorf("metadata on a full file system: %v", err)
	}
	if v, err := u.d.Get("fact 1"); err != nil || len(v) != 4096 {
		t.Errorf("a fact that was kept: %d bytes, %v", len(v), err)
	}
}
