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
	for kind, blocks := range map[byte]uint32{keyChunk: headBlocks + 1} {
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

// Bug: a map in the header of an object that was malformed though its checksum was
// right, as entries of releases that did not seal can be, ended the process at the next
// destage, and again after each start.
func TestMalformedMapIsAnErrorOfItsObject(t *testing.T) {
	for name, far := range map[string]int{"in the header": 1, "in chunks": headBlocks + 1} {
		t.Run(name, func(t *testing.T) {
			raw := newFakeMeta()
			u := openDisk(t, Options{openMeta: raw.open})
			data := bytes.Repeat([]byte{5}, far*blockSize)
			mustWrite(t, u.d, dataOp(0, 1, 0, data[:blockSize], 1))
			mustWrite(t, u.d, dataOp(0, 1, chunkBlocks, data, 2)) // another chunk
			mustWrite(t, u.d, dataOp(1, 1, 0, data, 3))
			u.Reopen(t)
			spoil(t, u.d.meta, chunkKey(objectKey{sheepdog.ObjectID{Family: 1}, 1}, 1), far > headBlocks)
			if err := writeOne(u.d, dataOp(0, 1, chunkBlocks, data, 4)); !errors.Is(err, sheepdog.ErrIO) {
				t.Errorf("a write to where the map is malformed: %v, want %v", err, sheepdog.ErrIO)
			}
			if _, err := readBlocks(t, u.d, 0, 1, chunkBlocks, 1); !errors.Is(err, sheepdog.ErrIO) {
				t.Errorf("a read of that: %v, want %v", err, sheepdog.ErrIO)
			}
			// What is beside it may be written or not; it hurts nobody.
			if err := writeOne(u.d, dataOp(0, 1, 0, data[:blockSize], 5)); err != nil && !errors.Is(err, sheepdog.ErrIO) {
				t.Error(err)
			}
			mustWrite(t, u.d, dataOp(1, 1, 0, data, 6))
			if err := u.d.destage(true); err != nil {
				t.Errorf("destage: %v", err)
			}
			if got, err := readBlocks(t, u.d, 1, 1, 0, far); err != nil || !bytes.Equal(got, data) {
				t.Errorf("another object: %v", err)
			}
		})
	}
}

// Bug: a malformed map could not be got rid of. Repairs were written through it, a drop of
// its object or layer read it first, and after a crash no store with one could be opened.
func TestObjectWithAMalformedMapCanBeReplaced(t *testing.T) {
	for name, c := range map[string]struct {
		far   int // blocks of the second write
		spoil func(*testing.T, metadata, []byte)
	}{
		"in the header":           {1, spoilMap},
		"in chunks":               {headBlocks + 1, spoilChunk},
		"the header, with a map":  {1, spoilHeader},
		"the header, with chunks": {headBlocks + 1, spoilHeader},
	} {
		far := c.far
		t.Run(name, func(t *testing.T) {
			g := newCrashRig(t, 7)
			defer func() { g.abandon() }()
			data := bytes.Repeat([]byte{5}, far*blockSize)
			mustWrite(t, g.d, dataOp(0, 1, 0, data[:blockSize], 1))
			mustWrite(t, g.d, dataOp(0, 1, chunkBlocks, data, 2))
			if err := g.d.destage(true); err != nil {
				t.Fatal(err)
			}
			before := digestsOf(t, g.d)
			c.spoil(t, g.d.meta, chunkKey(objectKey{sheepdog.ObjectID{Family: 1}, 1}, 1))
			mustWrite(t, g.d, dataOp(1, 1, 0, data, 3)) // so that there is something to replay
			g.abandon()
			g.open()
			for range 2 {
				if _, err := readBlocks(t, g.d, 0, 1, chunkBlocks, 1); !errors.Is(err, sheepdog.ErrIO) {
					t.Errorf("a read: %v, want %v", err, sheepdog.ErrIO)
				}
			}
			obj := sheepdog.ObjectID{Family: 1}
			if told, _ := g.d.Spoiled(); len(told) != 1 || told[0] != (sheepdog.ListEntry{Object: obj, Layer: 1}) {
				t.Errorf("%v are spoiled, want the object", told)
			}
			if err := writeOne(g.d, dataOp(0, 1, chunkBlocks, data[:blockSize], 9)); !errors.Is(err, sheepdog.ErrIO) {
				t.Errorf("a write: %v, want %v", err, sheepdog.ErrIO)
			}
			if after := digestsOf(t, g.d); after[obj] == before[obj] {
				t.Error("the object is said to be what it was: no comparison would find it")
			}
			if digestsOf(t, g.d)[obj] == digestsOf(t, g.d)[obj] {
				t.Error("two nodes that have it spoiled would be taken for equal")
			}
			if _, err := g.d.LayerBytes(); err != nil {
				t.Errorf("space by layer: %v", err)
			}
			if err := g.d.DropObject(obj, 1); err != nil {
				t.Fatalf("drop: %v", err)
			}
			if after := digestsOf(t, g.d); after[obj] != 0 {
				t.Error("it is listed after its drop")
			}
			if left, _ := g.d.Spoiled(); len(left) > 0 {
				t.Errorf("%v are spoiled after the drop", left)
			}
			mustWrite(t, g.d, dataOp(0, 1, chunkBlocks, data, 2))
			for range 2 {
				if got, err := readBlocks(t, g.d, 0, 1, chunkBlocks, far); err != nil || !bytes.Equal(got, data) {
					t.Errorf("what replaced it: %v", err)
				}
				if got, err := readBlocks(t, g.d, 0, 1, 0, 1); err != nil || !bytes.Equal(got, zeroBlock[:]) {
					t.Errorf("what did not: %v", err)
				}
				if err := g.d.destage(true); err != nil {
					t.Fatal(err)
				}
				g.abandon()
				g.open()
			}
			mustWrite(t, g.d, dataOp(0, 1, 0, data[:blockSize], 4))
			if err := g.d.DropLayer(1); err != nil || len(digestsOf(t, g.d)) > 0 {
				t.Errorf("drop of the layer: %v", err)
			}
		})
	}
}

// Bug: a spoiled layer of an object failed reads of what a layer above it has.
func TestSpoiledLayerHidesNothingOfThoseAbove(t *testing.T) {
	raw := newFakeMeta()
	u := openDisk(t, Options{openMeta: raw.open})
	data := bytes.Repeat([]byte{5}, 4*blockSize)
	mustWrite(t, u.d, dataOp(0, 1, 0, data, 1))
	mustWrite(t, u.d, dataOp(0, 2, 0, data[:2*blockSize], 2))
	u.Reopen(t)
	spoilHeader(t, u.d.meta, chunkKey(objectKey{sheepdog.ObjectID{Family: 1}, 1}, 0))
	read := func(count uint32) error {
		return u.d.Read(sheepdog.ObjectID{Family: 1}, []sheepdog.LayerID{2, 1}, 0, count, make([]byte, count*blockSize), make([]sheepdog.BlockState, count))
	}
	for range 2 {
		if err := read(2); err != nil {
			t.Errorf("what the layer above has: %v", err)
		}
		if err := read(3); !errors.Is(err, sheepdog.ErrIO) {
			t.Errorf("what it does not have: %v, want %v", err, sheepdog.ErrIO)
		}
	}
}

// digestsOf lists the objects of a store.
func digestsOf(t *testing.T, d *Disk) map[sheepdog.ObjectID]uint64 {
	t.Helper()
	out := make(map[sheepdog.ObjectID]uint64)
	err := d.List(sheepdog.ListEntry{}, nil, func(e sheepdog.ListEntry) bool {
		out[e.Object] = e.Digest
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func spoilMap(t *testing.T, meta metadata, chunk []byte)   { spoil(t, meta, chunk, false) }
func spoilChunk(t *testing.T, meta metadata, chunk []byte) { spoil(t, meta, chunk, true) }

// spoilHeader makes the header of the object of a chunk malformed.
func spoilHeader(t *testing.T, meta metadata, chunk []byte) {
	t.Helper()
	k, _, err := decodeChunkKey(chunk)
	if err != nil {
		t.Fatal(err)
	}
	key := k.encode(keyObject)
	value := stored(t, meta, key)
	checkBoth(t, meta.Commit([]change{{key, value[:headerLen-1]}}), nil)
}

// stored is an entry of the metadata that must be there.
func stored(t *testing.T, meta metadata, key []byte) []byte {
	t.Helper()
	value, err := meta.Get(key)
	if err != nil || len(value) == 0 {
		t.Fatalf("%d bytes, %v", len(value), err)
	}
	return value
}

// spoil makes the map of a chunk malformed where it is, in its entry or in the header of
// its object.
func spoil(t *testing.T, meta metadata, chunk []byte, alone bool) {
	t.Helper()
	key := chunk
	k, no, err := decodeChunkKey(chunk)
	if err != nil {
		t.Fatal(err)
	}
	if !alone {
		key = k.encode(keyObject)
	}
	value := stored(t, meta, key)
	at := value
	if !alone {
		_, maps, err := decodeHeader(value)
		if err != nil {
			t.Fatal(err)
		}
		at, _ = maps.find(no)
	}
	at[len(at)-1]++ // of the checksums
	at[2] = 0xff    // of the number of runs
	checkBoth(t, meta.Commit([]change{{key, value}}), nil)
}
