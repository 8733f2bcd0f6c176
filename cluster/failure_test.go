package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"sheepdog"
)

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

// Every connection to a process that is killed is a report of its own.
func TestDeathIsToldOnce(t *testing.T) {
	simulate(t, func(w *world) {
		w.told = &messages{seen: map[string]int{}}
		w.formatted(5)
		victim, l := w.follower(), w.leader()
		victim.kill()
		for range 4 {
			for _, n := range w.up() {
				n.Suspect(victim.self.ID, victim.self.Incarnation)
			}
			time.Sleep(10 * time.Millisecond)
		}
		w.eventually(5*time.Second, "removed", func() bool { return len(l.members()) == 4 })
		if n := w.told.count("two nodes found a member gone"); n != 1 {
			t.Errorf("told %d times", n)
		}
	})
}

// Hosts may get new addresses while they are down, after a power cut most of them
// at once. The Raft configuration of before has none that answers then.
func TestMostNodesMoveToOtherAddresses(t *testing.T) {
	for _, moved := range []int{2, 3} {
		t.Run(fmt.Sprint(moved), func(t *testing.T) {
			simulate(t, func(w *world) {
				w.formatted(3)
				for n := 1; n <= moved; n++ {
					w.nodes[n].kill()
				}
				w.seeds = nil
				for n := 1; n <= moved; n++ {
					w.nodes[n].self.Addr = addrOf(n + 10)
					w.seeds = append(w.seeds, n+10)
					w.nodes[n].boot()
				}
				if moved < 3 {
					// Who stayed finds them by what they tell, and they it by its address of before.
					w.seeds = append(w.seeds, 3)
				}
				w.settle()
				for n := 1; n <= moved; n++ {
					if m, _ := w.leader().View().Member(sheepdog.NodeID(n)); m.Addr != addrOf(n+10) {
						t.Errorf("node %d is listed at %s", n, m.Addr)
					}
				}
				w.propose(1, "afterwards")
			})
		})
	}
}

func (w *world) follower() *simNode {
	for _, n := range w.up() {
		if n.office.Load() == nil {
			return n
		}
	}
	return nil
}

// A process that is starved of its processor is silent in gossip, and suspected.
// It must not be taken for gone: to come back as a target costs a backfill.
func TestStarvedFollowerStays(t *testing.T) {
	for _, d := range []time.Duration{500 * time.Millisecond, time.Second} {
		t.Run(d.String(), func(t *testing.T) {
			simulate(t, func(w *world) {
				w.formatted(3)
				victim, l := w.follower(), w.leader()
				epoch := l.epoch()
				for range 5 {
					w.net.starve(victim.self.Addr, d)
					time.Sleep(d + 2*time.Second)
				}
				if e := l.epoch(); e != epoch {
					t.Errorf("epoch went from %d to %d: a node that lives was removed", epoch, e)
				}
				w.settle()
			})
		})
	}
}

func TestSilentFollowerIsRemovedWithinTwoSeconds(t *testing.T) {
	for _, count := range []int{3, 5, 7} {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			simulate(t, func(w *world) {
				w.formatted(count)
				victim := w.follower()
				w.net.silence(victim.self.Addr, true)
				l := w.leader()
				took := w.eventually(5*time.Second, "removed", func() bool { return len(l.members()) == count-1 })
				if took > 2*time.Second {
					t.Errorf("took %v", took)
				}
				t.Logf("removed after %v", took)
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

// A killed leader is not waited for until its heartbeats are missed: with that and
// its lease, guests of other nodes stood still for up to 1.7 s.
// (Found by tests/chaos, TestLongestStall.)
// aMoment is what it takes to find out that a process is gone, to elect and to commit.
const aMoment = 350 * time.Millisecond

// replace kills the leader, and wants it removed by its successor within limit.
func (w *world) replace(leader *simNode, limit time.Duration) {
	w.t.Helper()
	leader.kill()
	if took := w.eventually(5*time.Second, "removed by its successor", w.agreed); took > limit {
		w.t.Errorf("the leader was replaced after %v, want %v", took, limit)
	}
}

func TestKilledLeaderIsReplacedWithinAMoment(t *testing.T) {
	for _, count := range []int{3, 5} {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			simulate(t, func(w *world) {
				w.formatted(count)
				for range 3 {
					old := w.leader()
					w.replace(old, aMoment)
					old.boot()
					w.settle()
				}
			})
		})
	}
}

// Votes go to a log that is not shorter. The first in line may lack what the
// leader wrote last; the next stands then.
func TestKilledLeaderIsReplacedByWhoHasItsLastEntry(t *testing.T) {
	for first := range 2 {
		t.Run(fmt.Sprint(first), func(t *testing.T) {
			simulate(t, func(w *world) {
				w.formatted(3)
				old := w.leader()
				rest := w.besides(old)
				behind := rest[first]
				w.net.cut(old.self.Addr, behind.self.Addr, true)
				w.propose(old.n, "last")
				old.kill() // before the link is whole again
				w.net.cut(old.self.Addr, behind.self.Addr, false)
				w.replace(old, aMoment+stagger)
				if w.leader() == behind {
					t.Error("the successor lacks an entry")
				}
			})
		})
	}
}

// Members agree again before gossip has found the returned node.
func TestKilledLeaderIsReplacedWithinAMomentAfterAnOutage(t *testing.T) {
	for _, leads := range []bool{false, true} {
		t.Run(fmt.Sprintf("leads=%t", leads), func(t *testing.T) {
			simulate(t, func(w *world) {
				w.formatted(3)
				for range 6 {
					victim := w.follower()
					if leads {
						victim = w.leader()
					}
					w.net.silence(victim.self.Addr, true)
					time.Sleep(6 * time.Second)
					w.net.silence(victim.self.Addr, false)
					w.settle()
					old := w.leader()
					w.replace(old, aMoment)
					old.boot()
					w.settle()
				}
			})
		})
	}
}

// Followers use the streams between them at elections only.
func TestVotesAreAskedForThoughStreamsDied(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(3)
		f := w.besides(w.leader())
		ask := func(what string, request func(t *patientTransport, h raft.RPCHeader) error) {
			h := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(f[0].self.ID.String()), Addr: []byte(raftAddress(f[0].self.ID, f[0].self.Addr))}
			if err := request(f[0].consensus.Load().transport, h); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		id, addr := raft.ServerID(f[1].self.ID.String()), raftAddress(f[1].self.ID, f[1].self.Addr)
		preVote := func(t *patientTransport, h raft.RPCHeader) error {
			return t.RequestPreVote(id, addr, &raft.RequestPreVoteRequest{RPCHeader: h}, new(raft.RequestPreVoteResponse))
		}
		vote := func(t *patientTransport, h raft.RPCHeader) error {
			return t.RequestVote(id, addr, &raft.RequestVoteRequest{RPCHeader: h}, new(raft.RequestVoteResponse))
		}
		ask("before", preVote)
		for what, request := range map[string]func(*patientTransport, raft.RPCHeader) error{"pre-vote": preVote, "vote": vote} {
			f[1].kill()
			f[1].boot()
			w.settle()
			ask(what+" after a restart", request)
		}
	})
}

// What the other node answers is final, also if it is an error.
func TestAnsweredErrorsAreNotAskedForAgain(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(3)
		f := w.besides(w.leader())
		transport := f[0].consensus.Load().transport
		foreign := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax + 1, ID: []byte(f[0].self.ID.String()), Addr: []byte(raftAddress(f[0].self.ID, f[0].self.Addr))}
		asked := 0
		err := transport.onLiveStream(func() error {
			asked++
			return transport.NetworkTransport.RequestVote(raft.ServerID(f[1].self.ID.String()), raftAddress(f[1].self.ID, f[1].self.Addr), &raft.RequestVoteRequest{RPCHeader: foreign}, new(raft.RequestVoteResponse))
		})
		if err == nil || err.Error() != raft.ErrUnsupportedProtocol.Error() || asked != 1 {
			t.Errorf("asked %d times: %v; want once, refused", asked, err)
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

func TestLeaveDownToOneAndBack(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(5)
		for left := 4; left >= 1; left-- {
			n := w.leader()
			epoch := n.epoch()
			began := time.Now()
			if _, err := n.Leave(w.ctx(5 * time.Second)); err != nil {
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
		if _, err := last.Leave(w.ctx(5 * time.Second)); err != nil {
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
		// A node gets no vote before gossip has told that it is of the cluster, and a rumour
		// may miss somebody: see formatted.
		w.eventually(15*time.Second, "voters in all zones", func() bool {
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

func TestMemberThatConfirmsIsNotRemoved(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(3)
		l, accused := w.leader(), w.follower()
		epoch := l.epoch()
		l.office.Load().pending.condemn(accused.ref())
		l.kickMembership()
		w.eventually(3*time.Second, "looked into", func() bool {
			return l.office.Load().pending.collect(l.View(), nil).empty()
		})
		if e := l.epoch(); e != epoch {
			t.Errorf("epoch went from %d to %d", epoch, e)
		}
	})
}

func TestLeaveWithoutQuorumIsGivenUp(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(3)
		w.nodes[2].kill()
		w.nodes[3].kill()
		began := time.Now()
		if _, err := w.nodes[1].Leave(w.ctx(time.Minute)); !errors.Is(err, sheepdog.ErrNoQuorum) {
			t.Errorf("leave: %v", err)
		}
		if took := time.Since(began); took > 2500*time.Millisecond {
			t.Errorf("took %v", took)
		}
	})
}

func TestGreetingIsJudged(t *testing.T) {
	greeting := func(version byte, cluster sheepdog.ClusterID, meant uint64) []byte {
		b := append([]byte{version}, cluster[:]...)
		b = binary.BigEndian.AppendUint64(b, meant)
		return binary.BigEndian.AppendUint64(b, 9)
	}
	s := &raftStreams{self: sheepdog.Member{ID: 5}, cluster: sheepdog.ClusterID{1}}
	for _, c := range []struct {
		b    []byte
		want byte
	}{
		{greeting(greetingVersion, s.cluster, 5), welcome},
		{greeting(greetingVersion+1, s.cluster, 5), wrongVersion},
		{greeting(greetingVersion, sheepdog.ClusterID{2}, 5), wrongCluster},
		{greeting(greetingVersion, s.cluster, 6), wrongNode},
	} {
		got, err := s.judge(c.b)
		if got != c.want || (err == nil) != (c.want == welcome) {
			t.Errorf("greeting %x: %d, %v", c.b, got, err)
		}
	}
}

// TestRandomFailures lets nodes die, fall silent, return and be cut off while
// everybody proposes, and looks whether the survivors agree in the end: every
// command that was acknowledged is there once, in the same order everywhere.
func TestRandomFailures(t *testing.T) {
	seed := rand.Uint64() // other ones with -count
	t.Run(fmt.Sprint(seed), func(t *testing.T) {
		simulate(t, func(w *world) { w.chaos(rand.New(rand.NewPCG(seed, 0))) })
	})
}

func (w *world) chaos(rng *rand.Rand) {
	w.formatted(5)
	var mu sync.Mutex
	acked := map[string]bool{}
	var wg sync.WaitGroup
	for round := range 8 {
		n := w.nodes[1+rng.IntN(5)]
		if n.Cluster == nil {
			n.boot()
		}
		c := n.Cluster
		for i := range 5 {
			wg.Go(func() {
				body := fmt.Sprintf("%d.%d", round, i)
				if _, err := c.Propose(w.ctx(4*time.Second), "do", []byte(body)); err == nil {
					mu.Lock()
					acked[body] = true
					mu.Unlock()
				}
			})
		}
		time.Sleep(time.Duration(rng.IntN(400)) * time.Millisecond)
		victim := w.nodes[1+rng.IntN(5)]
		switch kind := rng.IntN(3); {
		case victim.Cluster == nil:
			victim.boot()
		case kind == 0:
			victim.kill()
		default:
			w.part([]*simNode{victim}, true)
			time.Sleep(time.Duration(rng.IntN(2000)) * time.Millisecond)
			w.part([]*simNode{victim}, false)
		}
	}
	wg.Wait()
	for _, n := range w.nodes {
		if n.Cluster == nil {
			n.boot()
		}
	}
	w.settle()
	var first []string
	for _, n := range w.up() {
		if err := n.Barrier(w.ctx(5 * time.Second)); err != nil {
			w.t.Fatal(err)
		}
		got := n.machine.list()
		if first == nil {
			first = got
		}
		if !slices.Equal(got, first) {
			w.t.Errorf("node %d applied %v, others %v", n.n, got, first)
		}
	}
	count := map[string]int{}
	for _, body := range first {
		if count[body]++; count[body] > 1 {
			w.t.Errorf("%s was applied twice", body)
		}
	}
	for body := range acked {
		if count[body] == 0 {
			w.t.Errorf("%s was acknowledged and is lost", body)
		}
	}
}

// A node that lost a disk, and has not said so yet, does not confirm that it lives:
// it would let a replica go that only crashed and has all of it.
func TestNodeThatLostADiskLetsNobodyGo(t *testing.T) {
	simulate(t, func(w *world) {
		w.addAll(3)
		time.Sleep(6 * time.Second) // until a full exchange of gossip
		config := testConfig
		config.Policy.Copies = 2
		if err := w.nodes[1].Format(w.ctx(5*time.Second), config); err != nil {
			t.Fatal(err)
		}
		w.settle()
		w.nodes[2].Doubt()
		w.nodes[1].kill()
		w.eventually(10*time.Second, "the dead one is out", func() bool { return slices.Equal(w.nodes[3].members(), []int{2, 3}) })
		twos := make(map[bool]int)
		count := func(when string, held func(acting []sheepdog.NodeID) bool) {
			t.Helper()
			v := w.nodes[3].View()
			for _, table := range v.Tables {
				for p, pl := range table {
					twos[slices.Contains(pl.Acting, 2)]++
					if !held(pl.Acting) {
						t.Fatalf("%s: partition %d acts at %v", when, p, pl.Acting)
					}
				}
			}
		}
		// Node 3 confirmed, so that node 1 goes where node 3 acts; elsewhere it stays.
		count("before the demotion", func(acting []sheepdog.NodeID) bool {
			return slices.Contains(acting, 1) == !slices.Contains(acting, 3)
		})
		if twos[true] == 0 {
			t.Fatal("no partition acts at node 2")
		}
		if err := w.nodes[2].Demote(w.ctx(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		w.eventually(5*time.Second, "the demotion is known", func() bool { return w.nodes[3].View().Revision >= w.nodes[2].View().Revision })
		count("after it", func(acting []sheepdog.NodeID) bool {
			return !slices.Contains(acting, 2) || slices.Contains(acting, 1)
		})
	})
}

// TestLeaveBesideADeadVoter: one of three nodes was gone for ever, but for its vote. When
// another one was stopped in good order, the vote of the dead one was half of the two
// that were left: the change was never committed, and the one that was stopped could
// not come back, nor could anybody join in place of the dead one.
func TestLeaveBesideADeadVoter(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(3)
		leader := w.leader()
		others := w.besides(leader)
		dead, leaver := others[0], others[1]
		dead.kill()
		w.eventually(10*time.Second, "the dead one is no member", func() bool { return len(leader.members()) == 2 })
		if _, err := leaver.Leave(w.ctx(10 * time.Second)); err != nil {
			t.Errorf("leave: %v", err)
		}
		leaver.stop()
		if err := leader.Barrier(w.ctx(10 * time.Second)); err != nil {
			t.Errorf("one node is left, and cannot commit: %v", err)
		}
		leaver.boot()
		w.add(4) // in place of the dead one
		w.eventually(20*time.Second, "three members", func() bool { return len(leader.members()) == 3 && w.agreed() })
	})
}

// The same when the death is a moment ago, and nobody knows it yet: the one that leaves
// keeps its vote, and brings the majority back.
func TestLeaveRightAfterADeath(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(3)
		leader := w.leader()
		others := w.besides(leader)
		dead, leaver := others[0], others[1]
		dead.kill()
		_, _ = leaver.Leave(w.ctx(10 * time.Second))
		leaver.stop()
		time.Sleep(5 * time.Second)
		leaver.boot()
		w.add(4)
		w.eventually(30*time.Second, "three members", func() bool { return len(w.up()) == 3 && len(leader.members()) == 3 && w.agreed() })
	})
}

// TestThirdDeathOfFive: two of five nodes had died, long ago. Their votes stayed, so that
// the death of one of the three that were left stopped the cluster.
func TestThirdDeathOfFive(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(5)
		for died := range 3 {
			var victim *simNode
			for _, n := range w.up() {
				if n != w.leader() {
					victim = n
				}
			}
			victim.kill()
			w.eventually(20*time.Second, "the dead one is no member", func() bool {
				l := w.leader()
				return l != nil && len(l.members()) == 4-died
			})
			time.Sleep(time.Minute)
		}
		if err := w.up()[0].Barrier(w.ctx(10 * time.Second)); err != nil {
			t.Error(err)
		}
	})
}

// TestLeaveRightAfterADeathBesideANewNode: the leader, which had a new node to give a
// vote to, took that of the one that left, and needed that of the dead one for it.
func TestLeaveRightAfterADeathBesideANewNode(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(3)
		leader := w.leader()
		others := w.besides(leader)
		w.add(4)
		w.eventually(20*time.Second, "four members", func() bool { return len(leader.members()) == 4 })
		others[0].kill()
		_, _ = others[1].Leave(w.ctx(10 * time.Second))
		others[1].stop()
		time.Sleep(5 * time.Second)
		others[1].boot()
		w.eventually(30*time.Second, "three members", func() bool { return len(leader.members()) == 3 && w.agreed() })
	})
}
