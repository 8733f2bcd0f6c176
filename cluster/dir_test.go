package cluster

import (
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sheepdog"
)

// TestRestartFromDisk runs in real time: the log is on Badger, and nothing may
// be left running after the end.
func TestRestartFromDisk(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	w := newWorld(t)
	w.disks = true
	defer func() {
		for _, n := range w.nodes {
			n.stop()
		}
	}()
	w.formatted(3)
	w.propose(1, "a")
	// One starts from a snapshot, the others from the log.
	w.eventually(5*time.Second, "snapshot", func() bool {
		return w.nodes[2].consensus.Load().raft.Snapshot().Error() == nil
	})
	w.propose(2, "b")
	for _, n := range w.up() {
		n.kill()
	}
	for i := 1; i <= 3; i++ {
		w.nodes[i].boot()
	}
	w.settle()
	w.propose(3, "c")
	for _, n := range w.up() {
		if err := n.Barrier(w.ctx(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if got := n.machine.list(); !slices.Equal(got, []string{"a", "b", "c"}) {
			t.Errorf("node %d applied %v", n.n, got)
		}
		if e := n.epoch(); e < 2 {
			t.Errorf("node %d is in epoch %d", n.n, e)
		}
	}
}

func TestStartRefusesBadOptions(t *testing.T) {
	net := newSimNetwork()
	h := net.boot(addrOf(1))
	good := Options{
		Self: sheepdog.Member{ID: 1, Incarnation: 1, Addr: addrOf(1)}, Network: h, RaftConns: h.listeners[StreamRaft], GossipConns: h.listeners[StreamGossip],
		Dial: h.dialStream, Caller: h, Machine: &logMachine{},
	}
	for name, spoil := range map[string]func(*Options){
		"no id":          func(o *Options) { o.Self.ID = 0 },
		"no incarnation": func(o *Options) { o.Self.Incarnation = 0 },
		"host name":      func(o *Options) { o.Self.Addr = "host:7000" },
		"any address":    func(o *Options) { o.Self.Addr = "0.0.0.0:7000" },
		"no port":        func(o *Options) { o.Self.Addr = "10.0.0.1" },
		"no machine":     func(o *Options) { o.Machine = nil },
		"no network":     func(o *Options) { o.Network = nil },
		"no margin":      func(o *Options) { o.Timing.LeaseMargin = time.Millisecond },
		"leader lease":   func(o *Options) { o.Timing.LeaderLease = time.Second },
		"too fast":       func(o *Options) { o.Timing.Lease = time.Millisecond },
	} {
		bad := good
		spoil(&bad)
		if c, err := Start(bad); err == nil {
			t.Errorf("%s: started", name)
			c.Shutdown()
		}
	}
}
