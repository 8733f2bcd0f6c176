package chaos

import (
	"fmt"
	"testing"
	"time"
)

// cutOff breaks links in one of the ways in which networks break, and says how.
func (a *arena) cutOff() string {
	i, _ := a.pick()
	j := (i + 1 + a.rng.IntN(len(a.Sheep)-1)) % len(a.Sheep)
	switch a.rng.IntN(6) {
	case 0:
		a.net.Cut(i)
		return fmt.Sprintf("node %d is unplugged", i)
	case 1:
		a.net.Mute(i)
		return fmt.Sprintf("node %d is not heard", i)
	case 2:
		a.net.Deafen(i)
		return fmt.Sprintf("node %d hears nothing", i)
	case 3:
		a.net.Part([]int{i}, []int{j})
		return fmt.Sprintf("nodes %d and %d lost each other", i, j)
	case 4:
		a.net.Drop(i, j)
		return fmt.Sprintf("node %d does not reach %d", i, j)
	default:
		var rest []int
		for k := range a.Sheep {
			if k != i {
				rest = append(rest, k)
			}
		}
		a.net.Part([]int{i}, rest)
		return fmt.Sprintf("packets of node %d are dropped", i)
	}
}

func (a *arena) mend() {
	a.net.Heal()
	for i := range a.Sheep {
		a.net.Mend(i)
	}
}

// The network parts, wholly and in one direction, with guests on all sides.
func TestPartitions(t *testing.T) {
	a := enter(t, 3)
	a.populate()
	stop := a.verifyUntil(0, 1)
	for round := range rounds(t, 30, 2) {
		time.Sleep(a.between(200*time.Millisecond, time.Second))
		what := a.cutOff()
		cut := a.between(500*time.Millisecond, 5*time.Second)
		time.Sleep(cut)
		a.mend()
		t.Logf("round %d: for %v %s", round, cut.Round(time.Millisecond), what)
		if a.rng.IntN(3) > 0 { // else the next comes while this one is digested
			a.Recovered(time.Minute)
		}
	}
	stop()
	a.judge()
}

// A link goes up and down faster than anybody can agree on anything.
func TestFlappingLink(t *testing.T) {
	a := enter(t, 3)
	a.populate()
	for range rounds(t, 10, 1) {
		i, _ := a.pick()
		for range 10 {
			a.net.Cut(i)
			time.Sleep(a.between(10*time.Millisecond, 600*time.Millisecond))
			a.net.Mend(i)
			time.Sleep(a.between(10*time.Millisecond, 400*time.Millisecond))
		}
	}
	a.judge()
}

// epoch is that of the first living sheep.
func (a *arena) epoch() (n int) {
	a.t.Helper()
	var c struct{ Epoch int }
	if err := a.Get(a.First(), "/v1/cluster", &c); err != nil {
		a.t.Fatal(err)
	}
	return c.Epoch
}

// Most datagrams are lost: gossip suffers, and nothing else. Nobody who lives is
// thrown out for it in vain, or if so comes back.
func TestLossOfDatagrams(t *testing.T) {
	onlyLong(t)
	a := enter(t, 3)
	a.populate()
	for _, share := range []float64{0.3, 0.7, 1} {
		for i := range a.Sheep {
			a.net.LoseUDP(i, share)
		}
		time.Sleep(10 * time.Second)
		t.Logf("%.0f %% lost: epoch %d", share*100, a.epoch())
		a.net.Heal()
		a.Recovered(time.Minute)
	}
	a.judge()
}
