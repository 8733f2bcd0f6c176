package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// guest is the contents of a disk: data, zeros and holes mixed.
func guest(size int) []byte {
	b := make([]byte, size)
	r := rand.New(rand.NewPCG(1, 2))
	for off := 0; off < size; off += 50_000 {
		if r.IntN(3) == 0 {
			for i := off; i < min(off+70_000, size); i++ {
				b[i] = byte(r.IntN(4)) // compresses
			}
		}
	}
	return b
}

// images made by QEMU in all the ways that are read.
func TestImagesOfQEMU(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("SKIPPED: qemu-img is not installed (apt-get install qemu-utils)")
	}
	dir := t.TempDir()
	raw := filepath.Join(dir, "raw")
	want := guest(5<<20 + 512)
	if err := os.WriteFile(raw, want, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"-o", "compat=1.1"}, {"-o", "compat=0.10"}, {"-c"}, {"-o", "cluster_size=512"}, {"-c", "-o", "cluster_size=4096"}, {"-o", "cluster_size=2M"},
	} {
		img := filepath.Join(dir, "img")
		out, err := exec.Command("qemu-img", append(append([]string{"convert", "-O", "qcow2"}, args...), raw, img)...).CombinedOutput()
		if err != nil {
			t.Fatalf("qemu-img %v: %v %s", args, err, out)
		}
		b, err := os.ReadFile(img)
		if err != nil {
			t.Fatal(err)
		}
		q, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Errorf("%v: %v", args, err)
			continue
		}
		got, err := io.ReadAll(io.NewSectionReader(q, 0, int64(q.Size())))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v: contents differ (%d bytes, want %d; %v)", args, len(got), len(want), err)
		}
		checkCut(t, b)
	}
	for _, args := range [][]string{{"-o", "compression_type=zstd", "-c"}, {"-o", "extended_l2=on"}} {
		img := filepath.Join(dir, "img")
		if out, err := exec.Command("qemu-img", append(append([]string{"convert", "-O", "qcow2"}, args...), raw, img)...).CombinedOutput(); err != nil {
			t.Logf("this qemu-img makes no images with %v: %s", args, out)
			continue
		}
		b, _ := os.ReadFile(img)
		if _, err := Open(bytes.NewReader(b), int64(len(b))); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%v: error %v", args, err)
		}
	}
}

// checkCut reads an image of which the second half is missing, as when it was
// uploaded in pieces: that must not give zeros for data.
func checkCut(t *testing.T, b []byte) {
	t.Helper()
	b = b[:len(b)/2]
	q, err := Open(bytes.NewReader(b), int64(len(b)))
	if err == nil {
		_, err = io.Copy(io.Discard, io.NewSectionReader(q, 0, int64(q.Size())))
	}
	if !errors.Is(err, ErrCorrupt) {
		t.Errorf("half an image: error %v", err)
	}
}

// sample is the header of an empty image of one cluster.
func sample() []byte {
	b := make([]byte, 1<<16)
	copy(b, Magic)
	put := func(at int, n uint32) { binary.BigEndian.PutUint32(b[at:], n) }
	put(4, 2)
	put(20, 16)
	put(28, 1<<20)
	put(36, 1)
	put(44, 512)
	return b
}

func TestOpenRefuses(t *testing.T) {
	if q, err := Open(bytes.NewReader(sample()), 1<<16); err != nil || q.Size() != 1<<20 {
		t.Fatalf("sample: %v", err)
	}
	for name, c := range map[string]struct {
		at    int
		value uint32
		want  error
	}{
		"magic": {0, 0, ErrCorrupt}, "version": {4, 4, ErrUnsupported}, "backing file": {12, 99, ErrUnsupported}, "encryption": {32, 1, ErrUnsupported},
		"clusters": {20, 40, ErrCorrupt}, "small clusters": {20, 3, ErrCorrupt}, "size": {24, 1 << 30, ErrUnsupported}, "first table": {36, 0, ErrCorrupt},
		"table beyond the end": {44, 1 << 30, ErrCorrupt},
	} {
		b := sample()
		binary.BigEndian.PutUint32(b[c.at:], c.value)
		if _, err := Open(bytes.NewReader(b), int64(len(b))); !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", name, err, c.want)
		}
	}
	for _, n := range []int{0, 4, 71} {
		if _, err := Open(bytes.NewReader(sample()), int64(n)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%d bytes: error %v", n, err)
		}
	}
	if Is([]byte("QFI")) || !Is([]byte(Magic+"x")) {
		t.Error("Is")
	}
}

func FuzzImage(f *testing.F) {
	f.Add(sample())
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		buf := make([]byte, 3000)
		for _, off := range []int64{0, 511, int64(q.Size()) - 1000} {
			_, _ = q.ReadAt(buf, off)
		}
	})
}
