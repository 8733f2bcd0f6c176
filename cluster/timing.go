package cluster

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Timing holds all intervals. Zero means the default.
type Timing struct {
	// Raft.
	Heartbeat   time.Duration // 450 ms; a follower waits once to twice this before it campaigns
	Election    time.Duration // 450 ms
	LeaderLease time.Duration // 350 ms; a leader without a quorum for this long steps down
	// CommitTimeout is after how long followers are told again what is committed:
	// they are told at once, see herald. 200 ms
	CommitTimeout time.Duration

	// Gossip.
	Probe        time.Duration // 150 ms between probes of one node each
	ProbeTimeout time.Duration // 75 ms
	Gossip       time.Duration // 50 ms between messages
	PushPull     time.Duration // 5 s between full exchanges
	Rejoin       time.Duration // 10 s between looks for members that gossip lost

	// Lease is the length of a node's lease, renewed every third of it;
	// LeaseMargin is waited on top before a lease counts as over, for clocks
	// that run at different speed.
	Lease       time.Duration // 450 ms
	LeaseMargin time.Duration // 50 ms

	// Membership.
	Register    time.Duration // 150 ms between attempts to get into the view
	Batch       time.Duration // 60 ms that joins and removals wait for each other
	StartBatch  time.Duration // 500 ms, the same while the leader itself waits to join
	Confirm     time.Duration // 250 ms for members to confirm that they live
	Patience    time.Duration // 600 ms for the same of a member that is about to be removed
	Absent      time.Duration // 1 s until a member that gossip never saw counts as dead
	Reconcile   time.Duration // 250 ms between looks at voters and members
	Call        time.Duration // 1 s for a control request
	Leave       time.Duration // 2 s for a graceful leave
	FormatCalls time.Duration // 2 s for the others to agree to a format
}

func (t *Timing) fill() {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&t.Heartbeat, 450*time.Millisecond)
	set(&t.Election, t.Heartbeat)
	set(&t.LeaderLease, 350*time.Millisecond)
	set(&t.CommitTimeout, 200*time.Millisecond)
	set(&t.Probe, 150*time.Millisecond)
	set(&t.ProbeTimeout, 75*time.Millisecond)
	set(&t.Gossip, 50*time.Millisecond)
	set(&t.PushPull, 5*time.Second)
	set(&t.Rejoin, 10*time.Second)
	set(&t.Lease, 450*time.Millisecond)
	set(&t.LeaseMargin, 50*time.Millisecond)
	set(&t.Register, 150*time.Millisecond)
	set(&t.Batch, 60*time.Millisecond)
	set(&t.StartBatch, 500*time.Millisecond)
	set(&t.Confirm, 250*time.Millisecond)
	set(&t.Patience, 600*time.Millisecond)
	set(&t.Absent, time.Second)
	set(&t.Reconcile, 250*time.Millisecond)
	set(&t.Call, time.Second)
	set(&t.Leave, 2*time.Second)
	set(&t.FormatCalls, 2*time.Second)
}

// wideCluster is the number of nodes from which on signs of life may come later:
// every change of members costs every node a look at all partitions and nodes, and
// until it is over answers are late, more so where nodes share processors. 46 nodes
// on two processors changed leaders and removed each other without end.
const wideCluster = 16

// ofSize is the timing of a cluster of n nodes.
func (t Timing) ofSize(n int) Timing {
	if n > wideCluster {
		for _, d := range []*time.Duration{&t.Heartbeat, &t.Election, &t.LeaderLease, &t.CommitTimeout, &t.Confirm, &t.Patience} {
			*d = *d * time.Duration(2*n) / wideCluster
		}
	}
	return t
}

func (t *Timing) check() error {
	c := *t
	c.fill()
	for _, d := range []time.Duration{c.Heartbeat, c.Election, c.LeaderLease, c.Probe, c.Lease, c.Register, c.Confirm, c.Call} {
		if d < 5*time.Millisecond {
			return fmt.Errorf("cluster: interval %v is too short", d)
		}
	}
	if c.LeaderLease > c.Heartbeat {
		return fmt.Errorf("cluster: leader lease %v is longer than the heartbeat %v", c.LeaderLease, c.Heartbeat)
	}
	if c.LeaseMargin*20 < c.Lease {
		return fmt.Errorf("cluster: lease margin %v is under a twentieth of the lease %v", c.LeaseMargin, c.Lease)
	}
	return nil
}

// jitter is d plus or minus a quarter, so that nodes do not act in step.
func jitter(d time.Duration) time.Duration {
	return d*3/4 + time.Duration(rand.Int64N(int64(d)/2+1))
}

// boottime is CLOCK_BOOTTIME: monotonic, and it counts the time of a suspend,
// after which every lease must be over. The scheduler is not told of the call: it
// takes less than a microsecond, and is made for every request.
func boottime() time.Duration {
	var ts unix.Timespec
	if _, _, errno := syscall.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_BOOTTIME, uintptr(unsafe.Pointer(&ts)), 0); errno != 0 {
		panic("CLOCK_BOOTTIME is not readable: " + errno.Error())
	}
	return time.Duration(ts.Nano())
}
