package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"sheepdog"
	"sheepdog/cluster/state"
)

func TestFormatPutsEverybodyIntoTheFirstEpoch(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(3)
		for _, n := range w.up() {
			if n.epoch() != 1 {
				t.Errorf("node %d is in epoch %d", n.n, n.epoch())
			}
			if !slices.Equal(n.gens, []uint64{1}) {
				t.Errorf("node %d adopted generations %v", n.n, n.gens)
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
				if !slices.Equal(n.gens, []uint64{1, 2}) || len(n.machine.list()) != 0 {
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

func TestKilledFollowerIsRemovedWithinAMoment(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(5)
		victim := w.follower()
		began := time.Now()
		victim.kill()
		w.eventually(5*time.Second, "removed", func() bool { return len(w.leader().members()) == 4 })
		if took := time.Since(began); took > 500*time.Millisecond {
			t.Errorf("took %v", took)
		}
	})
}

func (w *world) follower() *simNode {
	for _, n := range w.up() {
		if n.office.Load() == nil {
			return n
		}
	}
	return nil
}

func TestSilentFollowerIsRemovedInAboutASecond(t *testing.T) {
	for _, count := range []int{3, 5, 7} {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			simulate(t, func(w *world) {
				w.formatted(count)
				victim := w.follower()
				w.net.silence(victim.self.Addr, true)
				l := w.leader()
				took := w.eventually(5*time.Second, "removed", func() bool { return len(l.members()) == count-1 })
				if took > 1500*time.Millisecond {
					t.Errorf("took %v", took)
				}
				w.eventually(time.Second, "no lease", func() bool { return !victim.LeaseValid() })
				w.net.silence(victim.self.Addr, false)
				w.settle()
				if got := w.nodes[victim.n].self.Incarnation; !listed(w.leader().View(), victim.ref()) {
					t.Errorf("came back under another incarnation than %v", got)
				}
			})
		})
	}
}

func TestKilledLeaderIsReplaced(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(3)
		old := w.leader()
		old.kill()
		w.eventually(3*time.Second, "removed by its successor", w.agreed)
		w.propose(w.up()[0].n, "after")
		old.boot()
		w.settle()
		if got := old.machine.list(); !slices.Equal(got, []string{"after"}) {
			t.Errorf("the returned node applied %v", got)
		}
	})
}

func TestRestartedNodeFollowsAtOnceAfterALongOutage(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(3)
		victim := w.follower()
		victim.kill()
		time.Sleep(45 * time.Second)
		epoch := w.leader().epoch()
		victim.boot()
		took := w.eventually(5*time.Second, "in the view", w.agreed)
		if took > 1500*time.Millisecond {
			t.Errorf("took %v", took)
		}
		if e := w.leader().epoch(); e != epoch+1 {
			t.Errorf("epoch went from %d to %d", epoch, e)
		}
	})
}

func TestQuickRestartMakesANewEpoch(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(3)
		victim := w.follower()
		epoch := victim.epoch()
		victim.kill()
		victim.boot()
		w.settle()
		if e := w.leader().epoch(); e <= epoch {
			t.Errorf("epoch went from %d to %d", epoch, e)
		}
	})
}

func TestMinorityCannotCommitAndLosesItsLease(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(5)
		l := w.leader()
		minority := []*simNode{l, w.follower()}
		w.part(minority, true)
		w.eventually(3*time.Second, "leases of the minority end", func() bool {
			return !minority[0].LeaseValid() && !minority[1].LeaseValid()
		})
		if _, err := minority[1].Propose(w.ctx(2*time.Second), "do", []byte("lost?")); !errors.Is(err, sheepdog.ErrNoQuorum) {
			t.Errorf("minority committed: %v", err)
		}
		if err := minority[0].Barrier(w.ctx(time.Second)); !errors.Is(err, sheepdog.ErrNoQuorum) {
			t.Errorf("barrier in the minority: %v", err)
		}
		var majority *simNode
		for _, n := range w.up() {
			if !slices.Contains(minority, n) {
				majority = n
			}
		}
		w.eventually(5*time.Second, "majority goes on", func() bool { return len(majority.members()) == 3 && majority.LeaseValid() })
		w.propose(majority.n, "kept")
		w.part(minority, false)
		w.settle()
		for _, n := range w.up() {
			if err := n.Barrier(w.ctx(time.Second)); err != nil {
				t.Error(err)
			}
			if got := n.machine.list(); !slices.Contains(got, "kept") {
				t.Errorf("node %d applied %v", n.n, got)
			}
		}
	})
}

// part cuts the nodes off from all others, or joins them again.
func (w *world) part(side []*simNode, on bool) {
	for _, a := range side {
		for _, b := range w.nodes {
			if !slices.Contains(side, b) {
				w.net.cut(a.self.Addr, b.self.Addr, on)
			}
		}
	}
}

func TestWholeRestartJoinsInOneEpoch(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(5)
		w.propose(1, "before")
		epoch := w.nodes[1].epoch()
		for _, n := range w.up() {
			n.kill()
		}
		time.Sleep(20 * time.Second)
		for i := 1; i <= 5; i++ {
			w.nodes[i].boot()
		}
		w.settle()
		for _, n := range w.up() {
			if n.epoch() != epoch+1 {
				t.Errorf("node %d: epoch went from %d to %d", n.n, epoch, n.epoch())
			}
			if got := n.machine.list(); !slices.Equal(got, []string{"before"}) {
				t.Errorf("node %d applied %v", n.n, got)
			}
		}
	})
}

func TestQuorumOfARestartServesWithoutTheRest(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(5)
		for _, n := range w.up() {
			n.kill()
		}
		w.nodes[1].boot()
		w.nodes[2].boot()
		time.Sleep(3 * time.Second)
		if s := w.nodes[1].Status(); s != StatusWaiting {
			t.Errorf("two of five: %q", s)
		}
		w.nodes[4].boot()
		w.settle2(3)
		w.nodes[3].boot()
		w.nodes[5].boot()
		w.settle()
	})
}

// settle2 waits until count nodes agree, without asking for a number of voters.
func (w *world) settle2(count int) {
	w.t.Helper()
	w.eventually(20*time.Second, fmt.Sprint(count, " nodes agree"), func() bool { return len(w.up()) == count && w.agreed() })
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

func TestLeaveDownToOneAndBack(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(5)
		for left := 4; left >= 1; left-- {
			n := w.leader()
			epoch := n.epoch()
			began := time.Now()
			if err := n.Leave(w.ctx(5 * time.Second)); err != nil {
				t.Fatalf("leave of node %d with %d left: %v", n.n, left, err)
			}
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("leave took %v", took)
			}
			n.kill()
			w.settle2(left)
			if e := w.up()[0].epoch(); e != epoch+1 {
				t.Errorf("epoch went from %d to %d with %d left", epoch, e, left)
			}
			w.eventually(3*time.Second, "vote is moved", func() bool { return len(w.voters()) == wantedVoters(left) })
		}
		last := w.up()[0]
		w.propose(last.n, "alone")
		epoch := last.epoch()
		if err := last.Leave(w.ctx(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if last.epoch() != epoch {
			t.Errorf("the last node added epoch %d", last.epoch())
		}
		last.kill()
		for i := 1; i <= 5; i++ {
			w.nodes[i].boot()
		}
		w.settle()
		for _, n := range w.up() {
			if got := n.machine.list(); !slices.Equal(got, []string{"alone"}) {
				t.Errorf("node %d applied %v", n.n, got)
			}
		}
	})
}

func TestVotersSpreadOverZones(t *testing.T) {
	simulate(t, func(w *world) {
		for n := 1; n <= 7; n++ {
			w.add(n, sheepdog.Zone([]int{1, 1, 1, 1, 2, 3, 4}[n-1]))
		}
		w.eventually(5*time.Second, "gossip", func() bool { return len(w.nodes[1].Alive()) == 7 })
		if err := w.nodes[1].Format(w.ctx(5*time.Second), testConfig); err != nil {
			t.Fatal(err)
		}
		w.settle()
		w.eventually(5*time.Second, "voters in all zones", func() bool {
			zones := map[sheepdog.Zone]bool{}
			for _, v := range w.voters() {
				zones[w.nodes[v].self.Zone] = true
			}
			return len(zones) == 4 && len(w.voters()) == 5
		})
		dead := w.nodes[6]
		dead.kill()
		w.eventually(10*time.Second, "dead voter is replaced", func() bool {
			v := w.voters()
			return len(v) == 5 && !slices.Contains(v, 6)
		})
	})
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

func TestLeaseNeverOutlivesLeaseOver(t *testing.T) {
	for _, change := range []string{"same leader", "leader hands over", "leader is cut off"} {
		t.Run(change, func(t *testing.T) {
			simulate(t, func(w *world) {
				w.formatted(5)
				for round := range 3 {
					w.leaseRound(change, time.Duration(round)*70*time.Millisecond)
				}
			})
		})
	}
}

// leaseRound removes a living member by force, which is faster than any lease
// runs out, and looks whether LeaseOver waits long enough all the same.
func (w *world) leaseRound(change string, shift time.Duration) {
	w.t.Helper()
	time.Sleep(shift)
	l, victim := w.leader(), w.follower()
	remove := state.Change{Remove: []state.MemberRef{victim.ref()}, Confirmed: []state.MemberRef{l.ref()}}
	if _, err := l.ProposeState(w.ctx(time.Second), state.Command{Change: &remove}); err != nil {
		w.t.Fatal(err)
	}
	cut := []*simNode{victim} // or it would register again at once
	switch change {
	case "leader hands over":
		l.handOver()
	case "leader is cut off":
		cut = append(cut, l)
	}
	for _, n := range cut {
		w.part([]*simNode{n}, true)
	}
	left := victim.LeaseLeft()
	if left < 200*time.Millisecond {
		w.t.Fatalf("the removed node has only %v of its lease left: nothing is tested", left)
	}
	w.eventually(10*time.Second, "lease is over", func() bool {
		for _, n := range w.up() {
			if n == victim || slices.Contains(cut, n) {
				continue
			}
			if n.LeaseOver(w.ctx(5*time.Second), victim.ref()) == nil {
				return true
			}
		}
		return false
	})
	if left := victim.LeaseLeft(); left > 0 {
		w.t.Errorf("%s: the lease is over for the leader, but has %v left at the node", change, left)
	}
	for _, n := range cut {
		w.part([]*simNode{n}, false)
	}
	w.settle()
}

func TestLeaseOverOfAMemberOrAtAFollower(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(3)
		l := w.leader()
		if err := l.LeaseOver(w.ctx(time.Second), w.follower().ref()); !errors.Is(err, sheepdog.ErrBusy) {
			t.Errorf("lease of a member: %v", err)
		}
		if err := w.follower().LeaseOver(w.ctx(time.Second), state.MemberRef{ID: 99, Incarnation: 1}); !errors.Is(err, sheepdog.ErrNoQuorum) {
			t.Errorf("asked a follower: %v", err)
		}
	})
}

func TestNodeReturnsAtAnotherAddress(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(3)
		n := w.follower()
		n.kill()
		w.eventually(3*time.Second, "removed", func() bool { l := w.leader(); return l != nil && len(l.members()) == 2 })
		n.self.Addr = addrOf(33)
		n.boot()
		w.settle()
		m, _ := w.leader().View().Member(n.self.ID)
		if m.Addr != addrOf(33) {
			t.Errorf("the view has %s", m.Addr)
		}
		w.propose(n.n, "from there")
	})
}

func TestStrangerAtAMembersAddressIsNotTakenForIt(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(3)
		n := w.follower()
		n.kill()
		stranger := &simNode{world: w, n: 9, memory: NewMemory(), self: sheepdog.Member{ID: 9, Addr: n.self.Addr, Zone: 9, VNodes: 1}}
		w.nodes[9] = stranger
		stranger.boot()
		w.settle2(3)
		if got := w.leader().members(); !slices.Contains(got, 9) || slices.Contains(got, n.n) {
			t.Errorf("members are %v", got)
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

func TestFalseSuspicionRemovesNobody(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(3)
		epoch := w.nodes[1].epoch()
		for range 20 {
			for _, a := range w.up() {
				for _, b := range w.up() {
					a.Suspect(b.self.ID, b.self.Incarnation)
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
		if e := w.nodes[1].epoch(); e != epoch {
			t.Errorf("epoch went from %d to %d", epoch, e)
		}
	})
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
