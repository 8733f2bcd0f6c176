package recovery

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
	"sheepdog/replica/replicatest"
)

// TestMovedIntervalIsNotPromoted steps the view while an object is copied. What
// was copied for the old interval must not be promoted, neither by the agent
// nor by the table: the new interval begins anew.
func TestMovedIntervalIsNotPromoted(t *testing.T) {
	c := newCluster(t, twoPlusOne(), nil)
	c.put(1, object(0), top, 5, 3, 1)
	c.put(2, object(0), top, 5, 3, 1)
	var moved atomic.Bool
	c.onCall = func(_ sheepdog.NodeID, op string) {
		if op == "fetch" && !moved.Swap(true) {
			c.step(sheepdog.Placement{Acting: nodes(1, 2), Target: nodes(2, 3)})
		}
	}
	c.run(c.complete, 3)
	for _, m := range c.proposed {
		for _, item := range m.Items {
			if item.Partition == object(0).Partition() && item.Since == 10 {
				t.Error("a partition was proposed in an interval that ended while it was copied")
			}
		}
	}
	c.sameAs(2, 3)
}

// TestCommitThatFails keeps the partitions pending and tries again.
func TestCommitThatFails(t *testing.T) {
	c := newCluster(t, twoPlusOne(), nil)
	c.refuse = sheepdog.ErrNoQuorum
	n := 0
	c.run(func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		if n = len(c.proposed); n > 2 {
			c.refuse = nil
		}
		return c.promoted == sheepdog.Partitions
	}, 3)
}

// TestUnfinishedWriteHoldsPromotion has a write that only the target got. As
// long as its coordinator may still bring it to the source the partition waits;
// when the source was promised to another, the source is right.
func TestUnfinishedWriteHoldsPromotion(t *testing.T) {
	c := newCluster(t, twoPlusOne(), nil)
	c.put(1, object(0), top, 5, 2, 1)
	c.put(2, object(0), top, 5, 2, 1)
	for at, layer := range map[sheepdog.BlockNo]sheepdog.LayerID{5: top, 9: top} {
		s := sheepdog.Stamp{Token: 3, Seq: 7}
		r := &sheepdog.WriteRequest{Fence: sheepdog.Fence{Revision: 10, Token: 3}, Policy: policy, Object: object(0), Layer: layer, Start: at, Count: 1, Data: fill(s), Stamp: s}
		c.nodes[3].server.Write(t.Context(), []*sheepdog.WriteRequest{r}, func(_ int, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	c.run(func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.settled) > 0 && c.promoted == sheepdog.Partitions-1
	}, 3)
	if c.placement(object(0)).IsActing(3) {
		t.Fatal("promoted with a write that the source lacks and may still get")
	}
	for _, id := range nodes(1, 2) {
		if _, err := c.nodes[id].server.Seal(t.Context(), &sheepdog.SealRequest{Fence: sheepdog.Fence{Revision: 10, Token: 4}, Family: fam}); err != nil {
			t.Fatal(err)
		}
	}
	c.run(c.complete, 3)
	c.sameAs(1, 3)
}

// TestDirtyMarksTravel: after the source is gone, a takeover must still find
// what an unfinished write left on the source and backfill copied.
func TestDirtyMarksTravel(t *testing.T) {
	c := newCluster(t, twoPlusOne(), nil)
	s := sheepdog.Stamp{Token: 3, Seq: 7}
	r := &sheepdog.WriteRequest{Fence: sheepdog.Fence{Revision: 10, Token: 3}, Policy: policy, Object: object(0), Layer: top, Start: 5, Count: 1,
		Data: fill(s), Stamp: s, Origin: sheepdog.Origin{Gateway: 2, Request: 8}}
	for _, id := range nodes(1, 2) { // whichever is the source
		c.nodes[id].server.Write(t.Context(), []*sheepdog.WriteRequest{r}, func(int, error) {})
	}
	c.run(c.complete, 3)
	reply, err := c.nodes[3].server.Seal(t.Context(), &sheepdog.SealRequest{Fence: sheepdog.Fence{Revision: 10, Token: 4}, Family: fam})
	if err != nil {
		t.Fatal(err)
	}
	if len(reply.Dirty) != 1 || reply.Dirty[0].Stamp != s || len(reply.Origins) != 1 {
		t.Errorf("node 3 reports %+v, want the unfinished write and its origin", reply)
	}
}

// TestRottenSource takes a block from another acting replica, leaves its
// neighbours as they came, and never promotes without it.
func TestRottenSource(t *testing.T) {
	prepare := func(block sheepdog.BlockNo, rotten ...sheepdog.NodeID) *cluster {
		c := newCluster(t, twoPlusOne(), nil)
		for _, id := range nodes(1, 2) {
			c.put(id, object(0), top, 5, 2, 1)
			c.put(id, object(0), top, 6, 2, 2)
		}
		for _, id := range rotten {
			c.nodes[id].engine.Rot(object(0), top, block)
		}
		return c
	}
	for _, id := range nodes(1, 2) {
		for _, block := range []sheepdog.BlockNo{5, 6} {
			c := prepare(block, id)
			c.run(c.complete, 3)
			c.sameAs(3-id, 3)
		}
	}
	c := prepare(5, 1, 2)
	c.run(func() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.promoted == sheepdog.Partitions-1 }, 3)
	if c.placement(object(0)).IsActing(3) {
		t.Error("promoted without a block that is rotten everywhere")
	}
}

// TestUnreachableSource suspects it, and goes on with the other once a view
// says so.
func TestUnreachableSource(t *testing.T) {
	c := newCluster(t, twoPlusOne(), nil)
	c.put(2, object(0), top, 5, 2, 1)
	c.down[1] = true
	c.run(func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.suspected) > 0 }, 3)
	c.mu.Lock()
	c.views.Publish(replicatest.Next(c.views.View(), func(v *sheepdog.View, table sheepdog.Table) {
		v.Members = v.Members[1:]
		pl := &sheepdog.Placement{Acting: nodes(2), Target: nodes(2, 3), Since: v.Revision}
		for p := range table {
			table[p] = pl
		}
	}))
	c.mu.Unlock()
	c.run(c.complete, 3)
	c.sameAs(2, 3)
}

// TestRecoveryDisabled neither starts nor goes on, until it is enabled.
func TestRecoveryDisabled(t *testing.T) {
	on := twoPlusOne()
	c := newCluster(t, on, nil)
	off := replicatest.Next(on, func(v *sheepdog.View, _ sheepdog.Table) { v.Config.RecoveryDisabled = true })
	agent := c.nodes[3].agent
	goOn := make(chan struct{})
	c.onCall = func(sheepdog.NodeID, string) { <-goOn }
	s := newSchedule(agent)
	if s.step(t.Context(), off, time.Now()); len(s.runs) != 0 || !agent.Progress().Active() {
		t.Errorf("%d runs although recovery is disabled, progress %+v", len(s.runs), agent.Progress())
	}
	if s.step(t.Context(), on, time.Now()); len(s.runs) == 0 {
		t.Error("nothing runs although recovery is enabled")
	}
	s.step(t.Context(), off, time.Now())
	close(goOn)
	for len(s.runs) > 0 {
		s.finish(<-s.results, time.Now())
	}
	s.stop()
	if c.commits != 0 {
		t.Error("went on although recovery was disabled meanwhile")
	}
}

// TestDelay: in place of a node that may come back nothing is moved at once.
func TestDelay(t *testing.T) {
	all := replicatest.NewView(10, nodes(1, 2, 3, 4), nodes(1, 2, 4), nodes(1, 2, 4))
	c := newCluster(t, all, nil)
	s := newSchedule(c.nodes[3].agent)
	c.nodes[3].agent.cfg.Delay = 5 * time.Second
	ctx := t.Context()
	now := time.Now()
	s.step(ctx, all, now)
	fewer := replicatest.NewView(11, nodes(1, 2, 3), nodes(1, 2), nodes(1, 2, 3))
	wait := s.step(ctx, fewer, now.Add(time.Second))
	if len(s.runs) != 0 || wait != 5*time.Second {
		t.Errorf("%d runs, next step after %v; want none for 5 s", len(s.runs), wait)
	}
	if !c.nodes[3].agent.Progress().Active() {
		t.Error("a node that will recover does not say so")
	}
	s.step(ctx, fewer, now.Add(6*time.Second))
	if len(s.runs) == 0 {
		t.Error("nothing is moved after the delay")
	}
	s.stop()
}

// TestDelayOfANodeThatFlaps: who was removed and came back at once is waited for longer.
func TestDelayOfANodeThatFlaps(t *testing.T) {
	all := replicatest.NewView(10, nodes(1, 2, 3, 4), nodes(1, 2, 4), nodes(1, 2, 4))
	c := newCluster(t, all, nil)
	a := c.nodes[3].agent
	s := newSchedule(a)
	a.cfg.Delay = 5 * time.Second
	a.cfg.Hooks.Flapping = func(id sheepdog.NodeID) int { return map[sheepdog.NodeID]int{1: 1, 2: 8, 3: 1, 4: 4}[id] }
	now := time.Now()
	s.step(t.Context(), all, now)
	fewer := replicatest.NewView(11, nodes(1, 2, 3), nodes(1, 2), nodes(1, 2, 3))
	if wait := s.step(t.Context(), fewer, now); len(s.runs) != 0 || wait != 20*time.Second {
		t.Errorf("%d runs, next step after %v; want none for 20 s", len(s.runs), wait)
	}
	s.stop()
}

// TestDelayDoesNotBlockWrites: guests waited for the delay to end when two of
// three replicas were lost, at one moment or one after the other.
func TestDelayDoesNotBlockWrites(t *testing.T) {
	all := replicatest.NewView(10, nodes(1, 2, 3, 4, 5), nodes(1, 2, 4), nodes(1, 2, 4))
	one := replicatest.NewView(11, nodes(1, 2, 3, 5), nodes(1, 2), nodes(1, 2, 3))
	two := replicatest.NewView(12, nodes(1, 3, 5), nodes(1), nodes(1, 3, 5))
	for name, views := range map[string][]*sheepdog.View{"at once": {all, two}, "one by one": {all, one, two}} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, all, nil)
			c.nodes[3].agent.cfg.Delay = 5 * time.Second
			s := newSchedule(c.nodes[3].agent)
			defer s.stop()
			now := time.Now()
			for i, v := range views {
				if len(s.runs) != 0 {
					t.Errorf("moves data in view %d, with two replicas left", i)
				}
				s.step(t.Context(), v, now)
			}
			if len(s.runs) == 0 {
				t.Error("waits although one replica is left and writes need two")
			}
		})
	}
}

// restarted is a view in which all acting nodes restarted.
func restarted(acting ...sheepdog.NodeID) *sheepdog.View {
	v := replicatest.NewView(10, nodes(1, 2, 3), nil, nil)
	pl := &sheepdog.Placement{Acting: acting, Target: acting, Since: 10, State: sheepdog.Unclean}
	for p := range v.Tables[policy] {
		v.Tables[policy][p] = pl
	}
	return v
}

func TestReconcile(t *testing.T) {
	c := newCluster(t, restarted(1, 2, 3), nil)
	for _, id := range nodes(1, 2, 3) {
		c.put(id, object(0), top, 1, 2, 1) // equal
		c.put(id, object(1), top, 1, 2, uint64(id))
		c.put(id, object(2), top, sheepdog.BlockNo(id), 2, 1)
	}
	c.put(2, object(3), base, 8, 1, 1) // only one has the object
	c.put(1, object(4), top, 1, 2, 9)  // the newest is rotten, two have an older one
	c.put(2, object(4), top, 1, 2, 8)
	c.put(3, object(4), top, 1, 2, 8)
	c.nodes[1].engine.Rot(object(4), top, 1)
	c.run(c.complete, 1, 2, 3)
	c.sameAs(1, 2)
	c.sameAs(1, 3)
	recs := make([]sheepdog.Record, 1)
	_ = c.nodes[1].engine.Records(object(1), []sheepdog.LayerID{top}, 1, 1, recs)
	if recs[0].Stamp.Seq != 3 {
		t.Errorf("stamp %v won, want the highest", recs[0].Stamp)
	}
	if lines := c.dump(1); slices.ContainsFunc(lines, func(s string) bool { return s[len(s)-3:] == "bad" }) {
		t.Errorf("bad blocks are left: %v", lines)
	}
	for id, n := range c.nodes {
		if n.engine.Unflushed() {
			t.Errorf("node %d serves with data that are not durable", id)
		}
	}
}

func TestLoneReplicaIsCleanedAtOnce(t *testing.T) {
	v := restarted(2, 9)
	c := newCluster(t, v, nil)
	c.put(2, object(0), top, 1, 2, 1)
	c.onCall = func(sheepdog.NodeID, string) { t.Error("asked another node") }
	c.run(func() bool { return c.placement(object(0)).State == sheepdog.Clean }, 2)
}

func TestUnreachableReplicaIsNotPassedOver(t *testing.T) {
	c := newCluster(t, restarted(1, 2), nil)
	c.put(1, object(0), top, 1, 2, 1)
	c.down[2] = true
	c.run(func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.suspected) > 2 }, 1)
	if c.commits != 0 {
		t.Error("cleaned without an acting replica that lives")
	}
	if c.suspected[0] != 2 {
		t.Errorf("suspected %v, want node 2", c.suspected)
	}
	c.locked(func() { c.down[2] = false })
	c.run(c.complete, 1)
	c.sameAs(1, 2)
}

// TestBackfillBeginsAnewWhenALayerIsAbsorbed: what was compared counts only if
// the directory here had the source's layers under their own names all the time.
func TestBackfillBeginsAnewWhenALayerIsAbsorbed(t *testing.T) {
	c := newCluster(t, twoPlusOne(), nil)
	c.layers.Add(3, fam, top)
	b := &backfill{Agent: c.nodes[3].agent}
	listed := []sheepdog.ListEntry{{Object: object(0), Layer: top}, {Object: object(0), Layer: 3}}
	if err := b.unmoved(listed); err != nil {
		t.Fatal(err)
	}
	c.layers.Absorb(top, 3)
	if err := b.unmoved(listed); !errors.Is(err, sheepdog.ErrConflict) {
		t.Errorf("got %v after a layer was absorbed", err)
	}
	c.layers.Remove(3)
	if err := b.unmoved(listed[1:]); !errors.Is(err, sheepdog.ErrConflict) {
		t.Errorf("got %v after a layer was dropped", err)
	}
}

func TestCollect(t *testing.T) {
	c := newCluster(t, replicatest.NewView(10, nodes(1, 2), nodes(1), nodes(1)), nil)
	n := c.nodes[1]
	c.layers.Add(3, fam, top)
	c.layers.Add(4, fam, 3)
	for layer := base; layer <= 4; layer++ {
		c.put(1, object(0), layer, sheepdog.BlockNo(layer), 1, 1)
		c.put(1, object(0), layer, 50, 1, uint64(layer))
	}
	c.put(1, object(0), 77, 1, 1, 1) // newer than the directory
	c.put(2, object(0), top, 1, 1, 1)
	c.layers.Remove(base)
	c.layers.Absorb(top, 3)
	c.layers.Absorb(3, 4)
	for _, id := range nodes(1, 2) {
		if err := c.nodes[id].agent.Collect(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	held, _ := n.engine.Layers()
	if _, ok := held[77]; !ok || len(held) != 2 {
		t.Errorf("layers %v, want 4 and 77", held)
	}
	recs := make([]sheepdog.Record, 51)
	_ = n.engine.Records(object(0), []sheepdog.LayerID{4}, 0, 51, recs)
	if recs[50].Stamp.Seq != 4 || recs[2].State == sheepdog.Absent || recs[3].State == sheepdog.Absent || recs[1].State != sheepdog.Absent {
		t.Errorf("merged records are wrong: %v %v %v %v", recs[1], recs[2], recs[3], recs[50])
	}
	if !slices.Contains(c.merged, top) || !slices.Contains(c.merged, 3) || n.engine.Unflushed() {
		t.Errorf("reported %v, unflushed %v; want layers 2 and 3, durable", c.merged, n.engine.Unflushed())
	}
	if left := c.nodes[2].engine.Dump(nil); len(left) != 0 {
		t.Errorf("node 2 keeps what it has no part in: %v", left)
	}
}

// Bug: a node that was started again saw, for a moment, the view in which the
// others had taken it out and were complete. If it collected just then it
// dropped all it had, and fetched everything instead of what had changed.
func TestNodeThatComesBackKeepsWhatItHas(t *testing.T) {
	c := newCluster(t, replicatest.NewView(10, nodes(1, 2), nodes(1), nodes(1)), nil)
	c.put(2, object(0), top, 1, 1, 1)
	kept := func(when string) {
		t.Helper()
		if err := c.nodes[2].agent.Collect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left := c.nodes[2].engine.Dump(nil); len(left) == 0 {
			t.Errorf("%s: node 2 dropped what it has", when)
		}
	}
	members := slices.Clone(c.views.View().Members)
	publish := func(m ...sheepdog.Member) {
		c.views.Publish(replicatest.Next(c.views.View(), func(v *sheepdog.View, _ sheepdog.Table) { v.Members = m }))
	}
	publish(members[0])
	kept("removed")
	before := members[1]
	before.Incarnation++
	publish(members[0], before)
	kept("listed as the process before")
}

func TestCheck(t *testing.T) {
	prepare := func() *cluster {
		c := newCluster(t, replicatest.NewView(10, nodes(1, 2, 3), nodes(1, 2, 3), nodes(1, 2, 3)), nil)
		for _, id := range nodes(1, 2, 3) {
			c.put(id, object(0), top, 1, 2, 1)
			if id != 2 {
				c.put(id, object(1), top, 1, 2, 1) // missing on node 2
			}
			c.put(id, object(2), top, 1, 2, 1)
			c.put(id, object(3), top, 1, 2, 1)
		}
		c.nodes[3].engine.Rot(object(2), top, 1)
		c.put(1, object(3), top, 1, 2, 5) // newer on node 1
		return c
	}
	req := CheckRequest{Policy: policy}
	for i := range 4 {
		req.Partitions = append(req.Partitions, object(i).Partition())
	}
	slices.Sort(req.Partitions)
	check := func(c *cluster, req CheckRequest) Summary {
		t.Helper()
		s, err := c.nodes[2].agent.Check(t.Context(), req, func(Finding) {})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	want := Summary{Objects: 12, Blocks: 11, Missing: 1, Bad: 1, Differing: 2, Unrepaired: 4}
	c := prepare()
	before := c.nodes[3].engine.Dump(nil)
	dry := req
	dry.DryRun = true
	if got := check(c, dry); got != want {
		t.Errorf("dry run: %+v, want %+v", got, want)
	}
	if !slices.Equal(before, c.nodes[3].engine.Dump(nil)) {
		t.Error("a dry run changed something")
	}
	want.Healed, want.Unrepaired = 4, 0
	if got := check(c, req); got != want {
		t.Errorf("check: %+v, want %+v", got, want)
	}
	c.sameAs(1, 2)
	c.sameAs(1, 3)
	if got := check(c, req); got != (Summary{Objects: 12, Blocks: 12}) {
		t.Errorf("after healing: %+v", got)
	}
}

// TestCheckLeavesWritesAlone checks a block on which the replicas differ only
// until the next look.
func TestCheckLeavesWritesAlone(t *testing.T) {
	c := newCluster(t, replicatest.NewView(10, nodes(1, 2), nodes(1, 2), nodes(1, 2)), nil)
	c.put(1, object(0), top, 1, 3, 2)
	c.put(2, object(0), top, 1, 3, 1)
	var looks atomic.Int32
	c.onCall = func(_ sheepdog.NodeID, op string) {
		if op == "fetch" && looks.Add(1) == 2 {
			c.put(2, object(0), top, 1, 3, 2)
		}
	}
	s, err := c.nodes[1].agent.Check(t.Context(), CheckRequest{Policy: policy, Partitions: []sheepdog.Partition{object(0).Partition()}}, nil)
	if err != nil || s != (Summary{Objects: 2, Blocks: 2}) {
		t.Errorf("%+v, %v; want no finding", s, err)
	}
}

// Bug: a check that found the newest bytes of a block bad wherever they were put older ones in
// their place, under the newest stamp. A write with that stamp that was still on its way to
// another replica was taken there for one that is in place, and acknowledged: it was lost.
func TestCheckPutsNoOlderBytesInPlaceOfAWriteOnItsWay(t *testing.T) {
	c := newCluster(t, replicatest.NewView(10, nodes(1, 2), nodes(1, 2), nodes(1, 2)), nil)
	newest := sheepdog.Stamp{Token: 3, Seq: 2}
	c.put(1, object(0), top, 1, newest.Token, newest.Seq)
	c.put(2, object(0), top, 1, 3, 1)
	c.nodes[1].engine.Rot(object(0), top, 1)
	check := func(want Summary) {
		t.Helper()
		s, err := c.nodes[1].agent.Check(t.Context(), CheckRequest{Policy: policy, Partitions: []sheepdog.Partition{object(0).Partition()}}, nil)
		if err != nil || s != want {
			t.Errorf("%+v, %v; want %+v", s, err, want)
		}
	}
	check(Summary{Objects: 2, Blocks: 2, Bad: 1, Lost: 1, Unrepaired: 1})
	if !c.writeOnce(c.views.View(), object(0), 1, newest) {
		t.Fatal("the write fails")
	}
	check(Summary{Objects: 2, Blocks: 2, Bad: 1, Healed: 1})
	c.sameAs(1, 2)
	buf := make([]byte, sheepdog.BlockSize)
	if err := c.nodes[2].engine.Read(object(0), []sheepdog.LayerID{top}, 1, 1, buf, make([]sheepdog.BlockState, 1)); err != nil || !bytes.Equal(buf, fill(newest)) {
		t.Errorf("the write that was acknowledged is not there (%v)", err)
	}
}

// TestHealAfterRead heals what a read met.
func TestHealAfterRead(t *testing.T) {
	c := newCluster(t, replicatest.NewView(10, nodes(1, 2), nodes(1, 2), nodes(1, 2)), nil)
	c.put(1, object(0), base, 1, 3, 1)
	c.put(2, object(0), base, 1, 3, 1)
	c.nodes[1].engine.Rot(object(0), base, 1)
	c.nodes[1].agent.Heal(object(0), top, []sheepdog.BlockNo{1})
	c.run(func() bool { return slices.Equal(c.dump(1), c.dump(2)) }, 1)
}

func TestThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var th Throttle
		if th.Set(0, time.Second) == nil || th.Set(5, 0) == nil {
			t.Error("half a throttle was accepted")
		}
		if err := th.Set(5, 100*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for range 20 {
			if err := th.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != 300*time.Millisecond {
			t.Errorf("20 events took %v, want 300ms", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if th.Wait(ctx) == nil {
			t.Error("a cancelled wait passed")
		}
		done := make(chan error)
		go func() { done <- th.Wait(t.Context()) }()
		synctest.Wait()
		if err := th.Set(0, 0); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
