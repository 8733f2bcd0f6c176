package cluster

import (
	"os"
	"strings"
	"testing"
	"time"

	"sheepdog"
)

// twinOf starts another process with the id of a node, at the address of node n,
// from the given directory or, if that is "", from nothing.
func (w *world) twinOf(node *simNode, n int, dir string) *simNode {
	twin := &simNode{world: w, n: n, dir: dir, memory: NewMemory(), self: sheepdog.Member{
		ID: node.self.ID, Addr: addrOf(n), Zone: sheepdog.Zone(n), VNodes: 128,
	}}
	twin.boot()
	return twin
}

// The image of a machine is cloned, with the directory of a node that is a member
// of the cluster, or has not been one yet. The two took turns for ever.
func TestCopiedNodeTakesNoPart(t *testing.T) {
	for _, formatted := range []bool{true, false} {
		t.Run(map[bool]string{true: "copied from a member", false: "copied when fresh"}[formatted], func(t *testing.T) {
			simulate(t, func(w *world) {
				w.disks = formatted
				w.formatted(3)
				victim, dir := w.follower(), ""
				if formatted {
					dir = t.TempDir()
					victim.kill()
					if err := os.CopyFS(dir, os.DirFS(victim.dir)); err != nil {
						t.Fatal(err)
					}
					victim.boot()
					w.settle()
				}
				epoch := w.leader().epoch()
				twin := w.twinOf(victim, 4, dir)
				defer twin.stop()
				w.eventually(5*time.Second, "it takes no part", func() bool { return twin.GivenUp() != nil && twin.consensus.Load() == nil })
				if s := twin.Status(); s != StatusFailed {
					t.Errorf("its status is %q", s)
				}
				time.Sleep(twinAfter + 5*time.Second)
				w.settle()
				if now := w.leader().epoch(); now != epoch {
					t.Errorf("epoch went from %d to %d", epoch, now)
				}
				for _, n := range w.up() {
					if got := n.Twins(); len(got) != 1 || got[0].ID != victim.self.ID || len(got[0].Addrs) != 2 {
						t.Errorf("node %d knows of %v", n.n, got)
					}
				}
				twin.stop()
				w.eventually(10*time.Second, "nobody knows of twins", func() bool { return len(w.leader().Twins()) == 0 })
			})
		})
	}
}

// A node that has moved is in gossip twice for a moment, and is no twin.
func TestMovedNodeIsNoTwin(t *testing.T) {
	simulate(t, func(w *world) {
		w.formatted(3)
		n := w.follower()
		n.kill()
		n.self.Addr = addrOf(13)
		n.boot()
		w.settle()
		for range 30 {
			if got := w.leader().Twins(); len(got) > 0 {
				t.Fatalf("%v", got)
			}
			time.Sleep(twinAfter / 20)
		}
	})
}

func TestFormatRefusesTwins(t *testing.T) {
	for _, of := range []int{1, 2} { // node 1 is the one that formats
		simulate(t, func(w *world) {
			w.addAll(2)
			twin := w.twinOf(w.nodes[of], 3, "")
			defer twin.stop()
			w.eventually(10*time.Second, "all in gossip", func() bool { return len(w.nodes[1].Alive()) == 3 })
			err := w.nodes[1].Format(w.ctx(5*time.Second), testConfig)
			if err == nil || !strings.Contains(err.Error(), "have one node id") || !strings.Contains(err.Error(), addrOf(3)) {
				t.Errorf("of node %d: %v", of, err)
			}
			twin.stop()
			w.eventually(10*time.Second, "the twin is gone", func() bool { return len(w.nodes[1].Alive()) == 2 })
			w.eventually(10*time.Second, "format", func() bool { return w.nodes[1].Format(w.ctx(5*time.Second), testConfig) == nil })
		})
	}
}
