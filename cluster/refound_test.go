package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"sheepdog"
)

// refounded has node n survey the living and found the cluster anew.
func (w *world) refounded(n int) {
	w.t.Helper()
	s, err := w.nodes[n].Survey(w.ctx(10 * time.Second))
	if err != nil {
		w.t.Fatalf("survey: %v", err)
	}
	if err := w.nodes[n].Refound(w.ctx(20*time.Second), s); err != nil {
		w.dump()
		w.t.Fatalf("found anew: %v", err)
	}
}

// lose kills nodes for ever, and waits until the others know.
func (w *world) lose(nodes ...int) {
	w.t.Helper()
	for _, n := range nodes {
		w.nodes[n].kill()
	}
	w.eventually(20*time.Second, "the others miss them", func() bool {
		for _, n := range w.up() {
			if len(n.Alive()) != len(w.up()) || n.Status() == StatusRunning {
				return false
			}
		}
		return true
	})
}

func (w *world) proposeAt(n int, what string) {
	w.t.Helper()
	if _, err := w.nodes[n].Propose(w.ctx(10*time.Second), "do", []byte(what)); err != nil {
		w.dump()
		w.t.Fatalf("propose %q at node %d: %v", what, n, err)
	}
}

// Two of three voters are lost. The third goes on with all that was committed;
// what it gives out from then on is above what the lost may have given. When
// they return they are strangers, also together, when they are a majority of
// the former cluster.
func TestFoundAnewAfterTheLossOfTheQuorum(t *testing.T) {
	for _, disks := range []bool{false, true} {
		t.Run(fmt.Sprintf("disks=%t", disks), func(t *testing.T) {
			simulate(t, func(w *world) {
				w.disks = disks
				w.formatted(3)
				w.proposeAt(1, "a")
				former, rev := w.nodes[1].ID(), w.nodes[1].View().Revision
				inc := w.nodes[1].self.Incarnation
				w.lose(2, 3)
				w.refounded(1)
				w.settle()
				n := w.nodes[1]
				if v := n.View(); v.Cluster == former || n.ID() != v.Cluster || v.Revision <= rev || v.Members[0].Incarnation != inc {
					t.Fatalf("view %+v after the foundation, id %v, former %v", v, n.ID(), former)
				}
				w.proposeAt(1, "b")
				if got := n.machine.list(); !slices.Equal(got, []string{"a", "b"}) || n.machine.skips != 1 {
					t.Fatalf("applied %q, numbers skipped %d times", got, n.machine.skips)
				}
				if got := n.machine.generations(); len(got) != 1 {
					t.Errorf("the store was told of generations %v; it must not be wiped", got)
				}
				w.nodes[2].boot()
				w.nodes[3].boot()
				w.eventually(20*time.Second, "the lost know that they are strangers", func() bool {
					return w.nodes[2].GivenUp() != nil && w.nodes[3].GivenUp() != nil
				})
				time.Sleep(10 * time.Second)
				for _, i := range []int{2, 3} {
					if w.nodes[i].Status() == StatusRunning || w.nodes[i].LeaseValid() {
						t.Errorf("node %d, which was given up, runs", i)
					}
				}
				if got := n.members(); !slices.Equal(got, []int{1}) || n.Status() != StatusRunning {
					t.Errorf("node 1 is %s with members %v", n.Status(), got)
				}
				// Not even without the survivor are they the former cluster again.
				n.kill()
				w.nodes[2].kill()
				w.nodes[3].kill()
				w.nodes[2].boot()
				w.nodes[3].boot()
				time.Sleep(10 * time.Second)
				if _, err := w.nodes[2].Propose(w.ctx(time.Second), "do", []byte("c")); !errors.Is(err, sheepdog.ErrNoQuorum) {
					t.Errorf("a node that was given up commits: %v", err)
				}
				w.nodes[2].kill()
				w.nodes[3].kill()
				n.boot()
				w.settle()
				w.proposeAt(1, "d")
				// A fresh node, and one that was given up and emptied, may join.
				w.add(4)
				w.nodes[2].memory, w.nodes[2].dir = NewMemory(), ""
				w.nodes[2].boot()
				w.settle()
			})
		})
	}
}

// The one with the most advanced log founds the cluster, whoever was asked.
func TestFoundAnewWithTheBestLog(t *testing.T) {
	simulate(t, func(w *world) {
		w.disks = true
		w.formatted(5)
		behind := w.nodes[1]
		if w.leader() == behind {
			if err := behind.consensus.Load().raft.LeadershipTransfer().Error(); err != nil {
				t.Fatal(err)
			}
			w.eventually(10*time.Second, "another leads", func() bool { l := w.leader(); return l != nil && l != behind })
		}
		behind.kill()
		w.eventually(20*time.Second, "the others go on", func() bool { return len(w.nodes[2].members()) == 4 })
		for i := range 20 {
			w.proposeAt(3, fmt.Sprint(i))
		}
		for _, i := range []int{3, 4, 5} {
			w.nodes[i].kill()
		}
		behind.boot()
		w.eventually(20*time.Second, "1 and 2 meet", func() bool {
			leader, _ := behind.Leader()
			return len(behind.Alive()) == 2 && len(w.nodes[2].Alive()) == 2 && w.nodes[2].Status() == StatusWaiting && leader == ""
		})
		w.refounded(1)
		w.settle()
		w.proposeAt(1, "last")
		if got := behind.machine.list(); len(got) != 21 || got[19] != "19" {
			t.Errorf("node 1 applied %q", got)
		}
		if got := w.voters(); !slices.Equal(got, []int{1, 2}) {
			t.Errorf("voters %v", got)
		}
	})
}

// With a quorum nobody is given up.
func TestNoFoundationWhileThereIsAQuorum(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(3)
		w.nodes[3].kill()
		w.eventually(20*time.Second, "two go on", w.agreed)
		s, err := w.nodes[1].Survey(w.ctx(5 * time.Second))
		if err != nil || !s.Quorum {
			t.Fatalf("quorum %t, %v", s != nil && s.Quorum, err)
		}
		if err := w.nodes[1].Refound(w.ctx(5*time.Second), s); !errors.Is(err, sheepdog.ErrBusy) {
			t.Errorf("founded anew: %v", err)
		}
		s.Quorum = false // as if the survey had been wrong: each node looks itself
		if err := w.nodes[1].Refound(w.ctx(5*time.Second), s); !errors.Is(err, sheepdog.ErrBusy) {
			t.Errorf("founded anew: %v", err)
		}
		w.eventually(20*time.Second, "two go on", w.agreed)
		w.proposeAt(2, "a")
	})
}

// An attempt that ends in the middle is finished by another one, or goes on by
// itself; at no point are there two clusters.
func TestFoundationInterrupted(t *testing.T) {
	steps := map[string]func(w *world, c *Cluster, m message){
		"after one was prepared": func(w *world, c *Cluster, m message) { w.must(c, 1, methodPrepare, m) },
		"after all were prepared": func(w *world, c *Cluster, m message) {
			w.must(c, 1, methodPrepare, m)
			w.must(c, 2, methodPrepare, m)
		},
		"after the founder was done": func(w *world, c *Cluster, m message) {
			w.must(c, 1, methodPrepare, m)
			w.must(c, 2, methodPrepare, m)
			w.must(c, 1, methodReform, m)
		},
	}
	for name, step := range steps {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(w *world) {
				w.disks = true
				w.formatted(5)
				w.proposeAt(1, "a")
				w.lose(3, 4, 5)
				c := w.nodes[2].Cluster
				m := message{Cluster: c.ID(), Next: sheepdog.ClusterID{77}, Former: []sheepdog.ClusterID{c.ID()}}
				step(w, c, m)
				for _, i := range []int{1, 2} {
					w.nodes[i].kill()
					w.nodes[i].boot()
				}
				time.Sleep(5 * time.Second)
				if w.nodes[2].ID() != m.Next && w.nodes[1].ID() != m.Next {
					w.eventually(10*time.Second, "they meet", func() bool { return len(w.nodes[2].Alive()) == 2 })
					w.refounded(2)
				}
				w.settle()
				w.proposeAt(2, "b")
				if got := w.nodes[1].machine.list(); !slices.Equal(got, []string{"a", "b"}) {
					t.Errorf("applied %q", got)
				}
			})
		})
	}
}

// must calls a control method of a node and wants it to succeed.
func (w *world) must(c *Cluster, n int, method string, m message) {
	w.t.Helper()
	if _, err := c.call(context.Background(), addrOf(n), method, m); err != nil {
		w.t.Fatalf("%s at node %d: %v", method, n, err)
	}
}
