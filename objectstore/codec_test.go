package objectstore

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"sheepdog"
	"sheepdog/objectstore/storetest"
)

func sampleEntries() []entry {
	key := objectKey{sheepdog.ObjectID{Family: 1<<63 + 5, Index: 7}, 9}
	stamp := sheepdog.Stamp{Token: 3, Seq: 1 << 40}
	return []entry{
		{kind: entryInline, key: key, start: 5, count: 2, stamp: stamp, crcs: []uint32{1, 2}, force: true, runs: []run{{logPlace(4, 2), 2}}},
		{kind: entryExtent, key: key, start: 0, count: 3, stamp: stamp, crcs: []uint32{3, 4, 5}, runs: []run{{extentPlace(2, 77), 1}, {extentPlace(2, 99), 2}}},
		{kind: entryZero, key: key, start: MaxObjectBlocks - 1, count: 1, stamp: stamp},
		{kind: entryDrop, key: key},
		{kind: entryMerge, key: key, to: 10},
	}
}

var sampleForm = newLogForm(logVersion, 77)

func sampleRecord() (recordHeader, []byte) {
	h := recordHeader{gen: 4, first: 100, durable: 90, dataBlocks: 2}
	b := append([]byte{}, zeroBlock[:recordFixed]...)
	for _, e := range sampleEntries() {
		b = e.append(b)
		h.entries++
	}
	pad := finishRecord(b, &h, sampleForm)
	return h, append(b, pad...)
}

func TestRecordRoundTrip(t *testing.T) {
	want, b := sampleRecord()
	h, err := decodeRecordHeader(b, 100, sampleForm)
	if err != nil || h != want {
		t.Fatalf("header %+v, want %+v: %v", h, want, err)
	}
	entries, err := decodeRecord(b, &h, 1, sampleForm)
	if err != nil || !reflect.DeepEqual(entries, sampleEntries()) {
		t.Fatalf("entries %+v: %v", entries, err)
	}
	for i := range entries {
		if got := len(entries[i].append(nil)); got != entries[i].size() {
			t.Errorf("entry %d has %d bytes, size says %d", i, got, entries[i].size())
		}
	}
	for at := range recordFixed + int(h.entryBytes) {
		c := bytes.Clone(b)
		c[at] ^= 0x10
		h, err := decodeRecordHeader(c, 100, sampleForm)
		if err == nil {
			_, err = decodeRecord(c, &h, 1, sampleForm)
		}
		if err == nil {
			t.Fatalf("a flipped bit in byte %d goes unnoticed", at)
		}
	}
	if _, err := decodeRecordHeader(b, h.blocks()-1, sampleForm); err == nil {
		t.Error("a record that is longer than its segment is accepted")
	}
}

func sampleChunk() *chunk {
	c := &chunk{applied: 1 << 33}
	for i := range 40 {
		s := slot{state: sheepdog.Data, stamp: sheepdog.Stamp{Token: 1, Seq: 5}, crc: uint32(i) * 99, at: extentPlace(1, uint64(1000+i))}
		switch {
		case i >= 30:
			s = slot{state: sheepdog.Zero, stamp: sheepdog.Stamp{Token: 2, Seq: 1 << 50}}
		case i == 20:
			s.stamp.Seq = 6
		case i > 20:
			s.at += 5000
		}
		c.set(i, s)
		c.present++
	}
	return c
}

// A chunk is encoded as if each of its slots were looked at.
func TestChunksAreEncodedBlockByBlock(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 2000 {
		c := &chunk{applied: lsn(r.Uint64N(1 << 40))}
		for range r.IntN(6) {
			s := slot{state: sheepdog.BlockState(r.IntN(3)), stamp: sheepdog.Stamp{Token: 1, Seq: r.Uint64N(3)}}
			if s.state == sheepdog.Absent {
				s.stamp = sheepdog.Stamp{}
			}
			at := extentPlace(1, 1+r.Uint64N(1<<30))
			for i, n := r.IntN(chunkBlocks), r.IntN(30); i < chunkBlocks && n > 0; i, n = i+1, n-1 {
				if s.state == sheepdog.Data {
					s.at, s.crc = at+place(n%7), r.Uint32()
				}
				c.set(i, s)
			}
		}
		if got, want := c.append([]byte("x"))[1:], plainEncode(c); !bytes.Equal(got, want) {
			t.Fatalf("encoded as %x, want %x", got, want)
		}
	}
}

func plainEncode(c *chunk) []byte {
	var runs, sums []byte
	n := uint64(0)
	for i := 0; i < chunkBlocks; n++ {
		first, k := c.at(i), 0
		for ; i+k < chunkBlocks; k++ {
			s := c.at(i + k)
			if s.state != first.state || s.stamp != first.stamp || k > 0 && s.state == sheepdog.Data && !s.at.follows(c.at(i+k-1).at) {
				break
			}
			if s.state == sheepdog.Data {
				sums = binary.LittleEndian.AppendUint32(sums, s.crc)
			}
		}
		runs = append(binary.AppendUvarint(runs, uint64(k)), byte(first.state))
		for _, v := range []uint64{uint64(first.stamp.Token), first.stamp.Seq, uint64(first.at)} {
			runs = binary.AppendUvarint(runs, v)
		}
		i += k
	}
	out := binary.AppendUvarint([]byte{chunkVersion}, uint64(c.applied))
	return slices.Concat(binary.AppendUvarint(out, n), runs, sums)
}

func TestChunkRoundTrip(t *testing.T) {
	want := sampleChunk()
	want.stored = true
	var got chunk
	if err := got.decode(want.encode()); err != nil || !reflect.DeepEqual(&got, want) {
		t.Fatalf("chunk differs: %v", err)
	}
	for n := range want.encode() {
		if got.decode(want.encode()[:n]) == nil {
			t.Fatalf("a chunk cut off at %d bytes is accepted", n)
		}
	}
	if got.decode(append(want.encode(), 0)) == nil {
		t.Fatal("a chunk with a byte more is accepted")
	}
}

func TestUnknownVersions(t *testing.T) {
	segment := (&segmentHeader{version: logVersion, store: 1, gen: 2, first: 3}).encode()
	segment[4]++
	form := format{store: 1, segmentBlocks: 64, fileBlocks: 64}.encode()
	form[4]++
	label := encodeLabel(1, 2)
	label[4]++
	chunkBytes := sampleChunk().encode()
	chunkBytes[0]++
	head := header{present: 1}.appendWithMap(nil, []byte{0, 1, 9})
	head[0]++
	ck := checkpoint{}.encode()
	ck[0]++
	_, segmentErr := decodeSegmentHeader(segment)
	_, formatErr := decodeFormat(form)
	_, labelErr := decodeLabel(label, 1)
	_, _, headErr := decodeHeader(head)
	_, ckErr := decodeCheckpoint(ck)
	for name, err := range map[string]error{"segment": segmentErr, "format": formatErr, "label": labelErr,
		"chunk": new(chunk).decode(chunkBytes), "header": headErr, "checkpoint": ckErr} {
		if _, ok := err.(*versionError); !ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeysKeepOrder(t *testing.T) {
	var last []byte
	var lastKey objectKey
	for i := range 300 {
		k := objectKey{sheepdog.ObjectID{Family: sheepdog.FamilyID(1 + i%7), Index: sheepdog.Index(i * 37 % 50)}, sheepdog.LayerID(i)}
		b := k.encode(keyObject)
		if got, err := decodeObjectKey(b); err != nil || got != k {
			t.Fatalf("key %v comes back as %v: %v", k, got, err)
		}
		if last != nil && bytes.Compare(b, last) != k.compare(lastKey) {
			t.Fatalf("keys of %v and %v are in another order", k, lastKey)
		}
		last, lastKey = b, k
	}
}

func FuzzRecord(f *testing.F) {
	_, b := sampleRecord()
	f.Add(b)
	f.Add(b[:recordFixed])
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeRecordHeader(b, 64, sampleForm)
		if err != nil {
			return
		}
		if len(b) >= recordFixed+int(h.entryBytes) { // get past the checksum
			fixed := finishCRC(bytes.Clone(b), &h)
			if entries, err := decodeRecord(fixed, &h, 1, sampleForm); err == nil {
				checkEntries(t, entries)
			}
		}
	})
}

func finishCRC(b []byte, h *recordHeader) []byte {
	used := recordFixed + int(h.entryBytes)
	c := recordCRC(b[:used], sampleForm)
	b[recordCRCAt], b[recordCRCAt+1], b[recordCRCAt+2], b[recordCRCAt+3] = byte(c), byte(c>>8), byte(c>>16), byte(c>>24)
	return b
}

// checkEntries wants what is accepted to be what append would write, and to be
// applied without a panic.
func checkEntries(t *testing.T, entries []entry) {
	p := new(pile)
	for i := range entries {
		e := &entries[i]
		again, rest, err := decodeEntry(e.append(nil))
		if err != nil || len(rest) > 0 {
			t.Fatalf("entry does not survive a round trip: %v", err)
		}
		if e.kind == entryInline {
			again.runs = e.runs
		}
		if !reflect.DeepEqual(&again, e) {
			t.Fatalf("%+v became %+v", e, again)
		}
		if e.count < 1<<12 {
			p.apply(e, lsn(i+1), new(outcome))
		}
	}
}

func FuzzChunk(f *testing.F) {
	f.Add(sampleChunk().encode())
	f.Add(new(chunk).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		var c, again chunk
		if c.decode(b) != nil {
			return
		}
		if err := again.decode(c.encode()); err != nil || !reflect.DeepEqual(c, again) {
			t.Fatalf("chunk does not survive a round trip: %v", err)
		}
	})
}

func FuzzSmallDecoders(f *testing.F) {
	f.Add((&segmentHeader{version: logVersion, store: 1, gen: 2, first: 3}).encode()[:segmentFixed])
	f.Add(format{store: 1, segmentBlocks: 64, fileBlocks: 64}.encode())
	f.Add(encodeLabel(1, 2))
	f.Add(header{present: 1, digest: 2}.encode())
	f.Add(header{present: 1, digest: 2}.appendWithMap(nil, appendPacked(nil, 3, sampleChunk().encode())))
	f.Add(checkpoint{1, 2, 3, 4}.encode())
	f.Add(headerMark{1, 2, 3 * blockSize}.change().value)
	f.Add(appendHeaderEntry(nil, objectKey{sheepdog.ObjectID{Family: 1, Index: 2}, 3}, header{present: 1}.encode()))
	f.Add(diskRecord{5, "/x"}.encode())
	f.Add(encodeSpace(1, 2, []*volume{{id: 3, space: &space{used: []uint64{1, 2}, slack: []uint64{4, 5}}}}))
	c := change{key: []byte("k"), value: []byte("v")}
	f.Add(c.intent(1).value)
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = decodeSegmentHeader(b)
		_, _ = decodeFormat(b)
		_, _ = decodeLabel(b, 1)
		if _, maps, err := decodeHeader(b); err == nil {
			for no, value := range maps.each {
				_, _ = no, new(chunk).decode(value)
			}
		}
		_, _ = decodeCheckpoint(b)
		_, _ = decodeDiskRecord(b)
		_, _, _ = decodeSpace(b, 1)
		_, _, _ = decodeIntent(intentKey(1), b)
		_, _, _ = decodeChunkKey(b)
		_, _ = decodeHeaderMark(b)
		_ = eachHeaderEntry(b, func(objectKey, []byte) {})
		_, _ = decodeTombstone(b, b)
		_ = checkExtentHeader(b, nil)
	})
}

func TestLargeCommits(t *testing.T) {
	// Whatever commit of a large one fails, finishLarge leaves all or nothing.
	var changes []change
	for i := range 40 {
		c := change{key: []byte{'x', byte(i)}, value: storetest.Fill(uint64(i), 1)}
		if i%3 == 0 {
			c.value = nil
		}
		changes = append(changes, c)
	}
	for n := 0; ; n++ {
		m := newFakeMeta()
		for i := range 40 {
			m.values[string([]byte{'x', byte(i)})] = []byte("old")
		}
		left := n
		m.fault = func() error {
			if left--; left < 0 {
				return errDead
			}
			return nil
		}
		err := commitLarge(m, changes)
		m.fault = nil
		if err := finishLarge(m); err != nil {
			t.Fatal(err)
		}
		changed := 0
		for _, c := range changes {
			got := m.values[string(c.key)]
			if c.value == nil && got == nil || c.value != nil && bytes.Equal(got, c.value) {
				changed++
			} else if string(got) != "old" {
				t.Fatalf("commit %d: key %x has a value of its own", n, c.key)
			}
		}
		if changed != 0 && changed != len(changes) || err == nil && changed == 0 {
			t.Fatalf("commit %d: %d of %d changes are there", n, changed, len(changes))
		}
		want := 40
		if changed > 0 {
			want = 26
		}
		if len(m.values) != want {
			t.Fatalf("commit %d: %d keys, want %d", n, len(m.values), want)
		}
		if err == nil {
			break
		}
	}
}

// A header has its map as it was put there, and no half of one.
func TestHeaderWithMap(t *testing.T) {
	want := header{present: 2, data: 1, digest: 9}
	maps := appendPacked(appendPacked(nil, 3, sampleChunk().encode()), 700, new(chunk).encode())
	b := want.appendWithMap(nil, maps)
	h, r, err := decodeHeader(b)
	if err != nil || h != want || !r.all || !bytes.Equal(r.packed, maps) {
		t.Errorf("%+v, map %x, %v", h, r.packed, err)
	}
	ends := map[int]bool{len(b): true, headerLen + len(appendPacked(nil, 3, sampleChunk().encode())): true}
	for n := range b {
		if _, _, err := decodeHeader(b[:n]); (err == nil) != ends[n] {
			t.Errorf("a header cut off at %d of %d bytes: %v", n, len(b), err)
		}
	}
	for _, maps := range [][]byte{{3, 0}, appendPacked(appendPacked(nil, 3, []byte{1}), 3, []byte{1}), appendPacked(nil, 1<<31, []byte{1})} {
		if _, _, err := decodeHeader(want.appendWithMap(nil, maps)); err == nil {
			t.Errorf("map %x is taken", maps)
		}
	}
}

// A header of version 1 does not say how many blocks take space: all count.
func TestHeaderOfVersion1(t *testing.T) {
	old := header{present: 7, data: 3, digest: 9}.encode()[:header1Len]
	old[0] = 1
	if h, _, err := decodeHeader(old); err != nil || h != (header{present: 7, data: 7, digest: 9}) {
		t.Errorf("%+v, %v", h, err)
	}
	for _, b := range [][]byte{old[:13], append(old, 0), header{present: 1}.encode()[:header1Len], header{present: 1, data: 2}.encode(), {0}} {
		if h, _, err := decodeHeader(b); err == nil {
			t.Errorf("%x is taken for %+v", b, h)
		}
	}
}
