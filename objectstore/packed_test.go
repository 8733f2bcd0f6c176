package objectstore

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"unsafe"

	"sheepdog"
)

// countedMeta counts what is asked of a metadata store.
type countedMeta struct {
	metadata
	asked   atomic.Int64
	largest atomic.Int64 // commit, in changes
}

func (m *countedMeta) Get(key []byte) ([]byte, error) {
	m.asked.Add(1)
	return m.metadata.Get(key)
}

func (m *countedMeta) Scan(s scan, visit func(key, value []byte) (bool, error)) error {
	m.asked.Add(1)
	return m.metadata.Scan(s, visit)
}

func (m *countedMeta) Commit(changes []change) error {
	m.largest.Store(max(m.largest.Load(), int64(len(changes))))
	return m.metadata.Commit(changes)
}

// countedDisk opens a store whose questions to the metadata are counted.
func countedDisk(t testing.TB, opts Options) (*Disk, *countedMeta) {
	t.Helper()
	opts.Meta = t.TempDir()
	opts, err := opts.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	m := new(countedMeta)
	open := opts.openMeta
	opts.openMeta = func(dir string, o metaOptions) (metadata, error) {
		var err error
		m.metadata, err = open(dir, o)
		return m, err
	}
	return openDisk(t, opts).d, m
}

// Random writes, zeros, merges, drops, destages and reads of a store that packs each
// pile as soon as nobody uses it, and with odd seeds soon forgets it, are those of the
// model.
func TestPackedMapsAreThoseOfTheModel(t *testing.T) {
	for seed := range uint64(4) {
		u := openDisk(t, Options{MapCacheBytes: 1 << 20, openMeta: newFakeMeta().open})
		u.d.cache.limit = 0
		if seed%2 == 1 {
			u.d.cache.packedLimit = 2000
		}
		p := packedPair{t: t, rng: rand.New(rand.NewPCG(seed, 7)), d: u.d, m: NewMemory()}
		for step := range 600 {
			p.step(uint64(step + 1))
		}
		if err := u.d.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

type packedPair struct {
	t   *testing.T
	rng *rand.Rand
	d   *Disk
	m   *Memory
}

func (p *packedPair) layer() sheepdog.LayerID { return sheepdog.LayerID(1 + p.rng.IntN(4)) }

func (p *packedPair) object() sheepdog.ObjectID {
	return sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(p.rng.IntN(5))}
}

func (p *packedPair) step(seq uint64) {
	a, b := p.layer(), p.layer()
	switch n := p.rng.IntN(40); {
	case n == 0 && a != b:
		checkBoth(p.t, p.d.Merge(a, b), p.m.Merge(a, b))
	case n == 1:
		obj := p.object()
		checkBoth(p.t, p.d.DropObject(obj, a), p.m.DropObject(obj, a))
	case n == 2:
		checkBoth(p.t, p.d.DropLayer(a), p.m.DropLayer(a))
	case n < 8:
		checkBoth(p.t, p.d.destage(true), nil)
	case n < 20:
		p.write(seq, a)
	default:
		p.read()
	}
}

func (p *packedPair) write(seq uint64, layer sheepdog.LayerID) {
	op := sheepdog.Op{Object: p.object(), Layer: layer, Start: sheepdog.BlockNo(p.rng.IntN(300)), Count: uint32(1 + p.rng.IntN(1+p.rng.IntN(90))),
		Stamp: sheepdog.Stamp{Token: 1, Seq: uint64(p.rng.IntN(int(seq))) + 1}} // some are too old
	if p.rng.IntN(3) > 0 {
		op.Data = make([]byte, op.Count*blockSize)
		op.Data[0], op.Data[len(op.Data)-1] = byte(seq), byte(seq>>8)
	}
	checkBoth(p.t, writeOne(p.d, op), writeOne(p.m, op))
}

func (p *packedPair) read() {
	obj, start, n := p.object(), sheepdog.BlockNo(p.rng.IntN(300)), uint32(1+p.rng.IntN(150))
	chain := []sheepdog.LayerID{p.layer(), p.layer()}
	var bufs [2][]byte
	var states [2][]sheepdog.BlockState
	var recs [2][]sheepdog.Record
	for i, e := range []sheepdog.Engine{p.d, p.m} {
		bufs[i], states[i], recs[i] = make([]byte, n*blockSize), make([]sheepdog.BlockState, n), make([]sheepdog.Record, n)
		if err := e.Read(obj, chain, start, n, bufs[i], states[i]); err != nil {
			p.t.Fatal(err)
		}
		if err := e.Records(obj, chain, start, n, recs[i]); err != nil {
			p.t.Fatal(err)
		}
	}
	if !bytes.Equal(bufs[0], bufs[1]) || !slices.Equal(states[0], states[1]) || !slices.Equal(recs[0], recs[1]) {
		p.t.Fatalf("object %s chain %v blocks %d to %d are not those of the model", obj, chain, start, uint32(start)+n-1)
	}
	if p.d.TryRead(obj, chain, start, n, bufs[0], states[0]) && (!bytes.Equal(bufs[0], bufs[1]) || !slices.Equal(states[0], states[1])) {
		p.t.Fatalf("object %s chain %v blocks %d to %d: a prompt read is not that of the model", obj, chain, start, uint32(start)+n-1)
	}
}

// sparse writes one block into each of n objects, and has the maps committed.
func sparse(t testing.TB, d *Disk, n int) {
	t.Helper()
	ops, errs := make([]sheepdog.Op, 64), make([]error, 64)
	buf := make([]byte, blockSize)
	for i := 0; i < n; i += len(ops) {
		for j := range ops {
			ops[j] = sheepdog.Op{Object: sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(i + j)}, Layer: 1, Count: 1, Data: buf,
				Stamp: sheepdog.Stamp{Token: 3, Seq: uint64(i + j + 1)}}
		}
		d.Write(ops, errs)
		for _, err := range errs {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := d.destage(true); err != nil {
		t.Fatal(err)
	}
}

// Of as many objects as a disk of a TiB has, if only one block of each was written, the
// default cache knows the maps. (With fewer objects and a smaller cache.)
func TestMapsOfSparseObjectsAreSmall(t *testing.T) {
	const objects = 4096
	const share = 96 << 20 / ((1 << 40) / (4 << 20)) // of the default, for each object
	d, meta := countedDisk(t, Options{MapCacheBytes: objects * share})
	sparse(t, d, objects)
	buf, states := make([]byte, blockSize), make([]sheepdog.BlockState, 1)
	read := func(i int) {
		t.Helper()
		err := d.Read(sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(i)}, []sheepdog.LayerID{1}, 0, 1, buf, states)
		if err != nil || states[0] != sheepdog.Data {
			t.Fatalf("object %d: state %d, %v", i, states[0], err)
		}
	}
	for i := range objects {
		read(i)
	}
	before := meta.asked.Load()
	for i := range objects {
		read(i)
	}
	if n := meta.asked.Load() - before; n > 0 {
		t.Errorf("the metadata store was asked %d times for %d objects that were all read before", n, objects)
	}
	table := int64(0)
	for i := range d.headers.shards {
		p := &d.headers.shards[i].piles
		table += int64(cap(p.bytes)) + int64(len(p.slots))*int64(unsafe.Sizeof(packSlot{}))
	}
	if used, packed := d.cache.used.Load(), d.cache.packedUsed.Load(); used+packed+table > objects*share+64*chunkBytes {
		t.Errorf("maps take %d KiB, packed %d KiB, and in headers %d KiB; the bound is %d KiB", used>>10, packed>>10, table>>10, objects*share>>10)
	}
}

// Objects with few blocks do not take the room of maps in use; large ones do.
func TestSmallPilesArePackedSoon(t *testing.T) {
	d, _ := countedDisk(t, Options{MapCacheBytes: 3 << 20, NoSync: true})
	const objects = 2048
	sparse(t, d, objects)
	if used := d.cache.used.Load(); used > d.cache.limit/smallPilePart+cacheShards*smallPile {
		t.Errorf("%d objects of one block take %d KiB unpacked", objects, used>>10)
	}
	data := make([]byte, 1024*blockSize)
	for i := range sheepdog.Index(40) {
		mustWrite(t, d, sheepdog.Op{Object: sheepdog.ObjectID{Family: 2, Index: i}, Layer: 2, Count: 1024, Data: data, Stamp: sheepdog.Stamp{Token: 1, Seq: 1}})
	}
	if err := d.destage(true); err != nil {
		t.Fatal(err)
	}
	if used := d.cache.used.Load(); used < d.cache.limit*3/4 || used > d.cache.limit+chunkBytes {
		t.Errorf("40 objects of 1024 blocks take %d KiB of %d unpacked", used>>10, d.cache.limit>>10)
	}
}

// lookPacked is look in a packed pile.
func lookPacked(b []byte, chain []sheepdog.LayerID, start sheepdog.BlockNo, out []slot) bool {
	v := view{chain: chain}
	v.packed(b)
	return v.look(start, out)
}

// A packed pile shows what it shows unpacked, whatever the chain and the range, and
// tells where it does not know.
func TestPackedPilesShowTheSame(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	known := 0
	for seed := range uint64(2000) {
		p := new(pile)
		p.loaded.Store(true)
		for i := range 1 + r.IntN(12) {
			n := uint32(1 + r.IntN(90))
			e := &entry{kind: entryZero, key: objectKey{p.id, sheepdog.LayerID(1 + r.IntN(4))}, start: sheepdog.BlockNo(r.IntN(150)), count: n,
				stamp: sheepdog.Stamp{Token: 1, Seq: seed + uint64(i)}}
			if r.IntN(3) > 0 {
				e.kind, e.runs = entryExtent, []run{{extentPlace(1, r.Uint64N(1<<20)+1), n}}
				for range n {
					e.crcs = append(e.crcs, r.Uint32())
				}
			}
			p.apply(e, lsn(i+1), new(outcome))
		}
		for _, o := range p.objects {
			o.dirty = false
			if r.IntN(4) == 0 {
				o.complete = false
				o.chunks.forget(uint32(r.IntN(4)))
			}
		}
		p.since, p.freed = 0, nil
		b := new(packer).pack(p)
		for range 20 {
			chain := make([]sheepdog.LayerID, 1+r.IntN(6))
			for i := range chain {
				chain[i] = sheepdog.LayerID(1 + i)
			}
			r.Shuffle(len(chain), func(i, j int) { chain[i], chain[j] = chain[j], chain[i] })
			start := sheepdog.BlockNo(r.IntN(240))
			want, got := make([]slot, 1+r.IntN(100)), make([]slot, 100)
			got = got[:len(want)]
			if !lookPacked(b, chain, start, got) {
				again := &pile{packed: b}
				if again.unpack() && again.unpackChain(chain, start, want) {
					t.Fatalf("seed %d: a packed pile does not know blocks from %d on of chain %v", seed, start, chain)
				}
				continue
			}
			if known++; !p.look(chain, start, want) {
				// What is above a layer that is not known may hide it: then the pile does not ask.
				continue
			}
			if !slices.Equal(got, want) {
				t.Fatalf("seed %d: %d blocks from %d on of chain %v are %v packed, want %v", seed, len(want), start, chain, got, want)
			}
		}
	}
	if known < 10_000 {
		t.Errorf("only %d questions could be answered", known)
	}
}

// A large object, of which a chunk is read here and there, is unpacked only as far as
// it is read.
func TestOnlyWhatIsReadIsUnpacked(t *testing.T) {
	d, meta := countedDisk(t, Options{MapCacheBytes: 1 << 20})
	obj := sheepdog.ObjectID{Family: 1}
	mustWrite(t, d, sheepdog.Op{Object: obj, Layer: 1, Count: 1024, Data: make([]byte, 1024*blockSize), Stamp: sheepdog.Stamp{Token: 1, Seq: 1}})
	if err := d.destage(true); err != nil {
		t.Fatal(err)
	}
	p := d.cache.pin(obj)
	packed := new(packer).pack(p)
	d.cache.unpin(p)
	again := &pile{id: obj, packed: packed}
	before := meta.asked.Load()
	slots := make([]slot, 1)
	if d.recall(again) != nil || !again.unpackChain([]sheepdog.LayerID{1}, 700, slots) || slots[0].state != sheepdog.Data {
		t.Error("a block of a packed object is not at hand")
	}
	if n := again.find(1).chunks.n; n != 1 {
		t.Errorf("%d chunks were unpacked for one block", n)
	}
	if n := 16 * chunkBytes / len(packed); n < 5 {
		t.Errorf("%d bytes packed are a %dth of the map", len(packed), n)
	}
	if n := meta.asked.Load() - before; n > 0 {
		t.Errorf("the metadata store was asked %d times", n)
	}
}

// BenchmarkReadSparse reads one block of random objects that have only one: maps that
// are in use, and maps that are in headers.
func BenchmarkReadSparse(b *testing.B) {
	objects := sparseObjects(b)
	d, _ := countedDisk(b, Options{})
	sparse(b, d, objects)
	for _, run := range []struct {
		name  string
		limit int64
	}{{"in headers", 0}, {"in use", 1 << 30}} {
		b.Run(run.name, func(b *testing.B) {
			d.cache.limit = run.limit
			buf, states, chain := make([]byte, blockSize), make([]sheepdog.BlockState, 1), []sheepdog.LayerID{1}
			read := func(i int) {
				if err := d.Read(sheepdog.ObjectID{Family: 1, Index: sheepdog.Index(i)}, chain, 0, 1, buf, states); err != nil {
					b.Fatal(err)
				}
			}
			for i := range objects {
				read(i)
			}
			r := rand.New(rand.NewPCG(1, 1))
			b.ReportAllocs()
			for b.Loop() {
				read(r.IntN(objects))
			}
		})
	}
}
