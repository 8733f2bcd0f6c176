package cluster

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"sheepdog"
	"sheepdog/cluster/state"
)

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
			// An exchange that was under way when the node was cut off may have to time
			// out first.
			if err := n.Barrier(w.ctx(2 * raftTimeout)); err != nil {
				t.Error(err)
			}
			if got := n.machine.list(); !slices.Contains(got, "kept") {
				t.Errorf("node %d applied %v", n.n, got)
			}
		}
	})
}

func TestLeaseNeverOutlivesLeaseOver(t *testing.T) {
	for _, change := range []string{"same leader", "leader hands over", "leader is cut off"} {
		t.Run(change, func(t *testing.T) {
			simulate(t, func(w *world) {
				w.formatted(5)
				for round := range 2 {
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
	if left < victim.opts.Timing.Lease/4 { // a third at the worst, were calls to take no time
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

// A node wakes up, is listed again, and gets a lease, before it has applied that it
// was not listed for a while and what was let through meanwhile. In the view that
// it still has it is a member: with the lease it went on coordinating a VDI that
// had got another coordinator, and answered reads with what was there before.
// (Found by tests/chaos, TestPauseOfTheCoordinator.)
func TestLeaseWaitsUntilTheNodeHasCaughtUp(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(3)
		l, victim := w.leader(), w.follower()
		hold := make(chan struct{})
		release := sync.OnceFunc(func() { close(hold) })
		defer release()
		victim.machine.mu.Lock()
		victim.machine.hold = hold
		victim.machine.mu.Unlock()
		w.propose(l.n, "held at one node")
		remove := state.Change{Remove: []state.MemberRef{victim.ref()}, Confirmed: []state.MemberRef{l.ref()}}
		if _, err := l.ProposeState(w.ctx(time.Second), state.Command{Change: &remove}); err != nil {
			t.Fatal(err)
		}
		epoch := l.View().Epoch
		w.eventually(3*time.Second, "listed again", func() bool { return l.View().Epoch > epoch && listed(l.View(), victim.ref()) })
		time.Sleep(2 * l.opts.Timing.Lease)
		if victim.LeaseValid() {
			t.Error("it has a lease while its view is an old one")
		}
		release()
		w.eventually(time.Second, "lease", victim.LeaseValid)
		w.settle()
	})
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

func TestLeaderThatIsCutOffProvesNothing(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(6) // one node follows without a vote: its word must not count
		l := w.leader()
		off := l.office.Load()
		if err := off.prover.leads(w.ctx(time.Second)); err != nil {
			t.Fatalf("the leader cannot prove that it leads: %v", err)
		}
		voters := w.voters()
		cut := 0
		for _, n := range w.up() {
			if n != l && slices.Contains(voters, n.n) && cut < 3 {
				w.net.cut(l.self.Addr, n.self.Addr, true)
				cut++
			}
		}
		if l.consensus.Load().raft.State() != raft.Leader {
			t.Fatal("the leader stepped down already: nothing is tested")
		}
		if err := off.prover.leads(w.ctx(50 * time.Millisecond)); err == nil {
			t.Error("two of five voters were enough")
		}
	})
}

func TestProofsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wg sync.WaitGroup
		proofs := 0
		p := &prover{ctx: t.Context(), spawn: wg.Go, prove: func(context.Context) error {
			proofs++
			time.Sleep(time.Second)
			return nil
		}}
		for range 100 {
			wg.Go(func() { p.leads(t.Context()) })
		}
		synctest.Wait()
		began := time.Now()
		if err := p.leads(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took <= time.Second {
			t.Errorf("took %v: a proof that ran already was taken for an answer", took)
		}
		wg.Wait()
		if proofs > 3 {
			t.Errorf("%d proofs for 101 questions", proofs)
		}
	})
}
