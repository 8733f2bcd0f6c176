package replica

import (
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"sheepdog"
	"sheepdog/replica/replicatest"
)

func (b *bench) seal(revision sheepdog.Revision, token sheepdog.Token) *sheepdog.SealReply {
	b.t.Helper()
	reply, err := b.server.Seal(b.t.Context(), &sheepdog.SealRequest{Fence: sheepdog.Fence{Revision: revision, Token: token}, Family: fam})
	if err != nil {
		b.t.Fatal(err)
	}
	return reply
}

func run(start sheepdog.BlockNo, count uint32, token sheepdog.Token, seq uint64) sheepdog.DirtyBlocks {
	return sheepdog.DirtyBlocks{Object: object, Layer: top, Start: start, Count: count, Stamp: sheepdog.Stamp{Token: token, Seq: seq}}
}

func (b *bench) wantDirty(reply *sheepdog.SealReply, want ...sheepdog.DirtyBlocks) {
	b.t.Helper()
	if !slices.Equal(reply.Dirty, want) {
		b.t.Errorf("dirty: %+v\nwant:  %+v", reply.Dirty, want)
	}
}

func TestSealTellsWhatIsDirty(t *testing.T) {
	b := newBench(t)
	second := request(2)
	second.Start = 5
	b.mustWrite(request(1), second)
	b.wantDirty(b.seal(10, 3), run(4, 1, 3, 1), run(5, 2, 3, 2))
}

func TestRepairIsNotDirty(t *testing.T) {
	b := newBench(t)
	b.mustWrite(repair(sheepdog.Stamp{Token: 2, Seq: 1}))
	b.wantDirty(b.seal(10, 3))
}

// TestFailedWriteIsDirty as far as it is in place, which the engine is asked: a
// takeover believes marks that all replicas have alike.
func TestFailedWriteIsDirty(t *testing.T) {
	b := newBench(t)
	b.engine.Fail(sheepdog.ErrIO)
	wantError(t, b.write(request(1))[0], sheepdog.ErrIO)
	b.engine.Fail(nil)
	b.wantDirty(b.seal(10, 3))
	var errs [1]error
	r := request(1)
	b.engine.Write([]sheepdog.Op{{Object: r.Object, Layer: r.Layer, Start: r.Start, Count: 1, Stamp: r.Stamp}}, errs[:])
	b.wantDirty(b.seal(10, 3), run(4, 1, 3, 1))
}

func TestFlushClearsDirty(t *testing.T) {
	flush := func(b *bench, token sheepdog.Token, flushed uint64) {
		r := &sheepdog.FlushRequest{Fence: sheepdog.Fence{Revision: 10, Token: token}, Family: fam, Flushed: flushed}
		if err := b.server.Flush(b.t.Context(), r); err != nil {
			b.t.Fatal(err)
		}
	}
	second := func() *sheepdog.WriteRequest { r := request(2); r.Start = 8; return r }
	t.Run("up to the number", func(t *testing.T) {
		b := newBench(t)
		b.mustWrite(request(1), second())
		flush(b, 3, 1)
		b.wantDirty(b.seal(10, 3), run(8, 2, 3, 2))
		if b.engine.Unflushed() {
			t.Error("flush made nothing durable")
		}
	})
	t.Run("by a later write", func(t *testing.T) {
		b := newBench(t)
		r := second()
		r.Flushed = 1
		b.mustWrite(request(1), r)
		b.wantDirty(b.seal(10, 3), run(8, 2, 3, 2))
	})
	t.Run("zero clears nothing of an older token", func(t *testing.T) {
		b := newBench(t)
		b.mustWrite(request(1))
		flush(b, 4, 0)
		b.wantDirty(b.seal(10, 4), run(4, 2, 3, 1))
	})
	t.Run("the first flush of a newer token clears the older", func(t *testing.T) {
		b := newBench(t)
		b.mustWrite(request(1))
		flush(b, 4, 1)
		b.wantDirty(b.seal(10, 4))
	})
	t.Run("old token", func(t *testing.T) {
		b := newBench(t)
		b.seal(10, 4)
		r := &sheepdog.FlushRequest{Fence: sheepdog.Fence{Revision: 10, Token: 3}, Family: fam, Flushed: 1}
		wantError(t, b.server.Flush(t.Context(), r), sheepdog.ErrFenced)
	})
	t.Run("without sync", func(t *testing.T) {
		b := newBench(t)
		b.server.cfg.NoSync = true
		b.mustWrite(request(1))
		flush(b, 3, 1)
		if b.engine.Flushes() != 0 {
			t.Error("flushed although told not to")
		}
	})
}

func TestSyncAlways(t *testing.T) {
	b := newBench(t)
	b.views.Publish(replicatest.Next(b.views.View(), func(v *sheepdog.View, _ sheepdog.Table) { v.Config.SyncAlways = true }))
	b.mustWrite(request(1))
	if b.engine.Unflushed() {
		t.Error("acknowledged before it was durable")
	}
}

func TestOrigins(t *testing.T) {
	b := newBench(t)
	for n := uint64(1); n <= 4; n++ {
		r := request(n)
		r.Origin = sheepdog.Origin{Gateway: 2, Request: n + 10}
		if n == 4 {
			r.OriginDone = 13
		}
		b.mustWrite(r)
	}
	b.engine.Fail(sheepdog.ErrIO)
	failed := request(5)
	failed.Origin = sheepdog.Origin{Gateway: 2, Request: 15}
	b.write(failed)
	b.engine.Fail(nil)
	got := b.seal(10, 3).Origins
	slices.SortFunc(got, func(a, b sheepdog.Origin) int { return int(a.Request) - int(b.Request) })
	if want := []sheepdog.Origin{{Gateway: 2, Request: 13}, {Gateway: 2, Request: 14}}; !slices.Equal(got, want) {
		t.Errorf("origins %v, want %v", got, want)
	}
}

// A gateway that was removed because it was cut off sends again, when it is back,
// what it heard no answer to. It was forgotten with its removal, so that a retry
// overwrote newer writes. (Found by tests/chaos, TestPartitions.)
func TestOriginsOfAGatewayThatIsCutOffStay(t *testing.T) {
	b := newBench(t)
	gateway := b.views.View().Members[1]
	r := request(1)
	r.Origin = sheepdog.Origin{Gateway: gateway.Incarnation, Request: 1}
	b.mustWrite(r)
	members := slices.Clone(b.views.View().Members)
	publish := func(to []sheepdog.Member) {
		b.views.Publish(replicatest.Next(b.views.View(), func(v *sheepdog.View, _ sheepdog.Table) { v.Members = to }))
	}
	publish(slices.Delete(slices.Clone(members), 1, 2))
	if got := b.seal(10, 3).Origins; len(got) != 1 {
		t.Errorf("origins while the gateway is cut off: %v", got)
	}
	publish(members)
	if got := b.seal(11, 3).Origins; len(got) != 1 {
		t.Errorf("origins when it is back: %v", got)
	}
	members[1].Incarnation += 1000
	publish(members)
	if got := b.seal(12, 3).Origins; len(got) != 0 {
		t.Errorf("origins of a process that has ended: %v", got)
	}
}

func TestSealIsRefused(t *testing.T) {
	b := newBench(t)
	b.seal(10, 5)
	_, err := b.server.Seal(t.Context(), &sheepdog.SealRequest{Fence: sheepdog.Fence{Revision: 10, Token: 4}, Family: fam})
	wantError(t, err, sheepdog.ErrFenced)
	_, err = b.server.Seal(t.Context(), &sheepdog.SealRequest{Fence: sheepdog.Fence{Revision: 11, Token: 5}, Family: fam})
	wantError(t, err, sheepdog.ErrBehind)
	_, err = b.server.Seal(t.Context(), &sheepdog.SealRequest{Fence: sheepdog.Fence{Revision: 10, Token: 5}})
	wantError(t, err, sheepdog.ErrInvalid)
}

// blockedUnless waits until somebody waits for the gate of the object to be
// empty, or done is true; it reports the former.
func (b *bench) blockedUnless(done func() bool) bool {
	gate := &b.server.shards[shardOf(object.Partition())].gate
	for !done() {
		if !gate.TryRLock() {
			return true
		}
		gate.RUnlock()
		runtime.Gosched()
	}
	return false
}

// TestSealWaitsForWrites has a write in the engine when the seal comes: the
// seal must not answer before it is applied, and must report it.
func TestSealWaitsForWrites(t *testing.T) {
	b := newBench(t)
	inEngine, goOn := make(chan struct{}), make(chan struct{})
	b.engine.OnWrite = func([]sheepdog.Op) { close(inEngine); <-goOn }
	written, sealed := make(chan error, 1), make(chan *sheepdog.SealReply, 1)
	go func() { written <- b.write(request(1))[0] }()
	<-inEngine
	go func() { sealed <- b.seal(10, 4) }()
	if !b.blockedUnless(func() bool { return len(sealed) != 0 }) {
		t.Error("sealed while an older write was being applied")
	}
	close(goOn)
	b.wantDirty(<-sealed, run(4, 2, 3, 1))
	wantError(t, <-written, nil)
	b.engine.OnWrite = nil
	wantError(t, b.write(request(2))[0], sheepdog.ErrFenced)
}

// TestAnswersWaitForWrites has a write in the engine when the interval ends:
// nothing of the new interval is answered before it is applied.
func TestAnswersWaitForWrites(t *testing.T) {
	ask := map[string]func(b *bench, revision sheepdog.Revision) error{
		"list": func(b *bench, revision sheepdog.Revision) error {
			reply, err := b.server.List(b.t.Context(), &sheepdog.ListRequest{Fence: sheepdog.Fence{Revision: revision}, Policy: replicatest.Policy,
				Partitions: []sheepdog.Partition{object.Partition()}, Limit: 10})
			if err == nil && len(reply.Entries) != 1 {
				b.t.Error("the list lacks the write")
			}
			return err
		},
		"fetch": func(b *bench, revision sheepdog.Revision) error {
			reply, err := b.server.Fetch(b.t.Context(), &sheepdog.FetchRequest{Fence: sheepdog.Fence{Revision: revision}, Policy: replicatest.Policy,
				Object: object, Layer: top, Start: 4, Count: 1})
			if err == nil && reply.Records[0].State != sheepdog.Data {
				b.t.Error("the fetch lacks the write")
			}
			return err
		},
		"write": func(b *bench, revision sheepdog.Revision) error {
			r := request(2)
			r.Revision = revision
			return b.write(r)[0]
		},
	}
	for name, call := range ask {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			inEngine, goOn := make(chan struct{}), make(chan struct{})
			first := true
			b.engine.OnWrite = func([]sheepdog.Op) {
				if first {
					first = false
					close(inEngine)
					<-goOn
				}
			}
			written, answered := make(chan error, 1), make(chan error, 1)
			go func() { written <- b.write(request(1))[0] }()
			<-inEngine
			revision := b.step(sheepdog.Placement{Acting: nodes(1), Target: nodes(1, 2)})
			go func() { answered <- call(b, revision) }()
			if !b.blockedUnless(func() bool { return len(answered) != 0 }) {
				t.Error("answered in a new interval while a write of the old one was being applied")
			}
			close(goOn)
			wantError(t, <-answered, nil)
			wantError(t, <-written, nil)
		})
	}
}

// TestDirtyMarksEnd: what a node wrote before it ceased to act says nothing
// about what it holds when it acts again.
func TestDirtyMarksEnd(t *testing.T) {
	b := newBench(t)
	b.mustWrite(request(1))
	revision := b.step(sheepdog.Placement{Acting: nodes(1, 2), Target: nodes(1, 2)})
	b.wantDirty(b.seal(revision, 3), run(4, 2, 3, 1))
	b.step(sheepdog.Placement{Acting: nodes(2), Target: nodes(1, 2)})
	later := request(2)
	later.Revision, later.Start = 12, 20
	b.mustWrite(later)
	revision = b.step(sheepdog.Placement{Acting: nodes(1, 2), Target: nodes(1, 2)})
	b.wantDirty(b.seal(revision, 3), run(20, 2, 3, 2))
}

func TestCoarseDirtyMapAsksTheEngine(t *testing.T) {
	b := newBench(t)
	b.mustWrite(request(1))
	far := request(2)
	far.Start = 100
	b.mustWrite(far)
	f := b.server.family(fam)
	for _, d := range f.dirty.all {
		d.coarsen()
	}
	b.wantDirty(b.seal(10, 3), run(4, 2, 3, 1), run(100, 2, 3, 2))
}

// A replica reports the same of random writes whether it kept a mark of each or one
// that covers them.
func TestCoarseReportEqualsTheExactOne(t *testing.T) {
	b := newBench(t)
	rnd := rand.New(rand.NewPCG(3, 4))
	newest := make(map[uint64]uint64)
	for seq := uint64(1); seq <= 4*fewRuns; seq++ {
		r := request(seq)
		r.Start = sheepdog.BlockNo(rnd.Uint64N(8 * fewRuns))
		b.mustWrite(r)
		newest[uint64(r.Start)], newest[uint64(r.Start)+1] = seq, seq
	}
	flushed := request(4*fewRuns + 1)
	flushed.Start, flushed.Flushed = 0, 2*fewRuns
	newest[0], newest[1] = flushed.Stamp.Seq, flushed.Stamp.Seq
	b.mustWrite(flushed)
	for _, d := range b.server.family(fam).dirty.all {
		if !d.coarse {
			t.Fatal("a mark of each write was kept")
		}
	}
	var want []stampedRun
	for _, at := range slices.Sorted(maps.Keys(newest)) {
		if seq := newest[at]; seq > flushed.Flushed {
			want = append(want, stampedRun{span{at, at + 1}, sheepdog.Stamp{Token: 3, Seq: seq}})
		}
	}
	var runs []sheepdog.DirtyBlocks
	for _, r := range joined(want) {
		runs = append(runs, run(sheepdog.BlockNo(r.from), uint32(r.to-r.from), 3, r.stamp.Seq))
	}
	b.wantDirty(b.seal(10, 3), runs...)
}

// A failed write takes nothing away from the marks of others.
func TestFailedWriteOverAnotherIsNoMark(t *testing.T) {
	b := newBench(t)
	b.mustWrite(request(1))
	b.engine.Fail(sheepdog.ErrIO)
	wantError(t, b.write(request(2))[0], sheepdog.ErrIO)
	b.engine.Fail(nil)
	b.wantDirty(b.seal(10, 3), run(4, 2, 3, 1))
}

// TestCarry takes over only what this node holds.
func TestCarry(t *testing.T) {
	b := newBenchIn(t, replicatest.NewView(10, nodes(1, 2), nodes(2), nodes(1, 2)))
	b.mustWrite(repair(sheepdog.Stamp{Token: 2, Seq: 7}))
	from := &sheepdog.SealReply{
		Dirty:   []sheepdog.DirtyBlocks{run(4, 4, 2, 7), run(5, 1, 2, 9)},
		Origins: []sheepdog.Origin{{Gateway: 2, Request: 5}},
	}
	if err := b.server.Carry(10, fam, 6, from); err != nil {
		t.Fatal(err)
	}
	reply := b.seal(10, 6)
	b.wantDirty(reply, run(4, 2, 2, 7))
	if len(reply.Origins) != 1 {
		t.Errorf("origins %v, want one", reply.Origins)
	}
	wantError(t, b.write(request(1))[0], sheepdog.ErrFenced)
	active, err := b.server.Seal(t.Context(), &sheepdog.SealRequest{Fence: sheepdog.Fence{Revision: 10}})
	if err != nil || len(active.Dirty) != 1 || active.Dirty[0].Stamp.Token != 6 || active.Dirty[0].Count != 0 {
		t.Errorf("active families %+v, %v", active, err)
	}
}

// Bug: dirty marks kept the id of a layer that was absorbed or dropped since, so
// that a takeover asked for a layer that is no more, and failed for ever.
func TestDirtyMarksOfDeletedLayers(t *testing.T) {
	b := newBench(t)
	b.mustWrite(request(1))
	b.layers.Add(top+1, fam, top)
	b.layers.Absorb(top, top+1)
	want := run(4, 2, 3, 1)
	want.Layer = top + 1
	b.wantDirty(b.seal(10, 3), want)
	b.layers.Remove(top + 1)
	b.layers.Remove(top)
	b.wantDirty(b.seal(10, 3))
}

// TestOriginsEndWithTheContent is the bug that the simulation found with seed
// 10: a coordinator was cut off with a write that only its own replica had. It
// was removed, came back as a target, and its replica still told the next
// takeover of the write; the retry was acknowledged and held by nobody.
func TestOriginsEndWithTheContent(t *testing.T) {
	b := newBench(t)
	r := request(1)
	r.Origin = sheepdog.Origin{Gateway: 2, Request: 7}
	b.mustWrite(r)
	if got := b.seal(10, 3).Origins; len(got) != 1 {
		t.Fatalf("origins %v while it acts, want one", got)
	}
	rev := b.step(sheepdog.Placement{Acting: nodes(2, 3), Target: nodes(1, 2, 3)})
	if got := b.seal(rev, 4).Origins; len(got) != 0 {
		t.Errorf("origins %v of content that is distrusted", got)
	}
	w := request(2)
	w.Revision, w.Token, w.Stamp.Token = rev, 4, 4
	w.Origin = sheepdog.Origin{Gateway: 2, Request: 8}
	b.mustWrite(w)
	rev = b.step(sheepdog.Placement{Acting: nodes(1, 2, 3), Target: nodes(1, 2, 3)})
	if got := b.seal(rev, 5).Origins; len(got) != 1 || got[0].Request != 8 {
		t.Errorf("origins %v after the promotion, want that of the session", got)
	}
}

func TestCarriedOriginsEndWithAnyContent(t *testing.T) {
	b := newBench(t)
	from := &sheepdog.SealReply{Origins: []sheepdog.Origin{{Gateway: 2, Request: 5}}}
	if err := b.server.Carry(10, fam, 3, from); err != nil {
		t.Fatal(err)
	}
	if got := b.seal(10, 3).Origins; len(got) != 1 {
		t.Fatalf("origins %v, want the carried one", got)
	}
	rev := b.step(sheepdog.Placement{Acting: nodes(2, 3), Target: nodes(1, 2, 3)})
	if got := b.seal(rev, 4).Origins; len(got) != 0 {
		t.Errorf("origins %v of content that may be distrusted", got)
	}
}
