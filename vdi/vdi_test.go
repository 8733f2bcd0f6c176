package vdi

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// Random unaligned reads, writes and zeroes equal those of a flat array.
func TestVolumeIsAnArrayOfBytes(t *testing.T) {
	m := newWorld().manager(t, 1)
	const size = 3<<20 + 700
	create(t, m, "v", size)
	v := open(t, m, "v", "")
	model := make([]byte, size)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 400 {
		off := r.Uint64N(size)
		n := min(1+r.Uint64N(20000), size-off)
		if i%10 == 0 {
			n = min(1<<20+r.Uint64N(1<<20), size-off) // over object borders
		}
		switch r.IntN(3) {
		case 0:
			p := fill(int(n), byte(i+1))
			write(t, v, off, p)
			copy(model[off:], p)
		case 1:
			if err := v.ZeroAt(t.Context(), off, n); err != nil {
				t.Fatal(err)
			}
			clear(model[off : off+n])
		case 2:
			expect(t, v, off, model[off:off+n])
		}
	}
	expect(t, v, 0, model)
}

func TestSnapshotAndCloneAreIndependent(t *testing.T) {
	m := newWorld().manager(t, 1)
	create(t, m, "base", 4<<20)
	base := open(t, m, "base", "")
	write(t, base, 4096, fill(8192, 1))
	if _, err := m.Snapshot(t.Context(), directory.Snapshot{Name: "base", Tag: "one"}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Clone(t.Context(), directory.Clone{Source: "base", Snapshot: "one", Name: "c"}); err != nil {
		t.Fatal(err)
	}
	c := open(t, m, "c", "")
	snap := open(t, m, "base", "one")
	expect(t, c, 4096, fill(8192, 1))
	write(t, base, 4096, fill(4096, 2))
	write(t, c, 8192, fill(100, 3)) // merges with the base's block
	expect(t, snap, 4096, fill(8192, 1))
	expect(t, base, 4096, append(fill(4096, 2), fill(4096, 1)...))
	expect(t, c, 4096, append(append(fill(4096, 1), fill(100, 3)...), fill(3996, 1)...))
	if err := snap.WriteAt(t.Context(), fill(1, 1), 0); !errors.Is(err, sheepdog.ErrFrozen) {
		t.Fatalf("wrote a snapshot: %v", err)
	}
	if err := m.DeleteSnapshot(t.Context(), directory.DeleteSnapshot{Name: "base", Snapshot: "one"}); err != nil {
		t.Fatal(err)
	}
	expect(t, c, 4096, append(append(fill(4096, 1), fill(100, 3)...), fill(3996, 1)...))
	expect(t, c, 2<<20, fill(5000, 0))
}

// A snapshot taken under load is one moment: a writer writes the same number
// into two objects, first A then B; in every snapshot A is B or one ahead.
func TestSnapshotUnderLoadIsOneMoment(t *testing.T) {
	m := newWorld().manager(t, 1)
	create(t, m, "v", 4<<20)
	v := open(t, m, "v", "")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := byte(1); ; i = i%250 + 1 {
			select {
			case <-stop:
				return
			default:
			}
			write(t, v, 0, fill(4096, i))
			write(t, v, 2<<20, fill(4096, i))
		}
	})
	for i := range 30 {
		out, err := m.Snapshot(t.Context(), directory.Snapshot{Name: "v"})
		if err != nil {
			t.Fatal(err)
		}
		if out.SnapID != uint32(i+1) {
			t.Fatalf("snapshot %d has id %d", i+1, out.SnapID)
		}
	}
	close(stop)
	wg.Wait()
	for _, e := range m.opt.Directory.ListName("v") {
		if e.SnapID == 0 {
			continue
		}
		s := &Volume{m: m, name: "v@", shift: testShift, layer: e.Layer, size: e.Size}
		a, b := make([]byte, 4096), make([]byte, 4096)
		if err := errors.Join(s.ReadAt(t.Context(), a, 0), s.ReadAt(t.Context(), b, 2<<20)); err != nil {
			t.Fatal(err)
		}
		if d := (int(a[0]) - int(b[0]) + 250) % 250; d > 1 {
			t.Fatalf("snapshot %d has A=%d and B=%d", e.SnapID, a[0], b[0])
		}
		if !bytes.Equal(a, fill(4096, a[0])) || !bytes.Equal(b, fill(4096, b[0])) {
			t.Fatal("torn block")
		}
	}
}

func TestSnapshotsWithoutWritesShareALayer(t *testing.T) {
	m := newWorld().manager(t, 1)
	create(t, m, "v", 1<<20)
	v := open(t, m, "v", "")
	write(t, v, 0, fill(4096, 1))
	var layers []sheepdog.LayerID
	for range 3 {
		out, err := m.Snapshot(t.Context(), directory.Snapshot{Name: "v"})
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, out.Layer)
	}
	if layers[0] != layers[1] || layers[1] != layers[2] {
		t.Fatalf("snapshots have layers %v, want one", layers)
	}
	write(t, v, 0, fill(4096, 2))
	expect(t, open(t, m, "v", "3"), 0, fill(4096, 1))
}

// Two gateways: one coordinates, the other forwards, and both see each other's
// writes at once; when the coordinator's last volume closes the other takes
// over.
func TestSecondGatewayForwardsAndTakesOver(t *testing.T) {
	w := newWorld()
	a, b := w.manager(t, 1), w.manager(t, 2)
	create(t, a, "v", 2<<20)
	va, vb := open(t, a, "v", ""), open(t, b, "v", "")
	write(t, va, 0, fill(4096, 1))
	expect(t, vb, 0, fill(4096, 1))
	write(t, vb, 1<<20-2048, fill(4096, 2))
	expect(t, va, 1<<20-2048, fill(4096, 2))
	if b.local(va.family.Load().id) != nil {
		t.Fatal("both coordinate")
	}
	if err := vb.Flush(t.Context()); err != nil || w.volatile != 0 {
		t.Fatalf("forwarded flush: %v, %d writes volatile", err, w.volatile)
	}
	if err := va.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(t, vb, 0, fill(4096, 3))
	expect(t, vb, 0, fill(4096, 3))
	if b.local(vb.family.Load().id) == nil {
		t.Fatal("the second gateway did not take over")
	}
}

// Snapshots asked of any node are taken at the coordinator.
func TestSnapshotThroughAnotherNode(t *testing.T) {
	w := newWorld()
	a, b := w.manager(t, 1), w.manager(t, 2)
	create(t, a, "v", 1<<20)
	v := open(t, a, "v", "")
	write(t, v, 0, fill(4096, 1))
	if _, err := b.Snapshot(t.Context(), directory.Snapshot{Name: "v", Tag: "s"}); err != nil {
		t.Fatal(err)
	}
	write(t, v, 0, fill(4096, 2))
	expect(t, open(t, b, "v", "s"), 0, fill(4096, 1))
	if _, err := b.Snapshot(t.Context(), directory.Snapshot{Name: "v", Tag: "s"}); !errors.Is(err, sheepdog.ErrExists) {
		t.Fatalf("second snapshot with one tag: %v", err)
	}
	write(t, v, 0, fill(4096, 3)) // the gate is open again
}

// A deposed coordinator's requests are fenced and routed to the successor, and
// a write that had reached the replicas is not applied again over a newer one.
func TestWriteThatOutlivedItsCoordinatorIsAppliedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, b := w.manager(t, 1), w.manager(t, 2)
		create(t, a, "v", 1<<20)
		va, vb := open(t, a, "v", ""), open(t, b, "v", "")
		write(t, va, 0, fill(4096, 1))
		f, _ := w.dir.Family(va.family.Load().id)

		// a's write reaches the replicas, but its coordinator is deposed before it
		// hears of it.
		o := sheepdog.Origin{Gateway: 100, Request: 77}
		na := &node{w: w, id: 1}
		req := &sheepdog.WriteRequest{Fence: sheepdog.Fence{Token: f.Token}, Object: sheepdog.ObjectID{Family: f.ID}, Layer: f.Working,
			Count: 1, Data: fill(4096, 2), Stamp: sheepdog.Stamp{Token: f.Token, Seq: 99}, Origin: o}
		if err := na.Write(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		w.setMembers(2)
		write(t, vb, 0, fill(4096, 3)) // b takes over and writes something newer
		w.setMembers(1, 2)

		c := b.local(vb.family.Load().id)
		fw := &sheepdog.ForwardRequest{Family: f.ID, Token: c.scope.Token, Op: sheepdog.ForwardWrite, Length: 4096, Data: fill(4096, 2), Origin: o}
		if err := b.Forward(t.Context(), fw, nil); err != nil {
			t.Fatal(err)
		}
		expect(t, vb, 0, fill(4096, 3))
		expect(t, va, 0, fill(4096, 3)) // a routes to b now
	})
}

func TestForwardRetriedAtTheSameCoordinatorRunsOnce(t *testing.T) {
	w := newWorld()
	a := w.manager(t, 1)
	create(t, a, "v", 1<<20)
	v := open(t, a, "v", "")
	write(t, v, 0, fill(4096, 1))
	c := a.local(v.family.Load().id)
	fw := sheepdog.ForwardRequest{Family: v.family.Load().id, Token: c.scope.Token, Op: sheepdog.ForwardWrite, Length: 4096, Data: fill(4096, 2), Origin: sheepdog.Origin{Gateway: 100, Request: 1000}} // of a member: of others nothing is remembered
	if err := a.Forward(t.Context(), &fw, nil); err != nil {
		t.Fatal(err)
	}
	write(t, v, 0, fill(4096, 3))
	if err := a.Forward(t.Context(), &fw, nil); err != nil {
		t.Fatal(err)
	}
	expect(t, v, 0, fill(4096, 3))
	fw.Token++
	if err := a.Forward(t.Context(), &fw, nil); !errors.Is(err, sheepdog.ErrNotCoordinator) {
		t.Fatalf("accepted another coordinator's token: %v", err)
	}
}

// A gateway is cut off before it hears of its write, is removed, comes back, and
// sends the write again; another was made meanwhile. The record of the first was
// dropped with the removal, so that the retry was applied over the newer write.
// (Found by tests/chaos, TestPartitions.)
func TestRetryOfAGatewayThatWasCutOffRunsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a := w.manager(t, 1)
		w.manager(t, 2)
		create(t, a, "v", 1<<20)
		v := open(t, a, "v", "")
		write(t, v, 0, fill(4096, 1))
		c := a.local(v.family.Load().id)
		fw := sheepdog.ForwardRequest{Family: v.family.Load().id, Token: c.scope.Token, Op: sheepdog.ForwardWrite, Length: 4096, Data: fill(4096, 2), Origin: sheepdog.Origin{Gateway: 200, Request: 5}}
		if err := a.Forward(t.Context(), &fw, nil); err != nil {
			t.Fatal(err)
		}
		w.setMembers(1)
		synctest.Wait()
		write(t, v, 0, fill(4096, 3))
		w.setMembers(1, 2)
		synctest.Wait()
		if err := a.Forward(t.Context(), &fw, nil); err != nil {
			t.Fatal(err)
		}
		expect(t, v, 0, fill(4096, 3))
	})
}

// A write that an earlier coordinator brought to the replicas, which may have lost it, fails
// when it is sent again, here and from another gateway: it is not acknowledged, nor applied
// over what came after it.
func TestRetryOfAWriteThatATakeoverLostFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a := w.manager(t, 1)
		create(t, a, "v", 1<<20)
		v := open(t, a, "v", "")
		o := sheepdog.Origin{Gateway: a.opt.Incarnation, Request: 5}
		w.origins[v.family.Load().id] = []sheepdog.Origin{o}
		w.lost = sheepdog.ErrChecksum
		write(t, v, 0, fill(4096, 3))
		c := a.local(v.family.Load().id)
		fw := sheepdog.ForwardRequest{Family: c.scope.Family, Token: c.scope.Token, Op: sheepdog.ForwardWrite, Length: 4096, Data: fill(4096, 2), Origin: o}
		if err := a.Forward(t.Context(), &fw, nil); !errors.Is(err, sheepdog.ErrChecksum) {
			t.Errorf("a retry from elsewhere: %v, want %v", err, sheepdog.ErrChecksum)
		}
		if err := v.writeAs(t.Context(), sheepdog.ForwardWrite, piece{n: 4096}, fill(4096, 2), o, 0); !errors.Is(err, sheepdog.ErrChecksum) {
			t.Errorf("a retry here: %v, want %v", err, sheepdog.ErrChecksum)
		}
		expect(t, v, 0, fill(4096, 3))
	})
}

// Without a valid lease a coordinator answers no read. (rule 6)
func TestNoReadWithoutLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, m, v := oneVDI(t, 1<<20)
		write(t, v, 0, fill(4096, 1))
		n := m.opt.Cluster.(*node)
		n.mu.Lock()
		n.lease = false
		n.mu.Unlock()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := v.ReadAt(ctx, make([]byte, 4096), 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("read without a lease: %v", err)
		}
		n.mu.Lock()
		n.lease = true
		n.mu.Unlock()
		expect(t, v, 0, fill(4096, 1))
	})
}

// A read that overlaps a write in flight waits for it. (rule 5)
func TestReadWaitsForOverlappingWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, v := oneVDI(t, 1<<20)
		write(t, v, 0, fill(8192, 1))
		w.mu.Lock()
		w.hold = make(chan struct{})
		hold := w.hold
		w.mu.Unlock()
		var wg sync.WaitGroup
		wg.Go(func() { write(t, v, 0, fill(4096, 2)) })
		synctest.Wait()
		got := make(chan byte, 1)
		wg.Go(func() {
			p := make([]byte, 1)
			if err := v.ReadAt(t.Context(), p, 0); err != nil {
				t.Error(err)
			}
			got <- p[0]
		})
		expect(t, v, 4096, fill(4096, 1)) // another block does not wait
		synctest.Wait()
		select {
		case b := <-got:
			t.Fatalf("read %d while the write was in flight", b)
		default:
		}
		w.mu.Lock()
		w.hold = nil
		w.mu.Unlock()
		close(hold)
		wg.Wait()
		if b := <-got; b != 2 {
			t.Fatalf("read %d, want 2", b)
		}
	})
}

// A flush covers only what was acknowledged, and reports it to the replicas.
func TestFlushedNeverCoversAWriteInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, m, v := oneVDI(t, 1<<20)
		write(t, v, 0, fill(4096, 1)) // seq 1
		w.mu.Lock()
		w.hold = make(chan struct{})
		hold := w.hold
		w.mu.Unlock()
		var wg sync.WaitGroup
		wg.Go(func() { write(t, v, 4096, fill(4096, 2)) }) // seq 2, in flight
		synctest.Wait()
		if err := v.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		c := m.local(v.family.Load().id)
		if upTo := c.flushes.upTo.Load(); upTo != 1 {
			t.Fatalf("flushed up to %d, want 1", upTo)
		}
		w.mu.Lock()
		w.hold = nil
		w.mu.Unlock()
		close(hold)
		wg.Wait()
		before := w.flushes
		if err := v.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if w.flushes == before || c.flushes.upTo.Load() != 2 {
			t.Fatal("the write that ended during the first flush was not flushed by the second")
		}
	})
}

// Bug: the replicas learned of a complete flush only by the message after it, so
// a hand-over left everything since the flush before dirty, and whoever opened the
// VDI next compared all of it first, for a second or more.
func TestHandOverLeavesNothingDirty(t *testing.T) {
	w, _, v := oneVDI(t, 1<<20)
	write(t, v, 0, fill(4096, 1))
	if err := v.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(t, v, 4096, fill(4096, 2))
	if err := v.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w.settled != 2 {
		t.Errorf("the replicas know of a flush up to write %d, want 2", w.settled)
	}
}

// The same after the last write of a VDI that stays open.
func TestIdleVDIIsNotDirty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, m, v := oneVDI(t, 1<<20)
		write(t, v, 0, fill(4096, 1))
		time.Sleep(3 * m.opt.FlushEvery)
		w.mu.Lock()
		settled := w.settled
		w.mu.Unlock()
		if settled != 1 {
			t.Errorf("the replicas know of a flush up to write %d, want 1", settled)
		}
	})
}

func TestRollbackDiscardsAndFences(t *testing.T) {
	m := newWorld().manager(t, 1)
	create(t, m, "v", 1<<20)
	v := open(t, m, "v", "")
	write(t, v, 0, fill(4096, 1))
	if _, err := m.Snapshot(t.Context(), directory.Snapshot{Name: "v", Tag: "s"}); err != nil {
		t.Fatal(err)
	}
	write(t, v, 0, fill(4096, 2))
	old := m.local(v.family.Load().id)
	if _, err := m.Rollback(t.Context(), directory.Rollback{Name: "v", Snapshot: "s"}); err != nil {
		t.Fatal(err)
	}
	if old.ctx.Err() == nil {
		t.Fatal("the coordinator survived the rollback")
	}
	expect(t, v, 0, fill(4096, 1))
	write(t, v, 0, fill(4096, 3))
	expect(t, v, 0, fill(4096, 3))
}

// Twenty clones read one base: every chunk is fetched once.
func TestBaseIsReadOnceForAllClones(t *testing.T) {
	w := newWorld()
	m := w.manager(t, 1)
	create(t, m, "base", 1<<20)
	v := open(t, m, "base", "")
	write(t, v, 0, fill(512<<10, 7))
	if _, err := m.Snapshot(t.Context(), directory.Snapshot{Name: "base", Tag: "s"}); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		name := string(rune('a' + i))
		if _, err := m.Clone(t.Context(), directory.Clone{Source: "base", Snapshot: "s", Name: name}); err != nil {
			t.Fatal(err)
		}
		expect(t, open(t, m, name, ""), 0, fill(512<<10, 7))
	}
	if want := 512 << 10 / (chunkBlocks * sheepdog.BlockSize); w.reads != want {
		t.Fatalf("%d reads of the base, want %d", w.reads, want)
	}
}

// mapShelf is a shelf without bounds.
type mapShelf struct {
	mu     sync.Mutex
	chunks map[Chunk][]byte
}

func (s *mapShelf) Get(key Chunk) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.chunks[key])
}

func (s *mapShelf) Put(key Chunk, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.chunks[key] = bytes.Clone(data)
}

// A base that is larger than the cache is fetched once from another node, however
// often it is read; what this node has a replica of is not kept twice.
func TestBaseLargerThanTheCacheIsFetchedOnce(t *testing.T) {
	const size, clones = 4 << 20, 5 // the cache has 1 MiB
	w := newWorld()
	m := w.manager(t, 1)
	shelf := &mapShelf{chunks: map[Chunk][]byte{}}
	m.frozen.shelf = shelf
	create(t, m, "base", size)
	v := open(t, m, "base", "")
	write(t, v, 0, fill(size, 7))
	if _, err := m.Snapshot(t.Context(), directory.Snapshot{Name: "base", Tag: "s"}); err != nil {
		t.Fatal(err)
	}
	readAll := func(prefix string) {
		for i := range clones {
			name := prefix + string(rune('a'+i))
			if _, err := m.Clone(t.Context(), directory.Clone{Source: "base", Snapshot: "s", Name: name}); err != nil {
				t.Fatal(err)
			}
			expect(t, open(t, m, name, ""), 0, fill(size, 7))
		}
	}
	fam, _ := w.dir.Family(v.family.Load().id)
	w.place(fam.Policy, sheepdog.Placement{Acting: []sheepdog.NodeID{1, 2}})
	readAll("near")
	if len(shelf.chunks) > 0 {
		t.Errorf("%d chunks are kept that this node has a replica of", len(shelf.chunks))
	}
	w.place(fam.Policy, sheepdog.Placement{Acting: []sheepdog.NodeID{2}})
	before := w.reads
	readAll("far")
	// What the cache still had of the reads before is not counted.
	if got, most := w.reads-before, size/ChunkBytes; got > most || got < most-(1<<20)/ChunkBytes {
		t.Errorf("%d reads of a base of %d chunks", got, most)
	}
	if len(shelf.chunks) != w.reads-before {
		t.Errorf("%d chunks are kept of %d that were fetched", len(shelf.chunks), w.reads-before)
	}
}

func TestDeletedVDIFailsItsRequests(t *testing.T) {
	m := newWorld().manager(t, 1)
	create(t, m, "v", 1<<20)
	v := open(t, m, "v", "")
	write(t, v, 0, fill(4096, 1))
	if err := m.Delete(t.Context(), directory.Delete{Name: "v"}); err != nil {
		t.Fatal(err)
	}
	if err := v.WriteAt(t.Context(), fill(4096, 1), 0); !errors.Is(err, sheepdog.ErrNotFound) {
		t.Fatalf("wrote a deleted VDI: %v", err)
	}
	// NBD answers what is beyond the size itself, a write with ENOSPC.
	if n := v.Size(); n != 1<<20 {
		t.Errorf("its size is %d", n)
	}
	if _, err := m.Open("v", ""); !errors.Is(err, sheepdog.ErrNotFound) {
		t.Fatalf("opened a deleted VDI: %v", err)
	}
}

func TestStatusShowsHolesAndBase(t *testing.T) {
	m := newWorld().manager(t, 1)
	create(t, m, "base", 4<<20)
	v := open(t, m, "base", "")
	write(t, v, 1<<20, fill(8192, 1))
	if _, err := m.Snapshot(t.Context(), directory.Snapshot{Name: "base", Tag: "s"}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Clone(t.Context(), directory.Clone{Source: "base", Snapshot: "s", Name: "c"}); err != nil {
		t.Fatal(err)
	}
	c := open(t, m, "c", "")
	if err := c.ZeroAt(t.Context(), 1<<20+4096, 4096); err != nil {
		t.Fatal(err)
	}
	got, err := c.Status(t.Context(), 0, 4<<20, 100)
	if err != nil {
		t.Fatal(err)
	}
	want := []Extent{{1 << 20, sheepdog.Absent}, {4096, sheepdog.Data}, {4096, sheepdog.Zero}, {3<<20 - 8192, sheepdog.Absent}}
	if len(got) != len(want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("extent %d is %v, want %v", i, got[i], want[i])
		}
	}
}

// Zeros where nothing was ever written take no write and no space; anywhere else
// they do, also over a base.
func TestZerosOverNothingAreNotWritten(t *testing.T) {
	w := newWorld()
	m := w.manager(t, 1)
	create(t, m, "base", 12<<20)
	v := open(t, m, "base", "")
	zero := func(v *Volume, off, n uint64, writes int) {
		t.Helper()
		before := w.written()
		if err := v.ZeroAt(t.Context(), off, n); err != nil {
			t.Fatal(err)
		}
		if got := w.written() - before; got != writes {
			t.Errorf("zeros of %d bytes at %d took %d writes, want %d", n, off, got, writes)
		}
	}
	zero(v, 0, 12<<20, 0)
	write(t, v, 4<<20+8192, fill(8192, 1))
	zero(v, 0, 4<<20, 0)
	zero(v, 4<<20+8192, 4096, 1)
	zero(v, 4<<20+1, 1, 1) // of an object that exists
	expect(t, v, 4<<20+8192, append(make([]byte, 4096), fill(4096, 1)...))
	if _, err := m.Snapshot(t.Context(), directory.Snapshot{Name: "base", Tag: "s"}); err != nil {
		t.Fatal(err)
	}
	zero(v, 8<<20, 4<<20, 0)
	zero(v, 4<<20+12288, 4096, 1)
	if _, err := m.Clone(t.Context(), directory.Clone{Source: "base", Snapshot: "s", Name: "c"}); err != nil {
		t.Fatal(err)
	}
	c := open(t, m, "c", "")
	zero(c, 0, 4<<20, 0)
	zero(c, 4<<20+12288, 4096, 1)
	expect(t, c, 4<<20+8192, make([]byte, 8192))
}

// A coordinator whose lease is over while it looks does not believe that nothing
// was written: another may have.
func TestZerosOverNothingNeedTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, m, v := oneVDI(t, 1<<20)
		write(t, v, 0, fill(4096, 1))
		c := m.local(v.family.Load().id)
		n := m.opt.Cluster.(*node)
		if !c.empty(t.Context(), 7) {
			t.Fatal("with a lease it is not empty")
		}
		n.mu.Lock()
		n.lease = false
		n.mu.Unlock()
		if c.empty(t.Context(), 7) {
			t.Fatal("without a lease it is empty")
		}
		n.mu.Lock()
		n.lease = true
		n.mu.Unlock()
	})
}

// A VDI that was given back is snapshotted without a coordinator; one that is
// written again at that moment is not frozen under its writer.
func TestSnapshotOfAnIdleVDINeedsNoCoordinator(t *testing.T) {
	w, m, v := oneVDI(t, 1<<20)
	write(t, v, 0, fill(4096, 1))
	if err := v.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	before, _ := w.dir.Family(v.family.Load().id)
	if _, err := m.Snapshot(t.Context(), directory.Snapshot{Name: "v", Tag: "s"}); err != nil {
		t.Fatal(err)
	}
	if after, _ := w.dir.Family(v.family.Load().id); after.Token != before.Token {
		t.Fatal("a coordinator was appointed for a snapshot of an idle VDI")
	}
	expect(t, open(t, m, "v", "s"), 0, fill(4096, 1))

	v = open(t, m, "v", "")
	write(t, v, 0, fill(4096, 2)) // there is a coordinator now, and the layer is written
	if _, err := m.snapshotHere(t.Context(), nil, directory.Snapshot{Name: "v"}); !errors.Is(err, sheepdog.ErrConflict) {
		t.Fatalf("froze a layer under its coordinator: %v", err)
	}
}

// Bug: a VDI that was closed and opened again numbered its requests from 1 again,
// and the takeover took the first writes for old ones that were applied.
func TestReopenedVDIDoesNotRepeatRequestNumbers(t *testing.T) {
	m := newWorld().manager(t, 1)
	create(t, m, "v", 1<<20)
	for i := range 3 {
		v := open(t, m, "v", "")
		write(t, v, 0, fill(4096, byte(i+1)))
		expect(t, v, 0, fill(4096, byte(i+1)))
		if err := v.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// Bug: an appointment that was committed after its asker had given up was served
// by nobody, and everybody forwarded to it for ever.
func TestAbandonedAppointmentIsTakenUp(t *testing.T) {
	w := newWorld()
	a, b := w.manager(t, 1), w.manager(t, 2)
	create(t, a, "v", 1<<20)
	v := open(t, b, "v", "")
	f, _ := w.dir.Family(v.family.Load().id)
	if _, err := a.commitAcquire(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := v.WriteAt(ctx, fill(4096, 1), 0); err != nil {
		t.Fatal(err)
	}
	expect(t, v, 0, fill(4096, 1))
}

// Bug: a snapshot was deleted while its VDI was open. Its layer was absorbed by the
// working one, and the coordinator took what was below for encoded elsewhere: it
// forgot what the layer held, and guests read zeros. (Found by internal/sim/world,
// seed 174.)
func TestDeletedSnapshotBelowAnOpenVDI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, m, v := oneVDI(t, 12<<20)
		write(t, v, 0, fill(4096, 1))
		if _, err := m.Snapshot(t.Context(), directory.Snapshot{Name: "v", Tag: "s"}); err != nil {
			t.Fatal(err)
		}
		write(t, v, 8<<20, fill(4096, 2))
		if err := m.DeleteSnapshot(t.Context(), directory.DeleteSnapshot{Name: "v", Snapshot: "s"}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the manager has heard of it
		expect(t, v, 0, fill(4096, 1))
		expect(t, v, 8<<20, fill(4096, 2))
	})
}
