package vdi

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
	"sheepdog/vdi/directory"
)

// A takeover that was given up by whoever began it - a guest that hung up, a group
// snapshot whose time is over - is nothing to those who waited for it: it is begun
// again. Contexts end with causes that no other caller could tell from a failure.
func TestGivenUpTakeoverIsBegunAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		m := w.manager(t, 1)
		create(t, m, "v", 4<<20)
		first, second := open(t, m, "v", ""), open(t, m, "v", "")
		entered := make(chan struct{})
		var once sync.Once
		w.sealing = func(ctx context.Context) {
			once.Do(func() {
				close(entered)
				<-ctx.Done()
			})
		}
		ctx, hangUp := context.WithCancelCause(t.Context())
		var wg sync.WaitGroup
		errHungUp := errors.New("the client hung up")
		wg.Go(func() {
			if err := first.WriteAt(ctx, fill(4096, 1), 0); !errors.Is(err, errHungUp) {
				t.Errorf("write of the guest that hung up: %v", err)
			}
		})
		<-entered
		wg.Go(func() { write(t, second, 0, fill(4096, 2)) })
		synctest.Wait()
		hangUp(errHungUp)
		wg.Wait()
		expect(t, second, 0, fill(4096, 2))
		m.Close()
	})
}

// A group that could not hold a VDI, because another group does, must not let that
// one's writes go when it gives up: its snapshot would not be of one moment.
func TestResumeOfAFailedHoldEndsNoOther(t *testing.T) {
	for _, far := range []bool{false, true} {
		w := newWorld()
		a, b := w.manager(t, 1), w.manager(t, 2)
		create(t, a, "v", 1<<20)
		v := open(t, a, "v", "")
		write(t, v, 0, fill(4096, 1))
		c := a.local(v.family.Load().id)
		if err := a.hold(t.Context(), c, holdID{Gateway: 9, Request: 1}); err != nil {
			t.Fatal(err)
		}
		asks := a
		if far {
			asks = b
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, resume, err := asks.holdMember(ctx, c.scope.Family)
		if err == nil || resume == nil {
			t.Fatalf("a second hold: %v, to be resumed: %v", err, resume != nil)
		}
		resume(t.Context())
		if c.gate.tryEnter() {
			t.Error("writes go on though the first group holds them")
			c.gate.leave()
		}
		a.resume(t.Context(), c, holdID{Gateway: 9, Request: 1})
		write(t, v, 0, fill(4096, 2))
	}
}

// Replicas that are away for ever hold up neither an order to stop nor an
// administrator longer than they want to wait, and nothing stays held after that.
func TestWaitForAFlushCanBeGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, b := w.manager(t, 1), w.manager(t, 2)
		create(t, a, "v", 1<<20)
		v := open(t, a, "v", "")
		write(t, v, 0, fill(4096, 1))
		setAway := func(away bool) { w.mu.Lock(); w.away = away; w.mu.Unlock() }
		setAway(true)
		for what, ask := range map[string]func(ctx context.Context) error{
			"release of all": a.ReleaseAll,
			"unlock":         func(ctx context.Context) error { return a.Unlock(ctx, "v") },
			"snapshot": func(ctx context.Context) error {
				_, err := b.Snapshot(ctx, directory.Snapshot{Name: "v", Tag: "s"})
				return err
			},
			"flush": v.Flush,
		} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			began := time.Now()
			if err := ask(ctx); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, sheepdog.ErrNotActing) {
				t.Errorf("%s: %v", what, err)
			}
			if d := time.Since(began); d != time.Second {
				t.Errorf("%s was given up after %v", what, d)
			}
			cancel()
		}
		setAway(false)
		write(t, v, 0, fill(4096, 2))
		if err := v.Flush(t.Context()); err != nil {
			t.Error(err)
		}
		if n := w.written(); n != 0 {
			t.Errorf("%d writes were not flushed", n)
		}
		a.Close()
		b.Close()
	})
}

// A group whose writes cannot be held in time is given up with an error that says so,
// wherever its VDIs are coordinated: it is nobody's failure, and holds nothing after.
func TestGroupThatCannotBeHeldIsBusy(t *testing.T) {
	for _, far := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w, a, x := oneVDI(t, 1<<20)
			b := w.manager(t, 2)
			create(t, a, "y", 1<<20)
			y := open(t, a, "y", "")
			write(t, x, 0, fill(4096, 1))
			write(t, y, 0, fill(4096, 1))
			setAway := func(away bool) { w.mu.Lock(); w.away = away; w.mu.Unlock() }
			setAway(true)
			asks := a
			if far {
				asks = b
			}
			began := time.Now()
			_, err := asks.SnapshotGroup(t.Context(), []directory.Snapshot{{Name: "v", Tag: "s"}, {Name: "y", Tag: "s"}})
			if d := time.Since(began); !errors.Is(err, sheepdog.ErrBusy) || d > 2*holdLimit {
				t.Errorf("after %v: %v", d, err)
			}
			setAway(false)
			write(t, x, 0, fill(4096, 2))
			write(t, y, 0, fill(4096, 2))
			a.Close()
			b.Close()
		})
	}
}
