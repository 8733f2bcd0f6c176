package storage

import (
	"syscall"
	"testing"
)

// Holes of an image took space on the host while it was converted: a sparse upload of an
// image of a hundred gigabytes with little in it could fill the host's file system.
func TestHolesOfAnImageTakeNoSpaceOfTheHost(t *testing.T) {
	c, err := newConversion(&Driver{spool: t.TempDir()}, Volume{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.abort()
	zeros, data := make([]byte, 1<<20), []byte("data")
	for i := range 64 {
		for _, p := range [][]byte{data[:i%5], zeros} {
			if _, err := c.Write(p); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := c.complete(); err != nil {
		t.Fatal(err)
	}
	info, err := c.file.Stat()
	if err != nil || info.Size() != c.size {
		t.Fatalf("%d bytes of %d, %v", info.Size(), c.size, err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Blocks*512 > 1<<20 {
		t.Errorf("the file takes %d bytes", st.Blocks*512)
	}
	got := make([]byte, 5)
	if _, err := c.file.ReadAt(got, 1<<20); err != nil || string(got) != "d\x00\x00\x00\x00" {
		t.Errorf("%q %v", got, err)
	}
}
