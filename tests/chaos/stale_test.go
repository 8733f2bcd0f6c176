package chaos

import (
	"os/exec"
	"testing"
	"time"

	"sheepdog/tests/internal/lab"
)

// copyMeta copies the directory of a sheep that does not run, holes and all.
func (a *arena) copyMeta(from, to string) {
	a.t.Helper()
	if out, err := exec.Command("cp", "-a", "--sparse=always", from, to).CombinedOutput(); err != nil {
		a.t.Fatalf("cp: %v: %s", err, out)
	}
}

// A node comes back from a copy of its directory that is older than what it has
// promised since, while guests go on. Nothing old is ever served, whatever the
// others do next: the node that has seen the most is killed, too.
func TestNodeFromAnOldCopyOfItsDirectory(t *testing.T) {
	onlyLong(t)
	a := enter(t, 3)
	for round := range rounds(t, 3, 0) {
		i, s := a.pick()
		a.populate()
		time.Sleep(2 * time.Second)
		a.Kill(s)
		old := a.Meta(s) + ".old"
		lab.Tool(t, "rm", "-rf", old)
		a.copyMeta(a.Meta(s), old)
		a.Run(s)
		a.Recovered(time.Minute)
		time.Sleep(3 * time.Second)
		a.reg.stop()
		a.Kill(s)
		lab.Tool(t, "rm", "-rf", a.Meta(s))
		a.copyMeta(old, a.Meta(s))
		a.populate()
		time.Sleep(2 * time.Second)
		a.Spawn(s)
		time.Sleep(time.Second)
		other := a.Sheep[(i+1)%3]
		a.Kill(other)
		time.Sleep(2 * time.Second)
		a.Run(other)
		if !s.Alive() {
			t.Logf("round %d: node %d refused to start from the old copy; it comes back empty", round, i)
			lab.Tool(t, "rm", "-rf", a.Meta(s))
			a.Run(s)
		}
		a.Recovered(time.Minute)
		a.reg.stop()
		a.reg.judge()
		a.Checked()
		if t.Failed() {
			break
		}
	}
}

// A node is away for long, in which everything is written anew, and comes back
// alone with one other: it serves nothing that is stale.
func TestStaleNode(t *testing.T) {
	onlyLong(t)
	a := enter(t, 3)
	for round := range rounds(t, 5, 0) {
		i, s := a.pick()
		other, fresh := a.Sheep[(i+1)%3], a.Sheep[(i+2)%3]
		a.populate()
		time.Sleep(time.Second)
		a.Kill(s)
		time.Sleep(a.between(2*time.Second, 4*time.Second)) // the others go on
		a.Kill(other, fresh)
		a.reg.stop()
		a.Spawn(s)
		a.Spawn(other) // two of three: a quorum, of which one is stale
		a.Answers(s)
		a.Answers(other)
		a.populate()
		time.Sleep(a.between(time.Second, 4*time.Second))
		a.Run(fresh)
		a.Recovered(time.Minute)
		a.reg.stop()
		a.reg.judge()
		t.Logf("round %d: node %d was stale", round, i)
	}
	a.Checked()
}
