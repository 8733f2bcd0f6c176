package replica

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"sheepdog"
	"sheepdog/replica/replicatest"
)

// odd changes a request, or what is around it, so that mostly it must be refused.
var odd = []struct {
	what string
	do   func(b *bench, r *sheepdog.WriteRequest)
}{
	{"nothing", func(*bench, *sheepdog.WriteRequest) {}},
	{"a revision to come", func(_ *bench, r *sheepdog.WriteRequest) { r.Revision += 9 }},
	{"a revision of before", func(_ *bench, r *sheepdog.WriteRequest) { r.Revision -= 9 }},
	{"a lower token", func(_ *bench, r *sheepdog.WriteRequest) { r.Token-- }},
	{"a higher token", func(_ *bench, r *sheepdog.WriteRequest) { r.Token++ }},
	{"no token", func(_ *bench, r *sheepdog.WriteRequest) { r.Token = 0 }},
	{"no stamp", func(_ *bench, r *sheepdog.WriteRequest) { r.Stamp = sheepdog.Stamp{} }},
	{"no blocks", func(_ *bench, r *sheepdog.WriteRequest) { r.Count, r.Data = 0, nil }},
	{"zeros", func(_ *bench, r *sheepdog.WriteRequest) { r.Data = nil }},
	{"too little data", func(_ *bench, r *sheepdog.WriteRequest) { r.Data = make([]byte, 1) }},
	{"sums", func(_ *bench, r *sheepdog.WriteRequest) { r.Sums = make([]uint32, r.Count) }},
	{"too few sums", func(_ *bench, r *sheepdog.WriteRequest) { r.Sums = make([]uint32, 1) }},
	{"the last blocks", func(_ *bench, r *sheepdog.WriteRequest) { r.Start = 1022 }},
	{"blocks beyond", func(_ *bench, r *sheepdog.WriteRequest) { r.Start = 1023 }},
	{"a repair", func(_ *bench, r *sheepdog.WriteRequest) { r.Repair = true }},
	{"another policy", func(_ *bench, r *sheepdog.WriteRequest) { r.Policy.Copies++ }},
	{"another layer", func(_ *bench, r *sheepdog.WriteRequest) { r.Layer += ruleSlots }},
	{"another family", func(_ *bench, r *sheepdog.WriteRequest) { r.Object.Family++ }},
	{"a partition that changed", func(_ *bench, r *sheepdog.WriteRequest) { r.Object.Index++ }},
	{"a frozen layer", func(b *bench, _ *sheepdog.WriteRequest) {
		if _, known := b.layers.Frozen(top); known {
			b.layers.Freeze(top)
		}
	}},
	{"a deleted layer", func(b *bench, _ *sheepdog.WriteRequest) { b.layers.Remove(top) }},
	{"a coordinator that was appointed", func(b *bench, _ *sheepdog.WriteRequest) { b.layers.Appoint(fam, 4) }},
	{"a seal", func(b *bench, _ *sheepdog.WriteRequest) { b.seal(10, 4) }},
	{"smaller objects", func(b *bench, r *sheepdog.WriteRequest) { b.layers.Resize(fam, 20); r.Start = 300 }},
	{"a node that is out", func(b *bench, _ *sheepdog.WriteRequest) {
		b.step(sheepdog.Placement{Acting: nodes(2), Target: nodes(2, 3)})
	}},
	{"a node that is only a target", func(b *bench, r *sheepdog.WriteRequest) {
		r.Revision = b.step(sheepdog.Placement{Acting: nodes(2), Target: nodes(1, 2)})
	}},
	{"an unclean partition", func(b *bench, r *sheepdog.WriteRequest) {
		r.Revision = b.step(sheepdog.Placement{Acting: nodes(1, 2), Target: nodes(1, 2), State: sheepdog.Unclean})
	}},
}

// admitQuickly admits only what admitWrite does, to the same end, and most of what is
// written does not need admitWrite.
func TestQuickAdmissionEqualsTheFullOne(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	quick := 0
	for range 500 {
		b := newBench(t)
		if rnd.IntN(8) > 0 {
			b.mustWrite(request(1))
		}
		r := request(2)
		what := ""
		for range 1 + rnd.IntN(2) {
			o := odd[rnd.IntN(len(odd))]
			o.do(b, r)
			what += o.what + ", "
		}
		p := r.Object.Partition()
		v := b.server.view()
		b.server.adopt(shardOf(p), v)
		got, ok := b.server.admitQuickly(v, r, p)
		want, err := b.server.admitWrite(v, r, p)
		if ok && (err != nil || got != want) {
			t.Fatalf("%s: admitted quickly as %+v, else as %+v, %v", what, got, want, err)
		}
		if ok {
			quick++
		}
		if again, ok := b.server.admitQuickly(v, r, p); ok != (err == nil && want.acts && !r.Repair) || ok && again != want {
			t.Fatalf("%s: after admission as %+v, %v, the next is admitted quickly: %v, as %+v", what, want, err, ok, again)
		}
	}
	if quick < 25 {
		t.Errorf("%d of 500 were admitted quickly", quick)
	}
}

// Batches leave the same behind whether they are admitted quickly or not.
func TestQuickWritesEqualTheOthers(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	quick, slow := newBench(t), newBench(t)
	for seq := uint64(1); seq < 1000; {
		var batch [2][]*sheepdog.WriteRequest
		for range 1 + rnd.IntN(4) {
			r := request(seq + uint64(rnd.IntN(3)))
			r.Start, r.Origin = sheepdog.BlockNo(rnd.IntN(300)), sheepdog.Origin{Gateway: sheepdog.Incarnation(rnd.IntN(2)), Request: seq}
			r.Object.Index += sheepdog.Index(rnd.IntN(2))
			r.Flushed = seq / 2
			if rnd.IntN(20) == 0 {
				r.Token, r.Repair = 0, true
			}
			if rnd.IntN(20) == 0 {
				r.Count++ // refused
			}
			q := *r
			batch[0], batch[1] = append(batch[0], r), append(batch[1], &q)
			seq += 4
		}
		fail := error(nil)
		if rnd.IntN(10) == 0 {
			fail = sheepdog.ErrIO
		}
		quick.engine.Fail(fail)
		slow.engine.Fail(fail)
		slow.server.rulings.Store(nil)
		got, want := quick.write(batch[0]...), slow.write(batch[1]...)
		for i := range got {
			if fmt.Sprint(got[i]) != fmt.Sprint(want[i]) {
				t.Fatalf("a write ends with %v, want %v", got[i], want[i])
			}
		}
	}
	quick.engine.Fail(nil)
	slow.engine.Fail(nil)
	got, want := quick.seal(10, 3), slow.seal(10, 3)
	byRequest := func(a, b sheepdog.Origin) int { return cmp.Compare(a.Request, b.Request) }
	slices.SortFunc(got.Origins, byRequest)
	slices.SortFunc(want.Origins, byRequest)
	if !reflect.DeepEqual(got, want) || len(want.Dirty) < 100 || len(want.Origins) < 50 {
		t.Errorf("%d dirty runs and %d origins, want %d and %d", len(got.Dirty), len(got.Origins), len(want.Dirty), len(want.Origins))
	}
}

// What is remembered of a family may go while it is not listed. The rules do not lead
// to what went.
func TestRulesEndWithTheFamily(t *testing.T) {
	b := newBench(t)
	b.mustWrite(request(1))
	old := b.server.family(fam)
	b.server.families.all = map[sheepdog.FamilyID]*family{}
	old.forgotten.Store(true)
	b.mustWrite(request(2))
	b.wantDirty(b.seal(10, 3), run(4, 2, 3, 2))
	if b.server.family(fam) == old {
		t.Error("the family is the one that went")
	}
}

var _ Layers = (*replicatest.Layers)(nil)
