package vdi

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// What a failed flush did not cover is judged by the next one, by the oldest
// write.
func TestUnflushedOutlivesAFailedFlush(t *testing.T) {
	var u unflushed
	at := func(r sheepdog.Revision) *sheepdog.View { return &sheepdog.View{Revision: r} }
	u.note(at(3), 1)
	u.note(at(5), 1)
	broken := errors.New("broken")
	_, err := u.flush(func() error { u.note(at(6), 1); u.note(at(7), 2); return broken }, nil, nil)
	if !errors.Is(err, broken) {
		t.Fatal(err)
	}
	var judged map[sheepdog.Partition]sheepdog.Revision
	judge := func(since map[sheepdog.Partition]sheepdog.Revision) bool { judged = since; return true }
	lost, err := u.flush(func() error { return nil }, judge, func() {})
	if err != nil {
		t.Fatal(err)
	}
	if len(judged) != 2 || judged[1] != 3 || judged[2] != 7 || !lost {
		t.Errorf("judged %v, lost: %v", judged, lost)
	}
	judged = nil
	if lost, err := u.flush(func() error { return nil }, judge, func() {}); err != nil || lost || judged != nil {
		t.Errorf("a flush of nothing judged %v (%v)", judged, err)
	}
}

// Bug: of two flushes at the same time one took what was to be judged, and the other one was
// acknowledged though what it should have covered was lost.
func TestFlushBesideAnotherTellsOfTheLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		m := w.manager(t, 1)
		create(t, m, "v", 1<<20)
		v, other := open(t, m, "v", ""), open(t, m, "v", "")
		write(t, v, 0, fill(4096, 1))
		w.place(sheepdog.Policy{Copies: 3}, sheepdog.Placement{Lost: w.view.Revision + 1})
		c := v.family.Load().coord.Load()
		if err := c.flushes.running.take(t.Context()); err != nil { // all wait for this round
			t.Fatal(err)
		}
		guests := []*Volume{v, v, other, v}
		errs := make([]error, len(guests))
		var flushes sync.WaitGroup
		for i, guest := range guests {
			flushes.Go(func() { errs[i] = guest.Flush(t.Context()) })
			synctest.Wait() // it has taken what there was
		}
		c.flushes.running.give()
		flushes.Wait()
		for i, err := range errs {
			if !errors.Is(err, sheepdog.ErrIO) {
				t.Errorf("flush %d: %v, want the loss", i, err)
			}
		}
		for _, guest := range []*Volume{v, other} {
			if err := guest.Flush(t.Context()); err != nil {
				t.Errorf("the flush after them: %v", err)
			}
		}
		m.Close()
	})
}

// What another flush has made durable is not lost by a loss of power after that.
func TestFlushIsNotBlamedForALossAfterAnother(t *testing.T) {
	var u unflushed
	u.note(&sheepdog.View{Revision: 3}, 1)
	gone := false
	judge := func(map[sheepdog.Partition]sheepdog.Revision) bool { return gone }
	lost, err := u.flush(func() error {
		if lost, err := u.flush(func() error { return nil }, judge, nil); lost || err != nil {
			t.Errorf("the other one: %v, %v", lost, err)
		}
		gone = true
		return nil
	}, judge, nil)
	if lost || err != nil {
		t.Errorf("lost: %v, %v", lost, err)
	}
}

func TestGone(t *testing.T) {
	policy := sheepdog.Policy{Copies: 3}
	v := &sheepdog.View{Revision: 9, Tables: map[sheepdog.Policy]sheepdog.Table{policy: {{Lost: 4}, {}}}}
	for _, c := range []struct {
		part  sheepdog.Partition
		since sheepdog.Revision
		want  bool
	}{{0, 3, true}, {0, 4, false}, {0, 9, false}, {1, 1, false}, {77, 1, false}} {
		if got := gone(v, policy, map[sheepdog.Partition]sheepdog.Revision{c.part: c.since}); got != c.want {
			t.Errorf("partition %d since %d: %v", c.part, c.since, got)
		}
	}
}

// A VDI that moves to another family, whose replicas are others and have losses
// behind them, tells of the losses that it has not told of, and of no others.
// (Seed 148: marks of the old family were judged by the rows of the new one.)
func TestLossesOfAnotherFamilyAreNotTold(t *testing.T) {
	for _, c := range []struct{ before, told, after uint64 }{{0, 0, 0}, {2, 2, 0}, {2, 2, 5}, {2, 1, 0}, {2, 1, 2}, {1, 0, 1}} {
		var old, u unflushed
		old.losses.Store(c.before)
		u.losses.Store(c.after)
		told := u.as(&old, c.told)
		if owes, owed := told != u.losses.Load(), c.told != c.before; owes != owed {
			t.Errorf("%+v: tells of a loss: %v, want %v", c, owes, owed)
		}
	}
}

// All replicas lose their power, a gateway elsewhere with writes that it has not
// flushed does not, and then the VDI is given another redundancy, which flushes it:
// the gateway's next flush tells of the loss all the same, once to each guest.
func TestLossBeforeAnAlterIsTold(t *testing.T) {
	for _, mover := range []sheepdog.NodeID{1, 2} {
		for _, first := range []string{"flush", "write", "write of the other guest"} {
			w := newWorld()
			a, b := w.manager(t, 1), w.manager(t, 2)
			create(t, a, "v", 1<<20)
			v, other := open(t, a, "v", ""), open(t, a, "v", "")
			write(t, v, 0, fill(4096, 1))
			w.place(sheepdog.Policy{Copies: 3}, sheepdog.Placement{Lost: w.view.Revision + 1})
			by := map[sheepdog.NodeID]*Manager{1: a, 2: b}[mover]
			if _, err := by.Alter(t.Context(), directory.AlterPolicy{Name: "v", Policy: sheepdog.Policy{Copies: 2}}); err != nil {
				t.Fatal(err)
			}
			switch first {
			case "write":
				write(t, v, 4096, fill(4096, 2))
			case "write of the other guest":
				write(t, other, 4096, fill(4096, 2))
			}
			for i, guest := range []*Volume{v, other} {
				if err := guest.Flush(t.Context()); !errors.Is(err, sheepdog.ErrIO) {
					t.Errorf("moved by node %d, then a %s: flush of guest %d: %v", mover, first, i, err)
				}
				if err := guest.Flush(t.Context()); err != nil {
					t.Errorf("moved by node %d, then a %s: second flush of guest %d: %v", mover, first, i, err)
				}
			}
		}
	}
}

// After a loss of power a coordinator hears first that a partition serves again, and
// acknowledges a write that another gateway forwarded: that one is not lost, and the
// gateway, which hears of it a moment later, must not say so. (TestCoded, seed 10)
func TestWriteRightAfterALossIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, b := w.manager(t, 1), w.manager(t, 2)
		create(t, a, "v", 1<<20)
		near, far := open(t, a, "v", ""), open(t, b, "v", "")
		write(t, near, 0, fill(4096, 1))
		if err := near.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.place(sheepdog.Policy{Copies: 3}, sheepdog.Placement{State: sheepdog.Unclean})
		done := make(chan struct{})
		go func() {
			defer close(done)
			write(t, far, 0, fill(4096, 2)) // the coordinator here knows more than the view
		}()
		synctest.Wait()
		w.place(sheepdog.Policy{Copies: 3}, sheepdog.Placement{Lost: w.view.Revision + 1})
		<-done
		if err := far.Flush(t.Context()); err != nil {
			t.Errorf("flush after a write that came after the loss: %v", err)
		}
		a.Close()
		b.Close()
	})
}
