//go:build linux && (amd64 || arm64)

package aio

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"sheepdog/internal/hugepage"
)

func newQueue(t *testing.T, depth int) *Queue {
	t.Helper()
	q, err := New(depth)
	if err != nil {
		t.Skip("this host has no asynchronous writes:", err)
	}
	return q
}

// openDirect opens a file past the host's memory, and skips the test where that cannot be.
func openDirect(t *testing.T, flags int) (*os.File, syscall.RawConn) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "f"), flags|os.O_CREATE|syscall.O_DIRECT, 0o600)
	if errors.Is(err, syscall.EINVAL) {
		t.Skip("no direct writes on the file system of the test:", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return f, raw
}

// Writes from many goroutines, in any order, make the file that WriteAt would make.
func TestWriteIsWriteAt(t *testing.T) {
	const pieces, piece = 64, 64 << 10
	want := hugepage.Alloc(pieces * piece)[0]
	rand.NewChaCha8([32]byte{1}).Read(want)
	f, raw := openDirect(t, os.O_RDWR)
	q := newQueue(t, pieces)
	var all sync.WaitGroup
	for _, i := range rand.Perm(pieces) {
		all.Go(func() {
			at := i * piece
			if n, err := q.Write(raw, want[at:at+piece], int64(at)); n != piece || err != nil {
				t.Errorf("piece %d: %d bytes were written (%v)", i, n, err)
			}
		})
	}
	all.Wait()
	if got, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the file has %d other bytes than were written (%v)", len(got), err)
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
}

// A write that fails tells why, whether the host refuses it or it fails later, and takes
// nothing away from the next one.
func TestWriteFails(t *testing.T) {
	p := hugepage.Alloc(1 << 20)[0]
	f, raw := openDirect(t, os.O_RDWR)
	closed, rawClosed := openDirect(t, os.O_RDWR)
	closed.Close()
	_, readOnly := openDirect(t, os.O_RDONLY)
	q := newQueue(t, 1)
	for _, c := range []struct {
		name string
		f    syscall.RawConn
		p    []byte
		off  int64
		want error
	}{
		{"from within a sector of memory", raw, p[1:4097], 0, syscall.EINVAL},
		{"to within a sector", raw, p[:4096], 1, syscall.EINVAL},
		{"before the file", raw, p[:4096], -4096, syscall.EINVAL},
		{"to a file that is only read", readOnly, p[:4096], 0, syscall.EBADF},
		{"to a file that is closed", rawClosed, p[:4096], 0, nil}, // any
	} {
		if n, err := q.Write(c.f, c.p, c.off); n != 0 || err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("a write %s: %d bytes and %v, want %v", c.name, n, err, c.want)
		}
		if n, err := q.Write(raw, p[:4096], 4096); n != 4096 || err != nil {
			t.Errorf("a good write after one %s: %d bytes (%v)", c.name, n, err)
		}
	}
	if n, err := q.Write(raw, nil, 0); n != 0 || err != nil {
		t.Errorf("nothing was written as %d bytes (%v)", n, err)
	}
	if st, err := f.Stat(); err != nil || st.Size() != 8192 {
		t.Errorf("the file has %d bytes (%v)", st.Size(), err)
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
}

// What the file system does not take is told when it is known, as by WriteAt.
func TestWriteBeyondTheLimit(t *testing.T) {
	_, raw := openDirect(t, os.O_RDWR)
	q := newQueue(t, 2)
	p := hugepage.Alloc(1 << 20)[0]
	if n, err := q.Write(raw, p, 1<<62); n != 0 || !errors.Is(err, syscall.EFBIG) {
		t.Errorf("a write beyond the longest file: %d bytes (%v)", n, err)
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
}

// As many writes as may be are on their way: the next is not made to wait.
func TestFullQueueRefuses(t *testing.T) {
	_, raw := openDirect(t, os.O_RDWR)
	q := newQueue(t, 2)
	p := hugepage.Alloc(1 << 20)[0]
	held := []*slot{<-q.free, <-q.free}
	if n, err := q.Write(raw, p, 0); n != 0 || err != ErrFull {
		t.Errorf("a write too many: %d bytes (%v)", n, err)
	}
	q.free <- held[0]
	if n, err := q.Write(raw, p, 0); n != len(p) || err != nil {
		t.Errorf("with room again: %d bytes (%v)", n, err)
	}
	q.free <- held[1]
	if err := q.Close(); err != nil {
		t.Error(err)
	}
}

func BenchmarkWrite1M(b *testing.B) {
	f, err := os.OpenFile(filepath.Join(b.TempDir(), "f"), os.O_RDWR|os.O_CREATE|syscall.O_DIRECT, 0o600)
	if err != nil {
		b.Skip(err)
	}
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		b.Fatal(err)
	}
	q, err := New(8)
	if err != nil {
		b.Skip(err)
	}
	defer q.Close()
	p := hugepage.Alloc(1 << 20)[0]
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := q.Write(raw, p, int64(i%256)<<20); err != nil {
			b.Fatal(err)
		}
	}
}
