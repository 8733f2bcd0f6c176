package objectstore

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"sheepdog"
)

func TestWriteZeros(t *testing.T) {
	f, err := hostFiles{}.Open(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size, from, to = 4 * zeroPiece, 3 * blockSize, 2*zeroPiece + blockSize
	want := bytes.Repeat([]byte{7}, size)
	if _, err := f.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	if reserved, err := writeZeros(f, from, to); err != nil || !reserved {
		t.Fatal(reserved, err)
	}
	clear(want[from:to])
	got := make([]byte, size)
	if err := readFull(f, got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the range is not zeros among what was there (%v)", err)
	}
}

// A log segment has its space before the first of it is written: a file system that has
// no room for all of it says so at once.
func TestReserve(t *testing.T) {
	f, err := hostFiles{}.Open(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const n = 1 << 20
	if ok, err := f.(reserver).Reserve(n); err != nil || !ok {
		t.Fatal(ok, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.(hostFile).fd), &st); err != nil {
		t.Fatal(err)
	}
	if st.Size != n || st.Blocks*512 < n {
		t.Errorf("the file is %d bytes long and takes %d, want %d", st.Size, st.Blocks*512, n)
	}
	got := make([]byte, n)
	if err := readFull(f, got, 0); err != nil || !bytes.Equal(got, make([]byte, n)) {
		t.Errorf("it does not read as zeros (%v)", err)
	}
	if _, err := f.(reserver).Reserve(1 << 60); !errors.Is(diskError("make", err), sheepdog.ErrNoSpace) {
		t.Errorf("an exbibyte: %v, want %v", err, sheepdog.ErrNoSpace)
	}
}
