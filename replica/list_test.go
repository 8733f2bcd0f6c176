package replica

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"sheepdog"
	"sheepdog/replica/replicatest"
)

func (b *bench) list(limit int) []sheepdog.ListEntry {
	b.t.Helper()
	var all []sheepdog.Partition
	for i := range 40 {
		all = append(all, sheepdog.ObjectID{Family: fam, Index: sheepdog.Index(i)}.Partition())
	}
	slices.Sort(all)
	r := &sheepdog.ListRequest{Fence: sheepdog.Fence{Revision: b.views.View().Revision}, Policy: replicatest.Policy, Partitions: all, Limit: limit}
	return b.pages(r)
}

func (b *bench) pages(r *sheepdog.ListRequest) (out []sheepdog.ListEntry) {
	b.t.Helper()
	for {
		reply, err := b.server.List(b.t.Context(), r)
		if err != nil {
			b.t.Fatal(err)
		}
		if len(reply.Entries) > r.Limit || reply.More && len(reply.Entries) == 0 {
			b.t.Fatalf("page of %d entries, limit %d, more %v", len(reply.Entries), r.Limit, reply.More)
		}
		out = append(out, reply.Entries...)
		if !reply.More {
			return out
		}
		r.After = reply.Entries[len(reply.Entries)-1]
	}
}

// scatter writes one block of many objects in a layer.
func (b *bench) scatter(layer sheepdog.LayerID, count int, seq uint64) {
	for i := range count {
		r := repair(sheepdog.Stamp{Token: 1, Seq: seq})
		r.Object.Index, r.Layer = sheepdog.Index(i), layer
		b.mustWrite(r)
	}
}

func TestListPages(t *testing.T) {
	b := newBench(t)
	for id := sheepdog.LayerID(2); id <= 5; id++ {
		b.layers.Add(id, fam, id-1)
	}
	for id := sheepdog.LayerID(1); id <= 5; id++ {
		b.scatter(id, 20, 1)
	}
	b.layers.Absorb(3, 5)
	b.layers.Remove(2)
	all := b.list(1000)
	if len(all) != 60 {
		t.Fatalf("%d entries, want 60: 20 objects in layers 1, 4 and 5", len(all))
	}
	for limit := 1; limit < 20; limit++ {
		if got := b.list(limit); !slices.Equal(got, all) {
			t.Errorf("pages of %d differ from one page", limit)
		}
	}
}

// TestDigestsAgreeAcrossMerges has two replicas with one content, of which one
// has merged already.
func TestDigestsAgreeAcrossMerges(t *testing.T) {
	one, two := newBench(t), newBench(t)
	for _, b := range []*bench{one, two} {
		b.layers.Add(2, fam, 1)
		b.scatter(1, 10, 1)
		b.scatter(2, 5, 2)
	}
	if !slices.Equal(one.list(100), two.list(100)) {
		t.Fatal("equal replicas differ before anything was merged")
	}
	one.layers.Absorb(1, 2)
	two.layers.Absorb(1, 2)
	if err := one.engine.Merge(1, 2); err != nil {
		t.Fatal(err)
	}
	got, want := one.list(100), two.list(100)
	if !slices.Equal(got, want) || len(got) != 10 {
		t.Errorf("merged: %v\nnot merged: %v", got, want)
	}
	r := repair(sheepdog.Stamp{Token: 1, Seq: 9})
	r.Object.Index, r.Layer = 3, 2
	two.mustWrite(r)
	if slices.Equal(got, two.list(100)) {
		t.Error("a difference does not show in the digest")
	}
}

func TestListByLayer(t *testing.T) {
	b := newBench(t)
	b.layers.Add(2, fam, 1)
	b.scatter(1, 30, 1)
	b.layers.Absorb(1, 2)
	outside := sheepdog.ObjectID{Family: fam, Index: 4}
	revision := sheepdog.Revision(11)
	b.views.Publish(replicatest.Next(b.views.View(), func(v *sheepdog.View, table sheepdog.Table) {
		table[outside.Partition()] = &sheepdog.Placement{Acting: nodes(2), Target: nodes(1, 2), Since: revision}
	}))
	for _, limit := range []int{1, 7, 100} {
		got := b.pages(&sheepdog.ListRequest{Fence: sheepdog.Fence{Revision: revision}, Policy: replicatest.Policy, Layer: 2, Limit: limit})
		if len(got) != 29 || !slices.IsSortedFunc(got, func(a, b sheepdog.ListEntry) int { return int(a.Object.Index) - int(b.Object.Index) }) {
			t.Errorf("limit %d: %d objects, want the 29 of partitions that act here, ascending", limit, len(got))
		}
	}
}

// A caller that has not heard of a view asks for what acted in the one before. What
// this node acted for then it lists for as long as it holds it: views that let others
// act, one after the other, do not hold up whoever opens a disk.
func TestListByLayerOfAnOlderView(t *testing.T) {
	b := newBench(t)
	b.scatter(top, 30, 1)
	list := func() ([]sheepdog.ListEntry, error) {
		reply, err := b.server.List(t.Context(), &sheepdog.ListRequest{Fence: sheepdog.Fence{Revision: 10}, Policy: replicatest.Policy, Layer: top, Limit: 100})
		if err != nil {
			return nil, err
		}
		return reply.Entries, nil
	}
	step := func(index sheepdog.Index, acting ...sheepdog.NodeID) {
		b.views.Publish(replicatest.Next(b.views.View(), func(v *sheepdog.View, table sheepdog.Table) {
			obj := sheepdog.ObjectID{Family: fam, Index: index}
			table[obj.Partition()] = &sheepdog.Placement{Acting: acting, Target: acting, Since: v.Revision}
		}))
	}
	before, err := list()
	if err != nil || len(before) != 30 {
		t.Fatalf("%d entries, %v, want 30", len(before), err)
	}
	step(3, 1, 2, 3, 4) // another one begins to act
	step(4, 2, 3, 4)    // this one ceases to
	if got, err := list(); err != nil || !slices.Equal(got, before) {
		t.Errorf("after views of others: %v, %v, want %v", got, err, before)
	}
	if err := b.server.Evict(replicatest.Policy, sheepdog.ObjectID{Family: fam, Index: 4}, top); err != nil {
		t.Fatal(err)
	}
	_, err = list()
	wantError(t, err, sheepdog.ErrStale)
}

func TestListIsRefused(t *testing.T) {
	b := newBench(t)
	p := object.Partition()
	list := func(revision sheepdog.Revision, limit int, parts ...sheepdog.Partition) error {
		_, err := b.server.List(t.Context(), &sheepdog.ListRequest{Fence: sheepdog.Fence{Revision: revision}, Policy: replicatest.Policy,
			Partitions: parts, Layer: 77, Limit: limit})
		return err
	}
	wantError(t, list(10, 0, p), sheepdog.ErrInvalid)
	wantError(t, list(10, maxListLimit+1, p), sheepdog.ErrInvalid)
	wantError(t, list(10, 1, 9, 8), sheepdog.ErrInvalid)
	wantError(t, list(11, 1, p), sheepdog.ErrBehind)
	wantError(t, list(10, 1), sheepdog.ErrBehind) // layer 77
	b.step(sheepdog.Placement{Acting: nodes(2), Target: nodes(2)})
	wantError(t, list(10, 1, p), sheepdog.ErrStale)
	wantError(t, list(11, 1, p), sheepdog.ErrNotActing)
}

func (b *bench) fetch(r *sheepdog.FetchRequest) (*sheepdog.FetchReply, error) {
	return b.server.Fetch(b.t.Context(), r)
}

func TestFetch(t *testing.T) {
	b := newBench(t)
	b.mustWrite(request(1))
	zero := request(2)
	zero.Start, zero.Count, zero.Data = 6, 1, nil
	b.mustWrite(zero)
	b.engine.Rot(object, top, 5)
	r := b.target(3, 5)
	r.WithData = true
	reply, err := b.fetch(r)
	if err != nil {
		t.Fatal(err)
	}
	want := []sheepdog.BlockState{sheepdog.Absent, sheepdog.Data, sheepdog.Data, sheepdog.Zero, sheepdog.Absent}
	for i, rec := range reply.Records {
		if rec.State != want[i] {
			t.Errorf("block %d has state %d, want %d", i+3, rec.State, want[i])
		}
	}
	if !slices.Equal(reply.Bad, []sheepdog.BlockNo{5}) {
		t.Errorf("bad %v, want block 5", reply.Bad)
	}
	data := make([]byte, 5*sheepdog.BlockSize)
	copy(data[sheepdog.BlockSize:], fill(sheepdog.Stamp{Token: 3, Seq: 1}, 1))
	if !bytes.Equal(reply.Data, data) {
		t.Error("data differ; bad and absent blocks must be zeros")
	}
	r.WithData, r.Verify = false, true
	if reply, err = b.fetch(r); err != nil || len(reply.Data) != 0 || !slices.Equal(reply.Bad, []sheepdog.BlockNo{5}) {
		t.Errorf("verify: %d bytes, bad %v, %v", len(reply.Data), reply.Bad, err)
	}
}

// Bug: to verify an object with one block cleared 4 MiB of memory for the others, so
// that a check of a large sparse disk took minutes.
func TestVerifyReadsOnlyWhereDataAre(t *testing.T) {
	b := newBench(t)
	for i, start := range []sheepdog.BlockNo{5, 250, 780} {
		r := request(uint64(i) + 1)
		r.Start = start
		b.mustWrite(r)
	}
	b.engine.Rot(object, top, 251)
	b.engine.Rot(object, top, 780)
	reads := 0
	b.engine.OnRead = func(sheepdog.ObjectID) { reads++ }
	r := b.target(0, 1024)
	r.Verify = true
	reply, err := b.fetch(r)
	if err != nil || !slices.Equal(reply.Bad, []sheepdog.BlockNo{251, 780}) {
		t.Errorf("bad %v, want 251 and 780; %v", reply.Bad, err)
	}
	if reads != 2 {
		t.Errorf("%d reads for two stretches with data", reads)
	}
	if from, n := dataIn([]sheepdog.Record{{}, {State: sheepdog.Data}, {State: sheepdog.Zero}, {State: sheepdog.Data}, {}}, 0, 5); from != 1 || n != 3 {
		t.Errorf("data from %d, %d blocks", from, n)
	}
}

// TestFetchIsConsistent writes a block between the looks of a fetch; record and
// bytes must still belong together.
func TestFetchIsConsistent(t *testing.T) {
	b := newBench(t)
	b.mustWrite(request(1))
	seq := uint64(1)
	b.engine.OnRead = func(sheepdog.ObjectID) {
		if seq < fetchLooks { // the last look holds writers up
			seq++
			b.mustWrite(request(seq))
		}
	}
	r := b.target(4, 2)
	r.WithData = true
	reply, err := b.fetch(r)
	if err != nil {
		t.Fatal(err)
	}
	if s := reply.Records[0].Stamp; s.Seq != seq || !bytes.Equal(reply.Data, fill(s, 2)) {
		t.Errorf("record %v of write %d does not go with its bytes", s, seq)
	}
}

func TestFetchIsRefused(t *testing.T) {
	b := newBench(t)
	old := b.target(0, 1)
	large := b.target(0, 1)
	large.Count, large.WithData = 1<<20, true
	_, err := b.fetch(large)
	wantError(t, err, sheepdog.ErrInvalid)
	beyond := b.target(1000, 25)
	_, err = b.fetch(beyond)
	wantError(t, err, sheepdog.ErrInvalid)
	fenced := b.target(0, 1)
	fenced.Token = 2
	_, err = b.fetch(fenced)
	wantError(t, err, sheepdog.ErrFenced)
	b.step(sheepdog.Placement{Acting: nodes(2), Target: nodes(2)})
	_, err = b.fetch(old)
	wantError(t, err, sheepdog.ErrStale)
	_, err = b.fetch(b.target(0, 1))
	wantError(t, err, sheepdog.ErrNotActing)
	b.layers.Remove(top)
	b.step(sheepdog.Placement{Acting: nodes(1), Target: nodes(1)})
	_, err = b.fetch(b.target(0, 1))
	wantError(t, err, sheepdog.ErrNotFound)
}

// TestRepairMendsBadBlocks sends a repair with the stamp that the replica has.
func TestRepairMendsBadBlocks(t *testing.T) {
	b := newBench(t)
	stamp := sheepdog.Stamp{Token: 2, Seq: 1}
	b.mustWrite(repair(stamp))
	b.engine.Rot(object, top, 4)
	var healed []sheepdog.BlockNo
	b.server.cfg.Heal = func(_ sheepdog.ObjectID, _ sheepdog.LayerID, blocks []sheepdog.BlockNo) { healed = blocks }
	_, err := b.read(10, 3)
	wantError(t, err, sheepdog.ErrChecksum)
	if !slices.Equal(healed, []sheepdog.BlockNo{4}) {
		t.Errorf("the hook was told of %v, want block 4", healed)
	}
	b.mustWrite(repair(stamp))
	data, err := b.read(10, 3)
	if err != nil || !bytes.Equal(data, fill(stamp, 2)) {
		t.Errorf("after the repair: %v", err)
	}
	// Other bytes under the same stamp are replaced, older repairs change nothing.
	other := repair(stamp)
	other.Data = fill(sheepdog.Stamp{Token: 5, Seq: 5}, 2)
	b.mustWrite(other)
	b.mustWrite(repair(sheepdog.Stamp{Token: 1, Seq: 1}))
	if data, _ = b.read(10, 3); !bytes.Equal(data, other.Data) {
		t.Error("bytes of the repair are not in place")
	}
}

// merger merges a layer into another after the first look at any layer.
type merger struct {
	sheepdog.Engine
	from, to sheepdog.LayerID
	done     bool
}

func (m *merger) LayerObjects(layer sheepdog.LayerID, from sheepdog.Index, limit int) ([]sheepdog.Index, error) {
	out, err := m.Engine.LayerObjects(layer, from, limit)
	if !m.done {
		m.done = true
		err = errors.Join(err, m.Merge(m.from, m.to))
	}
	return out, err
}

// Bug: a layer was listed newest first. What a deleted one below held, and what
// was merged between the looks, was in neither: the object map lacked it, and
// guests read zeros.
func TestListMissesNothingThatIsMergedMeanwhile(t *testing.T) {
	b := newBench(t)
	b.layers.Add(2, fam, 1)
	b.scatter(1, 30, 1)
	b.layers.Absorb(1, 2)
	b.server.cfg.Engine = &merger{Engine: b.engine, from: 1, to: 2}
	got := b.pages(&sheepdog.ListRequest{Fence: sheepdog.Fence{Revision: b.views.View().Revision}, Policy: replicatest.Policy, Layer: 2, Limit: 100})
	if len(got) != 30 {
		t.Errorf("%d objects are listed, want 30", len(got))
	}
}

// counter counts the indexes that an engine hands out.
type counter struct {
	sheepdog.Engine
	handed int
}

func (c *counter) LayerObjects(layer sheepdog.LayerID, from sheepdog.Index, limit int) ([]sheepdog.Index, error) {
	out, err := c.Engine.LayerObjects(layer, from, limit)
	c.handed += len(out)
	return out, err
}

// Bug: each page of a list was cut out of the list of the whole layer. A disk of 1 TiB,
// whose list has 16 pages, was not opened within seconds.
func TestListOfALargeLayerReadsItOnce(t *testing.T) {
	const objects, limit = 400, 20
	b := newBench(t)
	b.layers.Add(2, fam, 1)
	b.scatter(1, objects, 1)
	b.scatter(2, objects/4, 1)
	b.layers.Absorb(1, 2)
	c := &counter{Engine: b.engine}
	b.server.cfg.Engine = c
	got := b.pages(&sheepdog.ListRequest{Fence: sheepdog.Fence{Revision: b.views.View().Revision}, Policy: replicatest.Policy, Layer: 2, Limit: limit})
	var indexes []sheepdog.Index
	for _, e := range got {
		indexes = append(indexes, e.Object.Index)
	}
	var want []sheepdog.Index
	for i := range sheepdog.Index(objects) {
		want = append(want, i)
	}
	if !slices.Equal(indexes, want) {
		t.Errorf("listed are %v", indexes)
	}
	if c.handed > 2*objects {
		t.Errorf("the engine handed out %d indexes of %d objects", c.handed, objects+objects/4)
	}
}

// A layer that was absorbed is listed with the one above it.
func TestListOfAnAbsorbedLayerIsEmpty(t *testing.T) {
	b := newBench(t)
	b.layers.Add(2, fam, 1)
	b.scatter(1, 30, 1)
	b.layers.Absorb(1, 2)
	for layer, want := range map[sheepdog.LayerID]int{1: 0, 2: 30} {
		got := b.pages(&sheepdog.ListRequest{Fence: sheepdog.Fence{Revision: b.views.View().Revision}, Policy: replicatest.Policy, Layer: layer, Limit: 100})
		if len(got) != want {
			t.Errorf("layer %d: %d objects are listed, want %d", layer, len(got), want)
		}
	}
}

// Bug: one object of absorbed layers whose records could not be read kept all that was listed
// with it from being compared, and so from being replaced.
func TestListWithAnObjectThatCannotBeRead(t *testing.T) {
	b := newBench(t)
	b.layers.Add(2, fam, 1)
	b.scatter(1, 30, 1)
	b.layers.Absorb(1, 2)
	list := func() []sheepdog.ListEntry {
		var all []sheepdog.Partition
		for p := range sheepdog.Partitions {
			all = append(all, sheepdog.Partition(p))
		}
		return b.pages(&sheepdog.ListRequest{Fence: sheepdog.Fence{Revision: b.views.View().Revision}, Policy: replicatest.Policy, Partitions: all, Limit: 100})
	}
	want := list()
	b.server.cfg.Engine = &spoiledEngine{b.engine, want[3].Object}
	got := list()
	if len(got) != len(want) {
		t.Fatalf("%d objects are listed, want %d", len(got), len(want))
	}
	for i := range got {
		if (got[i] != want[i]) != (i == 3) {
			t.Errorf("entry %d is %v, it was %v", i, got[i], want[i])
		}
	}
}

// spoiledEngine cannot read the records of one object.
type spoiledEngine struct {
	*replicatest.Engine
	object sheepdog.ObjectID
}

func (e *spoiledEngine) Records(obj sheepdog.ObjectID, chain []sheepdog.LayerID, start sheepdog.BlockNo, count uint32, recs []sheepdog.Record) error {
	if obj == e.object {
		return sheepdog.ErrIO
	}
	return e.Engine.Records(obj, chain, start, count, recs)
}

// TestRawFetch: whoever takes raw data gets the record and the bytes that the disk
// has, and verifies; whoever does not has a rotten block healed.
func TestRawFetch(t *testing.T) {
	b := newBench(t)
	b.mustWrite(request(1))
	b.engine.Rot(object, top, 5)
	var healed []sheepdog.BlockNo
	b.server.cfg.Heal = func(_ sheepdog.ObjectID, _ sheepdog.LayerID, blocks []sheepdog.BlockNo) { healed = blocks }
	r := b.target(3, 5)
	r.WithData, r.MayBeRaw = true, true
	raw, err := b.fetch(r)
	if err != nil {
		t.Fatal(err)
	}
	if !raw.Raw || len(raw.Bad) != 0 || healed != nil {
		t.Errorf("raw %v, bad %v, healed %v: want a raw reply in which nothing is known to be bad", raw.Raw, raw.Bad, healed)
	}
	good := fill(sheepdog.Stamp{Token: 3, Seq: 1}, 1)
	if !bytes.Equal(raw.Data[sheepdog.BlockSize:][:sheepdog.BlockSize], good) || bytes.Equal(raw.Data[2*sheepdog.BlockSize:][:sheepdog.BlockSize], good) {
		t.Error("block 4 differs, or the rotten block 5 does not")
	}
	r.MayBeRaw = false
	reply, err := b.fetch(r)
	if err != nil || reply.Raw || !slices.Equal(reply.Bad, []sheepdog.BlockNo{5}) || !slices.Equal(healed, reply.Bad) {
		t.Errorf("raw %v, bad %v, healed %v, %v: want block 5 bad and healed", reply.Raw, reply.Bad, healed, err)
	}
	if !slices.Equal(reply.Records, raw.Records) {
		t.Error("raw records differ")
	}
}
