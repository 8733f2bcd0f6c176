package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sheepdog"
	"sheepdog/cluster/state"
)

func TestEverybodyAppliesTheSameCommands(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(5)
		for i := range 20 {
			w.propose(1+i%5, fmt.Sprint("c", i))
		}
		for _, n := range w.up() {
			if err := n.Barrier(w.ctx(time.Second)); err != nil {
				t.Fatal(err)
			}
			if got := n.machine.list(); len(got) != 20 || !slices.Equal(got, w.nodes[1].machine.list()) {
				t.Errorf("node %d applied %v", n.n, got)
			}
		}
		if _, err := w.nodes[2].Propose(w.ctx(time.Second), "refuse", []byte("it")); !errors.Is(err, sheepdog.ErrExists) {
			t.Errorf("an error of the machine came as %v", err)
		}
	})
}

// propose commits one command through node n.
func (w *world) propose(n int, body string) {
	w.t.Helper()
	out, err := w.nodes[n].Propose(w.ctx(10*time.Second), "do", []byte(body))
	if err != nil || string(out) != "did "+body {
		w.t.Fatalf("propose %s at node %d: %q, %v", body, n, out, err)
	}
}

func TestCommandsAreAppliedExactlyOnceThroughElections(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(5)
		ctx := w.ctx(time.Minute)
		var wg sync.WaitGroup
		const each = 40
		for _, n := range w.up() {
			wg.Go(func() {
				for i := range each {
					body := fmt.Sprintf("%d.%d", n.n, i)
					if _, err := n.Propose(ctx, "do", []byte(body)); err != nil {
						t.Errorf("propose %s: %v", body, err)
					}
					time.Sleep(30 * time.Millisecond)
				}
			})
		}
		for range 4 {
			time.Sleep(time.Second)
			if l := w.leader(); l != nil { // deposed by silence, not dead
				w.net.silence(l.self.Addr, true)
				time.Sleep(900 * time.Millisecond)
				w.net.silence(l.self.Addr, false)
			}
		}
		wg.Wait()
		w.settle()
		for _, n := range w.up() {
			if err := n.Barrier(ctx); err != nil {
				t.Fatal(err)
			}
			got := n.machine.list()
			sorted := slices.Sorted(slices.Values(got))
			if len(slices.Compact(sorted)) != 5*each || len(got) != 5*each {
				t.Errorf("node %d applied %d commands, %d distinct", n.n, len(got), len(slices.Compact(sorted)))
			}
		}
	})
}

func TestGateRunsOnTheLeaderAndAgainInANewEpoch(t *testing.T) {
	simulate(t, func(w *world) {
		var mu sync.Mutex
		var at []sheepdog.Epoch
		w.formatted(3)
		w.gate = func(ctx context.Context, n *simNode, kind string) error {
			mu.Lock()
			defer mu.Unlock()
			if n.office.Load() == nil {
				t.Errorf("gate ran on node %d, which does not lead", n.n)
			}
			at = append(at, n.epoch())
			if kind == "never" {
				return fmt.Errorf("shut: %w", sheepdog.ErrBusy)
			}
			if len(at) == 1 { // the membership moves while the gate waits
				w.nodes[w.follower().n].Leave(ctx)
			}
			return nil
		}
		w.propose(w.leader().n, "x")
		if len(at) != 2 || at[1] != at[0]+1 {
			t.Errorf("gate ran in epochs %v", at)
		}
		if _, err := w.leader().Propose(w.ctx(time.Second), "never", nil); !errors.Is(err, sheepdog.ErrBusy) {
			t.Errorf("refused by the gate: %v", err)
		}
	})
}

// The gate waits for a lease longer than one attempt may take: that decides nothing,
// the command is tried again, and nobody gets an error that says neither yes nor no.
func TestGateThatRunsOutOfTimeIsTriedAgain(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(3)
		var runs atomic.Int32
		w.gate = func(ctx context.Context, n *simNode, kind string) error {
			if runs.Add(1) > 1 {
				return nil
			}
			<-ctx.Done()
			return fmt.Errorf("wait for a lease: %w", ctx.Err())
		}
		for _, by := range []*simNode{w.leader(), w.follower()} {
			runs.Store(0)
			if _, err := by.Propose(w.ctx(3*attemptLimit), "x", nil); err != nil || runs.Load() != 2 {
				t.Errorf("node %d: %v after %d looks at the gate", by.n, err, runs.Load())
			}
		}
	})
}

func TestLargePromotionsAreSplit(t *testing.T) {
	items := make([]state.PartitionSince, sheepdog.Partitions)
	for i := range items {
		items[i] = state.PartitionSince{Partition: sheepdog.Partition(i), Since: ^sheepdog.Revision(0)}
	}
	for _, cmd := range []state.Command{{Promote: &state.Promote{Policy: testConfig.Policy, Items: items}}, {Clean: &state.Clean{Policy: testConfig.Policy, Items: items}}} {
		total := 0
		for _, part := range splitCommand(cmd) {
			body, err := part.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := (&entry{Type: entryState, Body: body}).encode(); err != nil {
				t.Error(err)
			}
			if part.Promote != nil {
				total += len(part.Promote.Items)
			} else {
				total += len(part.Clean.Items)
			}
		}
		if total != len(items) {
			t.Errorf("%d of %d partitions are named", total, len(items))
		}
	}
}

func TestProposeEndsWithItsContextAndTheCluster(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(3)
		n := w.nodes[1]
		w.nodes[2].kill()
		w.nodes[3].kill()
		time.Sleep(2 * time.Second)
		if _, err := n.Propose(w.ctx(time.Second), "do", nil); !errors.Is(err, sheepdog.ErrNoQuorum) {
			t.Errorf("without quorum: %v", err)
		}
		done := make(chan error)
		go func() {
			_, err := n.Propose(w.ctx(time.Hour), "do", nil)
			done <- err
		}()
		time.Sleep(time.Second)
		c := n.Cluster
		n.kill()
		if err := <-done; !errors.Is(err, sheepdog.ErrClosed) {
			t.Errorf("shut down: %v", err)
		}
		if err := c.Barrier(w.ctx(time.Second)); !errors.Is(err, sheepdog.ErrClosed) {
			t.Errorf("after shutdown: %v", err)
		}
	})
}

func TestChangedTellsOfEveryView(t *testing.T) {
	simulate(t, func(w *world) {
		n := w.add(1)
		before := n.Changed(nil)
		select {
		case <-before:
			t.Fatal("changed before there is a view")
		default:
		}
		if err := n.Format(w.ctx(5*time.Second), testConfig); err != nil {
			t.Fatal(err)
		}
		<-before
		v := n.View()
		<-n.Changed(nil)
		next := n.Changed(v)
		if _, err := n.ProposeState(w.ctx(time.Second), state.Command{Table: &state.AddTable{Policy: sheepdog.Policy{Copies: 2}}}); err != nil {
			t.Fatal(err)
		}
		<-next
		if n.View().Revision <= v.Revision {
			t.Errorf("revision went from %d to %d", v.Revision, n.View().Revision)
		}
		if h := n.History(); len(h) != 1 || h[0].Epoch != 1 {
			t.Errorf("history is %v", h)
		}
	})
}

// A command that is given up before it began is not said to wait for others.
func TestGivenUpCommandBlamesNobody(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 64 { // a select would choose by chance
		if _, err := newProposals().begin(ctx); err == nil || strings.Contains(err.Error(), "under way") {
			t.Fatalf("begin: %v", err)
		}
	}
}
