package objectstore

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"sheepdog"
)

// headPair is a packedPair whose objects have few blocks or some more, so that their
// maps move into headers and out of them again.
type headPair struct {
	packedPair
	meta *fakeMeta
	seq  uint64
}

func newHeadPair(t *testing.T, seed uint64) *headPair {
	raw := newFakeMeta()
	raw.maxChanges = 1000
	u := openDisk(t, Options{Meta: t.TempDir(), MapCacheBytes: 1 << 20, openMeta: raw.open})
	u.d.cache.limit = 0
	return &headPair{packedPair: packedPair{t: t, rng: rand.New(rand.NewPCG(seed, 8)), d: u.d, m: NewMemory()}, meta: raw}
}

func (p *headPair) step() {
	p.seq++
	switch n := p.rng.IntN(30); {
	case n == 0:
		a, b := p.layer(), p.layer()
		if a != b {
			checkBoth(p.t, p.d.Merge(a, b), p.m.Merge(a, b))
		}
	case n < 3:
		obj, layer := p.object(), p.layer()
		checkBoth(p.t, p.d.DropObject(obj, layer), p.m.DropObject(obj, layer))
	case n < 6:
		p.destage()
	case n < 20:
		op := sheepdog.Op{Object: p.object(), Layer: p.layer(), Start: sheepdog.BlockNo(p.rng.IntN(300)), Count: uint32(1 + p.rng.IntN(3)),
			Stamp: sheepdog.Stamp{Token: 1, Seq: p.seq}}
		if p.rng.IntN(4) > 0 {
			op.Data = make([]byte, op.Count*blockSize)
			op.Data[0] = byte(p.seq)
		}
		checkBoth(p.t, writeOne(p.d, op), writeOne(p.m, op))
	default:
		p.read()
	}
}

func (p *headPair) destage() {
	p.t.Helper()
	checkBoth(p.t, p.d.destage(true), nil)
}

// reopen opens what the store has on the disk as after a crash, or in good order.
func (p *headPair) reopen(crash bool) {
	p.t.Helper()
	if crash {
		if err := p.d.Flush(); err != nil {
			p.t.Fatal(err)
		}
		p.d.abandonProcess()
	} else if err := p.d.Close(); err != nil {
		p.t.Fatal(err)
	}
	p.open()
}

func (p *headPair) open() {
	p.t.Helper()
	opts := p.d.opts
	d, err := Open(opts)
	if err != nil {
		p.t.Fatal(err)
	}
	p.d = d
	p.t.Cleanup(func() { _ = d.Close() })
}

// blocksOf is what headers and chunks of an object have in the metadata.
type blocksOf struct {
	inHead         bool
	head, map_     int
	chunks, ofData int
}

// check destages, and wants each map of few blocks in its header and nowhere else, each
// other one beside it, and as much space in use as maps have blocks of data. It returns how many
// maps are in headers, and how many are not.
func (p *headPair) check(when string, known func(objectKey) bool) (in, out int) {
	p.t.Helper()
	p.destage()
	objects := make(map[objectKey]*blocksOf)
	err := p.d.meta.Scan(scan{prefix: []byte{keyObject}}, func(key, value []byte) (bool, error) {
		k, err := decodeObjectKey(key)
		if err != nil {
			return false, err
		}
		h, maps, err := decodeHeader(value)
		objects[k] = &blocksOf{inHead: maps.all, head: int(h.present), ofData: int(h.data)}
		return err == nil, err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	err = p.d.meta.Scan(scan{prefix: []byte{keyChunk}}, func(key, _ []byte) (bool, error) {
		k, _, err := decodeChunkKey(key)
		if objects[k] == nil {
			p.t.Fatalf("%s: object %v has a chunk and no header", when, k)
		}
		objects[k].chunks++
		return err == nil, err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	data := 0
	err = eachChunk(p.d.meta, func(k objectKey, _ uint32, value []byte) (bool, error) {
		var c chunk
		err := c.decode(value)
		objects[k].map_ += c.present
		for i := range chunkBlocks {
			if c.at(i).state == sheepdog.Data {
				data++
			}
		}
		return err == nil, err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	for k, o := range objects {
		if o.head != o.map_ || o.inHead && o.chunks > 0 {
			p.t.Fatalf("%s: object %v: %+v", when, k, *o)
		}
		if known(k) && o.inHead != (o.head <= headBlocks) {
			p.t.Fatalf("%s: object %v of %d blocks has its map in the header: %v", when, k, o.head, o.inHead)
		}
		if o.inHead {
			in++
		} else {
			out++
		}
	}
	if used := p.d.volumes.usedBlocks(); used != uint64(data) {
		p.t.Fatalf("%s: %d blocks are in use, maps have %d", when, used, data)
	}
	return in, out
}

// Maps in headers are those that chunks would be: whatever is written, dropped and
// merged, through restarts and crashes.
func TestMapsInHeadersAreThoseOfTheModel(t *testing.T) {
	in, out := 0, 0
	for seed := range uint64(6) {
		p := newHeadPair(t, seed)
		all := func(objectKey) bool { return seed%2 == 0 } // with odd seeds maps are forgotten
		if seed%2 == 1 {
			p.d.cache.packedLimit = 0
		}
		for round := range 12 {
			for range 60 {
				p.step()
			}
			i, o := p.check("after a round", all)
			in, out = in+i, out+o
			if round%3 == 2 {
				p.reopen(round%2 == 0)
				p.d.cache.limit = 0
				all = func(objectKey) bool { return false }
			}
		}
	}
	if in < 100 || out < 100 {
		t.Errorf("%d maps were in headers and %d not", in, out)
	}
}

// asBefore makes a store that was closed what a release had left that kept headers in the
// metadata store, and with version 2 one that knew of no maps in headers.
func asBefore(t *testing.T, d *Disk, raw *fakeMeta, version byte) (objects int) {
	t.Helper()
	m := sealed{raw, func(err error) { t.Error(err) }}
	var changes []change
	err := d.headers.Scan(scan{prefix: []byte{keyObject}}, func(key, value []byte) (bool, error) {
		k, err := decodeObjectKey(key)
		if err != nil {
			return false, err
		}
		objects++
		list := binary.BigEndian.AppendUint64([]byte{keyLayer}, uint64(k.Layer))
		list = binary.BigEndian.AppendUint64(list, uint64(k.Object.Family))
		changes = append(changes, change{binary.BigEndian.AppendUint32(list, uint32(k.Object.Index)), []byte{}})
		if version > 2 {
			changes = append(changes, change{bytes.Clone(key), bytes.Clone(value)})
			return true, nil
		}
		h, maps, err := decodeHeader(value)
		changes = append(changes, change{k.encode(keyObject), h.encode()})
		for no, value := range maps.each {
			changes = append(changes, change{chunkKey(k, no), append([]byte{}, value...)})
		}
		return err == nil, err
	})
	if err != nil {
		t.Fatal(err)
	}
	ck := checkpoint{}.change()
	if ck.value, err = m.Get(ck.key); err != nil {
		t.Fatal(err)
	}
	ck.value[0] = version
	checkBoth(t, commitAll(m, append(changes, ck, change{key: headerMarkKey})), nil)
	files, err := filepath.Glob(filepath.Join(d.opts.Meta, headerFilePrefix+"*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files of headers, %v", len(files), err)
	}
	for _, f := range files {
		checkBoth(t, os.Remove(f), nil)
	}
	return objects
}

// A store of the release before is read as it is, after a close as after a crash; what is
// written moves into headers, if it fits.
func TestStoreOfTheReleaseBeforeMapsInHeaders(t *testing.T) {
	for _, crash := range []bool{false, true} {
		p := newHeadPair(t, 1)
		for range 200 {
			p.step()
		}
		if err := p.d.Close(); err != nil {
			t.Fatal(err)
		}
		if n := asBefore(t, p.d, p.meta, 2); n < 5 {
			t.Fatalf("only %d objects are there", n)
		}
		if crash { // the space is found from the maps
			if err := os.Remove(p.d.spaceName()); err != nil {
				t.Fatal(err)
			}
		}
		p.open()
		none := func(objectKey) bool { return false }
		if in, out := p.check("as it was", none); in > 0 || out == 0 {
			t.Errorf("%d maps are in headers, %d are not, before anything was written", in, out)
		}
		for range 30 {
			p.read()
		}
		// A block of an object that has few, in the chunk of another, tells that all is known.
		small, moved := objectKey{}, 0
		err := p.d.meta.Scan(scan{prefix: []byte{keyChunk}}, func(key, value []byte) (bool, error) {
			k, no, err := decodeChunkKey(key)
			var c chunk
			if err == nil {
				err = c.decode(value)
			}
			if err != nil || c.present > 2 || k == small {
				return err == nil, err
			}
			small = k
			p.seq++
			op := sheepdog.Op{Object: k.Object, Layer: k.Layer, Start: sheepdog.BlockNo(no * chunkBlocks), Count: 1, Stamp: sheepdog.Stamp{Token: 2, Seq: p.seq}}
			checkBoth(t, writeOne(p.d, op), writeOne(p.m, op))
			moved++
			return true, nil
		})
		if err != nil || moved == 0 {
			t.Fatalf("%d objects have few blocks: %v", moved, err)
		}
		if in, _ := p.check("after a write", none); in == 0 {
			t.Error("no map has moved into a header")
		}
		for range 200 {
			p.step()
		}
		p.check("after more", none)
		p.reopen(true)
		p.check("after a crash", none)
		for range 50 {
			p.read()
		}
	}
}
