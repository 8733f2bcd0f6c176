// Package storetest is the conformance suite of sheepdog.Engine: every room
// that keeps replicas (disks, memory, a remote node, a wrapper) runs it. It is
// not about speed, nor about what only one implementation can do, as surviving
// a crash.
package storetest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"testing"

	"sheepdog"
)

// Reopener is an engine that can be closed and opened again with what it holds.
type Reopener interface {
	Engine() sheepdog.Engine
	// Reopen closes the engine in good order and opens it again; it fails the
	// test if it cannot.
	Reopen(t *testing.T)
}

// Run runs the suite; open makes an empty engine, and has the test close it. The
// tests of the suite run in parallel, and are done when the test t is.
func Run(t *testing.T, open func(t *testing.T) Reopener) {
	for _, c := range []struct {
		name string
		test func(*testing.T, *store)
	}{
		{"states", testStates},
		{"stamps", testStamps},
		{"force", testForce},
		{"order of ops", testOrder},
		{"partial overlap", testOverlap},
		{"chains", testChains},
		{"sums", testSums},
		{"raw reads", testRaw},
		{"sizes", testSizes},
		{"bad requests", testBadRequests},
		{"list order and pages", testList},
		{"digests", testDigests},
		{"layers", testLayers},
		{"drop", testDrop},
		{"drop and write again", testDropAgain},
		{"merge", testMerge},
		{"merge of large objects", testMergeLarge},
		{"facts", testFacts},
		{"wipe", testWipe},
		{"usage", testUsage},
		{"concurrency", testConcurrency},
		{"closed", testClosed},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := open(t)
			c.test(t, &store{t: t, r: r})
		})
	}
	t.Run("digest is independent of order", func(t *testing.T) {
		t.Parallel()
		testDigestOrder(t, open)
	})
}

// store wraps an engine in calls that fail the test.
type store struct {
	t *testing.T
	r Reopener
}

func (s *store) engine() sheepdog.Engine { return s.r.Engine() }

const blockSize = sheepdog.BlockSize

var (
	objA = sheepdog.ObjectID{Family: 7, Index: 3}
	objB = sheepdog.ObjectID{Family: 7, Index: 4}
)

func stamp(seq uint64) sheepdog.Stamp { return sheepdog.Stamp{Token: 1, Seq: seq} }

// Fill makes n blocks of bytes that depend on seed and position.
func Fill(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, uint64(n)))
	b := make([]byte, n*blockSize)
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
	return b
}

func (s *store) write(ops ...sheepdog.Op) {
	s.t.Helper()
	errs := make([]error, len(ops))
	s.engine().Write(ops, errs)
	for i, err := range errs {
		if err != nil {
			s.t.Fatalf("op %d: %v", i, err)
		}
	}
}

func data(obj sheepdog.ObjectID, layer sheepdog.LayerID, start sheepdog.BlockNo, b []byte, seq uint64) sheepdog.Op {
	return sheepdog.Op{Object: obj, Layer: layer, Start: start, Count: uint32(len(b) / blockSize), Data: b, Stamp: stamp(seq)}
}

func zero(obj sheepdog.ObjectID, layer sheepdog.LayerID, start sheepdog.BlockNo, count uint32, seq uint64) sheepdog.Op {
	return sheepdog.Op{Object: obj, Layer: layer, Start: start, Count: count, Stamp: stamp(seq)}
}

func (s *store) read(obj sheepdog.ObjectID, chain []sheepdog.LayerID, start sheepdog.BlockNo, count uint32) ([]byte, []sheepdog.BlockState) {
	s.t.Helper()
	buf := bytes.Repeat([]byte{0xAA}, int(count)*blockSize)
	states := make([]sheepdog.BlockState, count)
	if err := s.engine().Read(obj, chain, start, count, buf, states); err != nil {
		s.t.Fatalf("read: %v", err)
	}
	return buf, states
}

func (s *store) records(obj sheepdog.ObjectID, chain []sheepdog.LayerID, start sheepdog.BlockNo, count uint32) []sheepdog.Record {
	s.t.Helper()
	recs := make([]sheepdog.Record, count)
	if err := s.engine().Records(obj, chain, start, count, recs); err != nil {
		s.t.Fatalf("records: %v", err)
	}
	return recs
}

// expect compares blocks: nil wants absent, an empty slice zero, else data.
func (s *store) expect(obj sheepdog.ObjectID, chain []sheepdog.LayerID, start sheepdog.BlockNo, want ...[]byte) {
	s.t.Helper()
	buf, states := s.read(obj, chain, start, uint32(len(want)))
	recs := s.records(obj, chain, start, uint32(len(want)))
	for i, w := range want {
		state := sheepdog.Data
		bytesWant := w
		switch {
		case w == nil:
			state = sheepdog.Absent
		case len(w) == 0:
			state = sheepdog.Zero
		}
		if len(w) == 0 {
			bytesWant = make([]byte, blockSize)
		}
		if states[i] != state || recs[i].State != state {
			s.t.Fatalf("block %d: state %d, record %d, want %d", int(start)+i, states[i], recs[i].State, state)
		}
		if !bytes.Equal(buf[i*blockSize:][:blockSize], bytesWant) {
			s.t.Fatalf("block %d: wrong bytes", int(start)+i)
		}
		if crc := crc32.Checksum(bytesWant, crc32.MakeTable(crc32.Castagnoli)); state == sheepdog.Data && recs[i].CRC != crc || state != sheepdog.Data && recs[i].CRC != 0 {
			s.t.Fatalf("block %d: record has CRC %x", int(start)+i, recs[i].CRC)
		}
	}
}

func (s *store) list() []sheepdog.ListEntry {
	s.t.Helper()
	var out []sheepdog.ListEntry
	if err := s.engine().List(sheepdog.ListEntry{}, nil, func(e sheepdog.ListEntry) bool {
		out = append(out, e)
		return true
	}); err != nil {
		s.t.Fatalf("list: %v", err)
	}
	return out
}

func (s *store) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// everywhere checks now, after a flush and after a reopen.
func (s *store) everywhere(check func()) {
	s.t.Helper()
	check()
	s.must(s.engine().Flush())
	check()
	s.r.Reopen(s.t)
	check()
}

var zeroBlock = []byte{}

func testStates(t *testing.T, s *store) {
	a := Fill(1, 2)
	s.write(data(objA, 1, 2, a, 1), zero(objA, 1, 6, 2, 2))
	s.everywhere(func() {
		s.expect(objA, []sheepdog.LayerID{1}, 0, nil, nil, a[:blockSize], a[blockSize:], nil, nil, zeroBlock, zeroBlock, nil)
		s.expect(objB, []sheepdog.LayerID{1}, 0, nil)
		s.expect(objA, []sheepdog.LayerID{2}, 2, nil)
		s.expect(objA, nil, 2, nil)
	})
	s.write(zero(objA, 1, 2, 1, 3), data(objA, 1, 6, a[:blockSize], 4))
	s.everywhere(func() {
		s.expect(objA, []sheepdog.LayerID{1}, 2, zeroBlock, a[blockSize:], nil, nil, a[:blockSize], zeroBlock)
	})
}

func testStamps(t *testing.T, s *store) {
	v1, v2, v3 := Fill(1, 1), Fill(2, 1), Fill(3, 1)
	s.write(data(objA, 1, 0, v2, 2))
	s.write(data(objA, 1, 0, v1, 1)) // older: left alone, no error
	s.write(data(objA, 1, 0, v3, 2)) // equal: left alone
	s.everywhere(func() {
		s.expect(objA, []sheepdog.LayerID{1}, 0, v2)
		if r := s.records(objA, []sheepdog.LayerID{1}, 0, 1)[0]; r.Stamp != stamp(2) {
			t.Fatalf("stamp %v", r.Stamp)
		}
	})
	op := data(objA, 1, 0, v3, 1)
	op.Stamp = sheepdog.Stamp{Token: 2, Seq: 0} // a higher token wins over any seq
	s.write(op)
	s.write(data(objA, 1, 0, v1, 1000))
	s.everywhere(func() { s.expect(objA, []sheepdog.LayerID{1}, 0, v3) })
	unstamped := data(objB, 1, 0, v1, 0)
	unstamped.Stamp = sheepdog.Stamp{}
	s.write(unstamped) // a zero stamp is not higher than that of an absent block
	s.everywhere(func() { s.expect(objB, []sheepdog.LayerID{1}, 0, nil) })
	if l := s.list(); len(l) != 1 {
		t.Fatalf("an object without blocks is listed: %v", l)
	}
}

func testForce(t *testing.T, s *store) {
	v1, v2 := Fill(1, 1), Fill(2, 1)
	s.write(data(objA, 1, 0, v2, 9))
	op := data(objA, 1, 0, v1, 3)
	op.Force = true
	s.write(op)
	s.everywhere(func() {
		s.expect(objA, []sheepdog.LayerID{1}, 0, v1)
		if r := s.records(objA, []sheepdog.LayerID{1}, 0, 1)[0]; r.Stamp != stamp(3) {
			t.Fatalf("stamp %v", r.Stamp)
		}
	})
	s.write(data(objA, 1, 0, v2, 3)) // by stamp again
	s.everywhere(func() { s.expect(objA, []sheepdog.LayerID{1}, 0, v1) })
	z := zero(objB, 1, 0, 1, 0)
	z.Stamp, z.Force = sheepdog.Stamp{}, true
	s.write(z)
	s.everywhere(func() { s.expect(objB, []sheepdog.LayerID{1}, 0, zeroBlock) })
}

func testOrder(t *testing.T, s *store) {
	v1, v2, v3 := Fill(1, 1), Fill(2, 1), Fill(3, 20)
	s.write(data(objA, 1, 0, v1, 1), data(objA, 1, 0, v2, 2), data(objA, 1, 0, v1, 1),
		zero(objB, 1, 0, 30, 1), data(objB, 1, 5, v3, 2), data(objB, 1, 6, v1, 3))
	s.everywhere(func() {
		s.expect(objA, []sheepdog.LayerID{1}, 0, v2)
		s.expect(objB, []sheepdog.LayerID{1}, 4, zeroBlock, v3[:blockSize], v1, v3[2*blockSize:3*blockSize])
		s.expect(objB, []sheepdog.LayerID{1}, 24, v3[19*blockSize:], zeroBlock)
	})
}

func testOverlap(t *testing.T, s *store) {
	// A block keeps the highest stamp wherever the borders of writes are.
	r := rand.New(rand.NewPCG(1, 2))
	const blocks = 200
	var want [blocks][]byte
	var seqs [blocks]uint64
	for i := range 60 {
		n := 1 + r.IntN(40)
		at := r.IntN(blocks - n + 1)
		seq := 1 + r.Uint64N(40)
		b := Fill(uint64(i), n)
		op := data(objA, 1, sheepdog.BlockNo(at), b, seq)
		if i%5 == 4 {
			op.Data = nil
		}
		s.write(op)
		for j := range n {
			if seq > seqs[at+j] {
				seqs[at+j], want[at+j] = seq, b[j*blockSize:][:blockSize]
				if op.Data == nil {
					want[at+j] = zeroBlock
				}
			}
		}
	}
	s.everywhere(func() { s.expect(objA, []sheepdog.LayerID{1}, 0, want[:]...) })
}

func testChains(t *testing.T, s *store) {
	v1, v2, v3 := Fill(1, 4), Fill(2, 1), Fill(3, 1)
	s.write(data(objA, 1, 0, v1, 1))
	s.write(data(objA, 2, 1, v2, 2))
	s.write(zero(objA, 3, 2, 1, 3), data(objA, 3, 4, v3, 3))
	block := func(i int) []byte { return v1[i*blockSize:][:blockSize] }
	s.everywhere(func() {
		s.expect(objA, []sheepdog.LayerID{3, 2, 1}, 0, block(0), v2, zeroBlock, block(3), v3, nil)
		s.expect(objA, []sheepdog.LayerID{2, 1}, 0, block(0), v2, block(2), block(3), nil)
		s.expect(objA, []sheepdog.LayerID{1}, 0, block(0), block(1), block(2), block(3), nil)
		s.expect(objA, []sheepdog.LayerID{3, 1}, 1, block(1), zeroBlock)
		s.expect(objA, []sheepdog.LayerID{3, 99, 2}, 0, nil, v2, zeroBlock, nil, v3)
	})
	long := make([]sheepdog.LayerID, 0, 301)
	for l := sheepdog.LayerID(1300); l > 1000; l-- {
		long = append(long, l)
	}
	s.write(data(objB, 1001, 0, v2, 1), data(objB, 1150, 1, v3, 1))
	s.everywhere(func() { s.expect(objB, long, 0, v2, v3, nil) })
}

func testSizes(t *testing.T, s *store) {
	for i, n := range []int{1, 2, 15, 16, 17, 63, 64, 65, 256, 1024} {
		obj := sheepdog.ObjectID{Family: 9, Index: sheepdog.Index(i)}
		s.write(data(obj, 1, sheepdog.BlockNo(i), Fill(uint64(n), n), 1))
	}
	far := sheepdog.BlockNo(1<<(sheepdog.MaxBlockSizeShift-12) - 3)
	last := Fill(5, 3)
	s.write(data(objA, 1, far, last, 1))
	s.everywhere(func() {
		for i, n := range []int{1, 2, 15, 16, 17, 63, 64, 65, 256, 1024} {
			obj := sheepdog.ObjectID{Family: 9, Index: sheepdog.Index(i)}
			buf, _ := s.read(obj, []sheepdog.LayerID{1}, sheepdog.BlockNo(i), uint32(n))
			if !bytes.Equal(buf, Fill(uint64(n), n)) {
				t.Fatalf("%d blocks: wrong bytes", n)
			}
		}
		s.expect(objA, []sheepdog.LayerID{1}, far-1, nil, last[:blockSize], last[blockSize:2*blockSize], last[2*blockSize:])
	})
}

func testBadRequests(t *testing.T, s *store) {
	good := data(objA, 1, 0, Fill(1, 1), 1)
	short := good
	short.Count = 2
	none := zero(objA, 1, 0, 0, 1)
	far := zero(objA, 1, 1<<(sheepdog.MaxBlockSizeShift-12)-1, 2, 1)
	errs := make([]error, 4)
	s.engine().Write([]sheepdog.Op{short, good, none, far}, errs)
	for i, want := range []bool{true, false, true, true} {
		if errors.Is(errs[i], sheepdog.ErrInvalid) != want {
			t.Errorf("op %d: %v", i, errs[i])
		}
	}
	s.expect(objA, []sheepdog.LayerID{1}, 0, good.Data, nil)
	if err := s.engine().Read(objA, []sheepdog.LayerID{1}, 0, 2, make([]byte, blockSize), make([]sheepdog.BlockState, 2)); !errors.Is(err, sheepdog.ErrInvalid) {
		t.Errorf("short buffer: %v", err)
	}
	if err := s.engine().Records(objA, []sheepdog.LayerID{1}, 0, 2, make([]sheepdog.Record, 1)); !errors.Is(err, sheepdog.ErrInvalid) {
		t.Errorf("short records: %v", err)
	}
	if err := s.engine().Merge(1, 1); !errors.Is(err, sheepdog.ErrInvalid) {
		t.Errorf("merge into itself: %v", err)
	}
	if err := s.engine().Put("", nil); !errors.Is(err, sheepdog.ErrInvalid) {
		t.Errorf("fact without a name: %v", err)
	}
	s.engine().Write(nil, nil)
}

func compareEntries(a, b sheepdog.ListEntry) int {
	switch {
	case a.Object.Partition() != b.Object.Partition():
		return int(a.Object.Partition()) - int(b.Object.Partition())
	case a.Object.Family != b.Object.Family:
		return int(a.Object.Family) - int(b.Object.Family)
	case a.Object.Index != b.Object.Index:
		return int(a.Object.Index) - int(b.Object.Index)
	}
	return int(a.Layer) - int(b.Layer)
}

func testList(t *testing.T, s *store) {
	want := make(map[sheepdog.ListEntry]bool)
	add := func(from, to int) {
		for i := from; i < to; i++ {
			obj := sheepdog.ObjectID{Family: sheepdog.FamilyID(1 + i%3), Index: sheepdog.Index(i / 6)}
			layer := sheepdog.LayerID(10 + i%5)
			s.write(zero(obj, layer, sheepdog.BlockNo(i%100), 1, 1))
			want[sheepdog.ListEntry{Object: obj, Layer: layer}] = true
		}
	}
	check := func() {
		got := s.list()
		if len(got) != len(want) || !slices.IsSortedFunc(got, compareEntries) {
			t.Fatalf("%d entries, want %d; sorted: %v", len(got), len(want), slices.IsSortedFunc(got, compareEntries))
		}
		for _, e := range got {
			if !want[sheepdog.ListEntry{Object: e.Object, Layer: e.Layer}] {
				t.Fatalf("%v is listed", e)
			}
		}
		s.checkPages(got)
		s.checkWanted(got)
	}
	add(0, 200)
	check()
	s.r.Reopen(t)
	check()
	add(200, 400) // some old, some new objects
	s.everywhere(check)
}

func (s *store) checkPages(all []sheepdog.ListEntry) {
	s.t.Helper()
	var paged []sheepdog.ListEntry
	for after := (sheepdog.ListEntry{}); ; {
		n := 0
		s.must(s.engine().List(after, nil, func(e sheepdog.ListEntry) bool {
			paged, after = append(paged, e), e
			n++
			return n < 7
		}))
		if n < 7 {
			break
		}
	}
	if !slices.Equal(paged, all) {
		s.t.Fatalf("pages have %d entries, the whole %d", len(paged), len(all))
	}
}

func (s *store) checkWanted(all []sheepdog.ListEntry) {
	s.t.Helper()
	odd := func(p sheepdog.Partition) bool { return p&1 == 1 }
	var got, want []sheepdog.ListEntry
	s.must(s.engine().List(sheepdog.ListEntry{}, odd, func(e sheepdog.ListEntry) bool {
		got = append(got, e)
		return true
	}))
	for _, e := range all {
		if odd(e.Object.Partition()) {
			want = append(want, e)
		}
	}
	if !slices.Equal(got, want) {
		s.t.Fatalf("%d entries in wanted partitions, want %d", len(got), len(want))
	}
}

func testDigests(t *testing.T, s *store) {
	digest := func() uint64 {
		t.Helper()
		l := s.list()
		if len(l) != 1 {
			t.Fatalf("%d objects", len(l))
		}
		return l[0].Digest
	}
	seen := make(map[uint64]string)
	step := func(name string, ops ...sheepdog.Op) {
		t.Helper()
		s.write(ops...)
		d := digest()
		if was, ok := seen[d]; ok {
			t.Fatalf("%s has the digest of %s", name, was)
		}
		seen[d] = name
		s.everywhere(func() {
			if digest() != d {
				t.Fatalf("%s: digest moved", name)
			}
		})
	}
	v := Fill(1, 1)
	step("data", data(objA, 1, 0, v, 1))
	step("newer stamp", data(objA, 1, 0, v, 2))
	step("zero", zero(objA, 1, 0, 1, 3))
	step("another block", zero(objA, 1, 1, 1, 3))
	step("another chunk", data(objA, 1, 900, v, 3))
}

func testDigestOrder(t *testing.T, open func(t *testing.T) Reopener) {
	var ops []sheepdog.Op
	for i := range 40 {
		b := Fill(uint64(i), 1+i%20)
		ops = append(ops, data(sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(i % 4)}, 5, sheepdog.BlockNo(i*7%90), b, uint64(100+i)))
	}
	var lists [2][]sheepdog.ListEntry
	for k := range lists {
		s := &store{t: t, r: open(t)}
		for i := range ops {
			s.write(ops[i])
			if k == 1 && i == 20 {
				s.r.Reopen(t)
			}
		}
		lists[k] = s.list()
		slices.Reverse(ops)
	}
	if !slices.Equal(lists[0], lists[1]) {
		t.Fatalf("digests differ: %v and %v", lists[0], lists[1])
	}
}
