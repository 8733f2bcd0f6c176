package objectstore

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"sheepdog"
)

// An entry with any flipped bit, or under another key, is no entry.
func TestSealedEntries(t *testing.T) {
	key := chunkKey(objectKey{sheepdog.ObjectID{Family: 7, Index: 8}, 9}, 10)
	plain := sampleChunk().encode()
	stored := seal(nil, key, plain)
	if got, err := unseal(key, bytes.Clone(stored)); err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("unsealed %x, %v, want %x", got, err, plain)
	}
	for bit := range 8 * len(stored) {
		b := bytes.Clone(stored)
		b[bit/8] ^= 1 << (bit % 8)
		if got, err := unseal(key, b); err == nil && new(chunk).decode(got) == nil {
			t.Errorf("bit %d is flipped, and it is a chunk", bit)
		}
	}
	for bit := range 8 * len(key) {
		k := bytes.Clone(key)
		k[bit/8] ^= 1 << (bit % 8)
		if _, err := unseal(k, bytes.Clone(stored)); !errors.Is(err, sheepdog.ErrIO) {
			t.Errorf("bit %d of the key is flipped: %v, want %v", bit, err, sheepdog.ErrIO)
		}
	}
}

// TestEntriesOfReleasesThatDidNotSeal can be read, and are sealed when they change.
func TestEntriesOfReleasesThatDidNotSeal(t *testing.T) {
	raw := newFakeMeta()
	s := sealed{raw, func(err error) { t.Error(err) }}
	old, key := sampleChunk().encode(), chunkKey(objectKey{}, 1)
	if err := raw.Commit([]change{{key, old}}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got, err := s.Get(key); err != nil || !bytes.Equal(got, old) {
			t.Fatalf("Get = %x, %v, want %x", got, err, old)
		}
		var seen [][]byte
		err := s.Scan(scan{prefix: []byte{keyChunk}}, func(_, value []byte) (bool, error) {
			seen = append(seen, bytes.Clone(value))
			return true, nil
		})
		if err != nil || !reflect.DeepEqual(seen, [][]byte{old}) {
			t.Fatalf("Scan = %x, %v", seen, err)
		}
		if err := s.Commit([]change{{key, old}}); err != nil {
			t.Fatal(err)
		}
	}
	if bytes.Equal(raw.values[string(key)], old) {
		t.Error("the entry is not sealed")
	}
}

// TestDamagedMapEndsTheStore: while sheep ran, flipped bits in Badger's tables became
// blocks that read as zeros, from a replica that counted as complete.
func TestDamagedMapEndsTheStore(t *testing.T) {
	for kind, blocks := range map[byte]uint32{keyObject: 1, keyChunk: headBlocks + 1} {
		raw, told := newFakeMeta(), make(chan error, 1)
		opts := Options{Meta: t.TempDir(), Logger: quiet(), openMeta: raw.open, OnFailed: func(err error) { told <- err }}
		d, err := Open(opts)
		if err != nil {
			t.Fatal(err)
		}
		op := sheepdog.Op{Object: sheepdog.ObjectID{Family: 1}, Layer: 1, Count: blocks, Data: bytes.Repeat([]byte{5}, int(blocks)*blockSize), Stamp: sheepdog.Stamp{Token: 1, Seq: 1}}
		var errs [1]error
		if d.Write([]sheepdog.Op{op}, errs[:]); errs[0] != nil {
			t.Fatal(errs[0])
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if d, err = Open(opts); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(d.Abandon)
		flipped := 0
		for key, value := range raw.values {
			if key[0] == kind {
				value[len(value)/2] ^= 16
				flipped++
			}
		}
		if flipped != 1 {
			t.Fatalf("%d entries of %c, want one", flipped, kind)
		}
		err = d.Read(op.Object, []sheepdog.LayerID{op.Layer}, 0, 1, make([]byte, blockSize), make([]sheepdog.BlockState, 1))
		if !errors.Is(err, sheepdog.ErrIO) {
			t.Errorf("read with a damaged entry of %c: %v, want %v", kind, err, sheepdog.ErrIO)
		}
		if err := <-told; !errors.Is(err, errBadCRC) {
			t.Errorf("the owner was told %v", err)
		}
	}
}
