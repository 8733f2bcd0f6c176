//go:build linux && (amd64 || arm64) && !race

package rawio

import (
	"bytes"
	"os"
	"path/filepath"
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
