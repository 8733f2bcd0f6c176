package cluster

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"sheepdog"
)

func TestFormatPutsEverybodyIntoTheFirstEpoch(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(3)
		for _, n := range w.up() {
			if n.epoch() != 1 {
				t.Errorf("node %d is in epoch %d", n.n, n.epoch())
			}
			if !slices.Equal(n.machine.generations(), []uint64{1}) {
				t.Errorf("node %d adopted generations %v", n.n, n.machine.generations())
			}
		}
		if v := w.voters(); len(v) != 3 {
			t.Errorf("voters are %v", v)
		}
	})
}

func TestFreshNodeWaitsForFormat(t *testing.T) {
	simulate(t, func(w *world) {
		w.addAll(2)
		time.Sleep(5 * time.Second)
		for _, n := range w.up() {
			if n.Status() != StatusUnformatted || n.View() != nil || len(n.Alive()) != 2 {
				t.Errorf("node %d: status %q, view %v, alive %v", n.n, n.Status(), n.View(), n.Alive())
			}
			if _, err := n.Propose(w.ctx(time.Second), "x", nil); !errors.Is(err, sheepdog.ErrNotFormatted) {
				t.Errorf("propose: %v", err)
			}
		}
	})
}

func TestInvalidFormatLeavesNoTrace(t *testing.T) {
	simulate(t, func(w *world) {
		w.addAll(2)
		bad := testConfig
		bad.BlockSizeShift = 5
		if err := w.nodes[1].Format(w.ctx(time.Second), bad); !errors.Is(err, sheepdog.ErrInvalid) {
			t.Fatalf("format: %v", err)
		}
		if s := w.nodes[1].Status(); s != StatusUnformatted {
			t.Fatalf("status is %q", s)
		}
		if err := w.nodes[2].Format(w.ctx(5*time.Second), testConfig); err != nil {
			t.Fatalf("second format: %v", err)
		}
		w.settle()
	})
}

func TestOfTwoFormatsAtOnceAtMostOneSucceeds(t *testing.T) {
	simulate(t, func(w *world) {
		w.addAll(4)
		w.eventually(5*time.Second, "gossip", func() bool { return len(w.nodes[1].Alive()) == 4 && len(w.nodes[3].Alive()) == 4 })
		errs := make([]error, 2)
		var wg sync.WaitGroup
		for i, n := range []int{1, 3} {
			wg.Go(func() { errs[i] = w.nodes[n].Format(w.ctx(5*time.Second), testConfig) })
		}
		wg.Wait()
		if errs[0] == nil && errs[1] == nil {
			t.Fatal("both succeeded")
		}
		if errs[0] != nil && errs[1] != nil {
			time.Sleep(5 * time.Second)
			if err := w.nodes[1].Format(w.ctx(5*time.Second), testConfig); err != nil {
				t.Fatalf("format after both failed: %v", err)
			}
		}
		w.settle()
	})
}

func TestFormatAgainEmptiesTheCluster(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(3)
		first := w.nodes[1].View()
		w.propose(1, "a")
		if err := w.nodes[2].Format(w.ctx(5*time.Second), testConfig); err != nil {
			t.Fatal(err)
		}
		w.eventually(time.Second, "second generation everywhere", func() bool {
			for _, n := range w.up() {
				if !slices.Equal(n.machine.generations(), []uint64{1, 2}) || len(n.machine.list()) != 0 {
					return false
				}
			}
			return true
		})
		if v := w.nodes[3].View(); v.Epoch != 1 || v.Revision <= first.Revision || v.Cluster != first.Cluster {
			t.Errorf("view is of epoch %d, revision %d, cluster %v", v.Epoch, v.Revision, v.Cluster)
		}
	})
}

func TestNodesJoinAFormattedCluster(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(3)
		w.add(4)
		w.add(5)
		w.settle()
		if e := w.nodes[1].epoch(); e < 2 || e > 3 {
			t.Errorf("epoch is %d", e)
		}
		if v := w.voters(); len(v) != 5 {
			t.Errorf("voters are %v", v)
		}
	})
}

func TestTwoClustersNeverMerge(t *testing.T) {
	simulate(t, func(w *world) {
		w.seeds = []int{1}
		w.addAll(3)
		w.eventually(3*time.Second, "gossip", func() bool { return len(w.nodes[1].Alive()) == 3 })
		if err := w.nodes[1].Format(w.ctx(5*time.Second), testConfig); err != nil {
			t.Fatal(err)
		}
		w.settle()
		first := w.nodes[1].View().Cluster

		w.seeds = []int{4}
		w.add(4)
		w.add(5)
		w.eventually(3*time.Second, "gossip", func() bool { return len(w.nodes[4].Alive()) == 2 })
		if err := w.nodes[4].Format(w.ctx(5*time.Second), testConfig); err != nil {
			t.Fatal(err)
		}
		w.seeds = []int{1, 4} // somebody mixes up the seeds
		time.Sleep(20 * time.Second)
		for i := 1; i <= 5; i++ {
			n := w.nodes[i]
			want, others := []int{1, 2, 3}, n.View().Cluster != first
			if i > 3 {
				want, others = []int{4, 5}, n.View().Cluster == first
			}
			if !slices.Equal(n.members(), want) || others || len(n.Alive()) != len(want) {
				t.Errorf("node %d: members %v, gossip %v", i, n.members(), n.Alive())
			}
		}
		_, err := w.nodes[4].call(w.ctx(time.Second), addrOf(1), methodConfirm, message{Ref: w.nodes[1].ref()})
		if !errors.Is(err, sheepdog.ErrWrongCluster) {
			t.Errorf("control request across clusters: %v", err)
		}
	})
}

func TestFreshNodeThatSeesTwoClustersJoinsNeither(t *testing.T) {
	simulate(t, func(w *world) {
		w.seeds = nil
		w.add(1)
		w.add(2)
		for _, i := range []int{1, 2} {
			if err := w.nodes[i].Format(w.ctx(5*time.Second), testConfig); err != nil {
				t.Fatal(err)
			}
		}
		w.seeds = []int{1, 2}
		n := w.add(3)
		time.Sleep(10 * time.Second)
		if s := n.Status(); s == StatusRunning && len(n.members()) > 2 {
			t.Errorf("node 3 is %q in %v", s, n.members())
		}
		if a, b := w.nodes[1].members(), w.nodes[2].members(); slices.Contains(a, 2) || slices.Contains(b, 1) {
			t.Errorf("clusters merged: %v and %v", a, b)
		}
	})
}

func TestInterruptedFormatGoesOn(t *testing.T) {
	simulate(t, func(w *world) {
		w.addAll(3)
		n := w.nodes[1]
		if err := n.bootstrap(sheepdog.ClusterID{7}); err != nil { // and no further
			t.Fatal(err)
		}
		w.eventually(3*time.Second, "leads nobody", func() bool { return n.office.Load() != nil })
		n.kill()
		n.boot()
		w.eventually(5*time.Second, "gossip", func() bool { return len(n.Alive()) == 3 })
		if err := n.Format(w.ctx(10*time.Second), testConfig); err != nil {
			t.Fatal(err)
		}
		w.settle()
		if v := n.View(); v.Cluster != (sheepdog.ClusterID{7}) || v.Epoch != 1 {
			t.Errorf("cluster %v, epoch %d", v.Cluster, v.Epoch)
		}
	})
}

func TestNodeOfAnAbsentClusterIsNotFormatted(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(3)
		for _, n := range w.up() {
			n.kill()
		}
		w.nodes[2].boot() // not the one that founded the cluster
		if err := w.nodes[2].Format(w.ctx(5*time.Second), testConfig); !errors.Is(err, sheepdog.ErrBusy) {
			t.Errorf("format: %v", err)
		}
	})
}

// When format has returned, the node that it was sent to may die at once: before,
// it alone voted for a moment, and its death stopped the cluster.
func TestFormatReturnsWhenAllVote(t *testing.T) {
	simulate(t, func(w *world) {
		w.addAll(3)
		time.Sleep(2 * time.Second)
		if err := w.nodes[1].Format(w.ctx(5*time.Second), testConfig); err != nil {
			t.Fatal(err)
		}
		w.nodes[1].kill()
		w.eventually(5*time.Second, "the others go on", func() bool {
			return slices.Equal(w.nodes[2].members(), []int{2, 3})
		})
	})
}

// Bug: the founder waited until it missed the heartbeats of a leader before it stood
// for election, in a wide cluster for seconds.
func TestFounderLeadsAtOnce(t *testing.T) {
	simulate(t, func(w *world) {
		w.addAll(wideCluster + 1)
		time.Sleep(2 * time.Second)
		began := time.Now()
		if err := w.nodes[1].Format(w.ctx(10*time.Second), testConfig); err != nil {
			t.Fatal(err)
		}
		if took, limit := time.Since(began), w.nodes[1].timing(0).Heartbeat; took >= limit {
			t.Errorf("the format took %v, want less than a heartbeat time-out, %v", took, limit)
		}
	})
}

// TestFreshNodeBesideAClusterWaitsForIt: a node that was started empty said that the
// cluster was not formatted, and how to format it, until it had joined.
func TestFreshNodeBesideAClusterWaitsForIt(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(3)
		w.nodes[2].kill()
		w.nodes[3].kill() // nobody can be let in now
		fresh := w.add(4)
		w.eventually(15*time.Second, "the fresh node sees one of the cluster", func() bool { return len(fresh.Alive()) == 2 })
		if s := fresh.Status(); s != StatusWaiting {
			t.Errorf("status %q, want %q", s, StatusWaiting)
		}
		if err := fresh.Barrier(w.ctx(3 * time.Second)); err == nil || errors.Is(err, sheepdog.ErrNotFormatted) {
			t.Errorf("Barrier = %v, want that it waits", err)
		}
		if err := fresh.Format(w.ctx(3*time.Second), testConfig); err == nil {
			t.Error("formatted a cluster beside another one")
		}
		w.nodes[2].boot()
		if err := fresh.Barrier(w.ctx(30 * time.Second)); err != nil {
			t.Error(err)
		}
	})
}
