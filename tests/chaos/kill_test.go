package chaos

import (
	"sync"
	"testing"
	"time"
)

// A random node is killed under load and comes back, again and again.
func TestKillOfARandomNode(t *testing.T) {
	a := enter(t, 3)
	a.populate()
	for round := range rounds(t, 20, 1) {
		i, victim := a.pick()
		var wg sync.WaitGroup
		a.verify(&wg, 3*time.Second, (i+1)%3, (i+2)%3)
		time.Sleep(a.between(200*time.Millisecond, 1500*time.Millisecond))
		a.Kill(victim)
		down := a.between(0, 4*time.Second)
		time.Sleep(down)
		a.Run(victim)
		wg.Wait()
		a.Recovered(time.Minute)
		t.Logf("round %d: node %d was dead for %v", round, i, down.Round(time.Millisecond))
		if t.Failed() {
			break
		}
	}
	a.judge()
}

// All nodes are killed at once under load, and start again in some order.
func TestKillOfTheWholeCluster(t *testing.T) {
	a := enter(t, 3)
	a.populate()
	for round := range rounds(t, 5, 1) {
		time.Sleep(a.between(500*time.Millisecond, 3*time.Second))
		a.Kill(a.Sheep...)
		order := a.rng.Perm(3)
		for _, i := range order {
			time.Sleep(a.between(0, 500*time.Millisecond))
			a.Spawn(a.Sheep[i])
		}
		for _, s := range a.Sheep {
			a.Answers(s)
		}
		a.Recovered(time.Minute)
		t.Logf("round %d: started in the order %v", round, order)
	}
	a.judge()
}
