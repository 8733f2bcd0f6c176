package backup

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// TestDifference: laying the difference over a gives b, and it is minimal in
// sectors.
func TestDifference(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		n := r.IntN(8*Sector) + 1
		a := make([]byte, n)
		b := bytes.Clone(a)
		for range r.IntN(4) {
			b[r.IntN(n)] ^= 1
		}
		from, to := Difference(a, b)
		if from == to != bytes.Equal(a, b) || from%Sector != 0 || to%Sector != 0 && to != n {
			t.Fatalf("%d bytes: %d to %d, equal: %v", n, from, to, bytes.Equal(a, b))
		}
		if from < to && (equalSector(a, b, from) || equalSector(a, b, (to-1)/Sector*Sector)) {
			t.Fatalf("%d bytes: %d to %d has equal sectors at an end", n, from, to)
		}
		copy(a[from:to], b[from:to])
		if !bytes.Equal(a, b) {
			t.Fatal("the difference misses bytes")
		}
	}
}

func TestStreamGolden(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	if err := errors.Join(w.Write(Record{Index: 2, Offset: 512, Data: []byte("ab")}), w.Close()); err != nil {
		t.Fatal(err)
	}
	want := "\x01\x00\x00\x00\x92\x11\x92\x11" + "\x02\x00\x00\x00\x00\x02\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00ab" +
		"\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	sum := sha256.Sum256([]byte(want))
	original := len(want)
	if want += "sheepdog sha256\n" + string(sum[:]); b.String() != want {
		t.Fatalf("stream is %q", b.String())
	}
	for at := range want {
		bad := bytes.Clone(b.Bytes())
		bad[at] ^= 4
		r := NewReader(bytes.NewReader(bad), 4096)
		var err error
		for err == nil {
			_, err = r.Next()
		}
		if !errors.Is(err, ErrCorrupted) {
			t.Errorf("flipped at %d: %v", at, err)
		}
	}
	for cut := range len(want) {
		if cut == original {
			continue // the original's streams end here
		}
		r := NewReader(bytes.NewReader(b.Bytes()[:cut]), 4096)
		var err error
		for err == nil {
			_, err = r.Next()
		}
		if !errors.Is(err, ErrCorrupted) {
			t.Errorf("cut at %d: %v", cut, err)
		}
	}
}

// The index that marks the end is also that of the last object of the largest VDI:
// its record was written, and the stream could not be restored.
func TestLastPossibleObjectIsNotWrittenAsTheEnd(t *testing.T) {
	if err := NewWriter(io.Discard).Write(Record{Index: endIndex, Data: make([]byte, Sector)}); err == nil {
		t.Error("its record was written")
	}
}

// FuzzReader: any input is read as records within the limit, or refused.
func FuzzReader(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x92\x11\x92\x11\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("\x01\x00\x00\x00\x92\x11\x92\x11\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := NewReader(bytes.NewReader(data), 4096)
		for {
			rec, err := r.Next()
			if err == io.EOF || errors.Is(err, ErrCorrupted) {
				return
			}
			if err != nil || uint64(rec.Offset)+uint64(len(rec.Data)) > 4096 {
				t.Fatalf("%+v, %v", rec, err)
			}
		}
	})
}

func fixture(t *testing.T) (*Store, *Manifest) {
	t.Helper()
	s, err := Open(t.TempDir(), os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	m := &Manifest{Cluster: "0123456789abcdef", Name: "v", VID: "7c2b25", SnapshotID: 1, SizeBytes: 1 << 20, BlockSizeShift: 22, Copies: "3"}
	for i := range 4 {
		data := bytes.Repeat([]byte{byte(i % 2)}, 4096)
		sum, added, err := s.Put(data)
		if err != nil || added != (i < 2) {
			t.Fatalf("chunk %d: added %v, %v", i, added, err)
		}
		m.Chunks = append(m.Chunks, Chunk{Offset: uint64(i) * 8192, Length: 4096, Sum: sum})
	}
	if err := s.Save(m); err != nil {
		t.Fatal(err)
	}
	return s, m
}

// TestFlippedByte: a changed byte in any file of a store is found.
func TestFlippedByte(t *testing.T) {
	s, m := fixture(t)
	verify := func() error {
		list, bad, err := s.List()
		if err != nil || bad != nil {
			return errors.Join(bad, err)
		}
		for _, m := range list {
			if err := s.Verify(m); err != nil {
				return err
			}
		}
		return nil
	}
	if err := verify(); err != nil {
		t.Fatal(err)
	}
	files := []string{filepath.Join(s.dir, "backups", m.ID()+".json"), filepath.Join(s.dir, chunkName(m.Chunks[0].Sum)), filepath.Join(s.dir, chunkName(m.Chunks[1].Sum))}
	for _, path := range files {
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; at < len(whole); at += 1 + len(whole)/97 {
			bad := bytes.Clone(whole)
			bad[at] ^= 0x10
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if verify() == nil {
				t.Errorf("%s: a flipped byte at %d is not noticed", filepath.Base(path), at)
			}
		}
		if err := os.WriteFile(path, whole[:len(whole)-1], 0o600); err != nil {
			t.Fatal(err)
		}
		if !errors.Is(verify(), ErrCorrupted) {
			t.Errorf("%s: a lost byte is not noticed", filepath.Base(path))
		}
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(files[1]); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(verify(), ErrCorrupted) {
		t.Error("a lost chunk is not noticed")
	}
}
