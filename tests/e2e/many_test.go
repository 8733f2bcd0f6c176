package e2e

import (
	"os"
	"strconv"
	"testing"
	"time"
)

// Many nodes share a few processors. Guests read while two nodes that died are made
// up for, nodes come back, and the cluster survives being stopped. Of 46 nodes on two
// processors no disk could be opened for a minute after such a loss, since every step
// of recovery cost every node a look at all partitions and began each opening anew.
// NODES=46 does it with as many, and -v tells how long each thing took.
func TestManyNodes(t *testing.T) {
	if testing.Short() {
		t.Skip("two dozen processes")
	}
	n := 24
	if s := os.Getenv("NODES"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil || n < 17 {
			t.Fatalf("NODES=%s: want a number from 17 on", s)
		}
	}
	const limit = 90 * time.Second // of a loaded machine
	began := time.Now()
	took := func(what string) {
		t.Logf("%s: %.1f s", what, time.Since(began).Seconds())
		began = time.Now()
	}
	w := start(t, n)
	w.Meet()
	took("started")
	w.Format(3)
	took("formatted")
	w.Dog("vdi", "create", "v", "64M")
	want := noise(24, 64<<20)
	w.dogWith(want, "vdi", "write", "v")
	took("64 MiB written")
	w.Kill(w.Sheep[7], w.Sheep[15])
	w.readsBack("v", want)
	took("two killed, and all read")
	w.Recovered(limit)
	took("whole again")
	w.readsBack("v", want)
	w.Run(w.Sheep[7])
	w.Run(w.Sheep[15])
	began = time.Now()
	w.readsBack("v", want)
	took("two are back, and all read")
	w.Recovered(limit)
	took("whole again")
	w.Checked()
	took("checked")
	w.Dog("cluster", "shutdown", "--yes")
	for _, s := range w.Sheep {
		<-s.Done()
	}
	took("stopped")
	for _, s := range w.Sheep {
		w.Spawn(s)
	}
	for _, s := range w.Sheep {
		w.Answers(s)
	}
	w.readsBack("v", want)
	took("started again, and all read")
	w.Recovered(limit)
	w.Checked()
}
