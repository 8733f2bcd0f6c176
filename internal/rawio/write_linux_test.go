//go:build linux && (amd64 || arm64) && !race

package rawio

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func tempFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// What a Writer writes is what WriteAt would have written.
func TestWriterWritesAsWriteAtDoes(t *testing.T) {
	quick, plain := tempFile(t), tempFile(t)
	var w Writer
	for i, n := range []int{1, 4096, 8192, 70000, writeLimit, writeLimit + 1, 0} {
		p, off := bytes.Repeat([]byte{byte(i + 1)}, n), int64(i)*5000
		done := w.TryWriteAt(quick.Fd(), p, off)
		if _, err := quick.WriteAt(p[done:], off+int64(done)); err != nil {
			t.Fatal(err)
		}
		if _, err := plain.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
	}
	a, err := os.ReadFile(quick.Name())
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(plain.Name())
	if err != nil || !bytes.Equal(a, b) {
		t.Errorf("the files differ (%v)", err)
	}
}

// Pieces leave what one write of them all would leave.
func TestWriterGathers(t *testing.T) {
	f := tempFile(t)
	var w Writer
	piece := func(n int, b byte) []byte { return bytes.Repeat([]byte{b}, n) }
	for name, pieces := range map[string][][]byte{
		"none":  nil,
		"empty": {nil, {}},
		"one":   {piece(5, 1)},
		"some":  {piece(100, 1), piece(3996, 2), nil, piece(4096, 3), piece(8192, 4)},
		"much":  {piece(writeLimit, 1), piece(1, 2)},
		"many":  slices.Repeat([][]byte{piece(2, 7)}, maxPieces+1),
	} {
		const off = 3000
		want := bytes.Join(pieces, nil)
		if err := f.Truncate(0); err != nil {
			t.Fatal(err)
		}
		n := w.TryGatherAt(f.Fd(), pieces, off)
		if _, err := f.WriteAt(want[n:], off+int64(n)); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want))
		if _, err := f.ReadAt(got, off); len(want) > 0 && err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes by the short way, and the file has others (%v)", name, n, err)
		}
		if short := len(want) <= writeLimit && len(pieces) <= maxPieces; short != (n == len(want)) {
			t.Errorf("%s: %d of %d bytes went the short way", name, n, len(want))
		}
		for _, v := range w.iov {
			if v.Base != nil {
				t.Fatalf("%s: the memory of a caller is kept", name)
			}
		}
	}
}

func TestWriterLeavesErrorsToItsCaller(t *testing.T) {
	f := tempFile(t)
	r, err := os.Open(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var w Writer
	if n := w.TryWriteAt(r.Fd(), []byte{1}, 0); n != 0 {
		t.Errorf("%d bytes written to a file that is open for reading", n)
	}
}

// A write that the host made wait keeps the next ones off the short way, for longer
// after each.
func TestWriterRestsAfterAStall(t *testing.T) {
	var w Writer
	now := time.Now()
	took := func(d time.Duration) { w.took(now, now.Add(d)); now = now.Add(d) }
	took(stalled - 1)
	if w.until.After(now) {
		t.Error("it rests after a write that was not long")
	}
	for _, rest := range []time.Duration{minRest, 2 * minRest, 4 * minRest} {
		took(stalled)
		if got := w.until.Sub(now); got != rest {
			t.Errorf("it rests %v, want %v", got, rest)
		}
		now = w.until
	}
	for range 20 {
		took(stalled)
		now = w.until
	}
	if w.rest != maxRest {
		t.Errorf("it rests %v in the end, want %v", w.rest, maxRest)
	}
	now = now.Add(maxRest + 1)
	took(0)
	took(stalled)
	if w.rest != minRest {
		t.Errorf("it rests %v after a good time, want %v", w.rest, minRest)
	}
	f := tempFile(t)
	w.until = time.Now().Add(time.Hour)
	if n := w.TryWriteAt(f.Fd(), []byte{1}, 0); n != 0 {
		t.Error("it writes while it rests")
	}
}

// A write is begun without the scheduler only if it is short, and not soon after a stall.
func TestTryBeginWrite(t *testing.T) {
	f := tempFile(t)
	var w Writer
	if _, err := f.Write(bytes.Repeat([]byte{1}, 8192)); err != nil {
		t.Fatal(err)
	}
	if !w.TryBeginWrite(f.Fd(), 4096, 4096) {
		t.Error("a short one is left to the caller")
	}
	if w.TryBeginWrite(f.Fd(), 0, beginLimit+1) {
		t.Error("a long one is begun")
	}
	w.took(time.Now().Add(-2*stalled), time.Now())
	if w.TryBeginWrite(f.Fd(), 0, 4096) {
		t.Error("one is begun after a stall")
	}
}
