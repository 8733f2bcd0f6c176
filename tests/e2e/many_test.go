package e2e

import (
	"testing"
	"time"
)

// Many nodes share a few processors. Guests read while two nodes that died are made
// up for, nodes come back, and the cluster survives being stopped. Of 46 nodes on two
// processors no disk could be opened for a minute after such a loss, since every step
// of recovery cost every node a look at all partitions and began each opening anew.
func TestManyNodes(t *testing.T) {
	if testing.Short() {
		t.Skip("two dozen processes")
	}
	const limit = 90 * time.Second // of a loaded machine
	w := start(t, 24)
	w.Format(3)
	w.Dog("vdi", "create", "v", "64M")
	want := noise(24, 64<<20)
	w.mustIn(want, "vdi", "write", "v")
	w.Kill(w.Sheep[7], w.Sheep[15])
	w.readsBack("v", want)
	w.Recovered(limit)
	w.readsBack("v", want)
	w.Run(w.Sheep[7])
	w.Run(w.Sheep[15])
	w.readsBack("v", want)
	w.Recovered(limit)
	w.Checked()
	w.Dog("cluster", "shutdown", "--yes")
	for _, s := range w.Sheep {
		<-s.Done()
	}
	for _, s := range w.Sheep {
		w.Spawn(s)
	}
	for _, s := range w.Sheep {
		w.Answers(s)
	}
	w.readsBack("v", want)
	w.Recovered(limit)
	w.Checked()
}
