package chaos

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"sheepdog/tests/internal/lab"
	"sheepdog/tests/internal/workload"
)

// The longest that a guest of a surviving node may wait when a process is killed,
// and when a node goes silent.
const (
	stallKilled = time.Second
	stallSilent = 2500 * time.Millisecond
)

// loss is a way to lose a node and get it back.
type loss struct {
	name       string
	limit      time.Duration
	lose, back func(a *arena, i int)
}

var losses = []loss{
	{"killed", stallKilled, func(a *arena, i int) { a.Kill(a.Sheep[i]) }, func(a *arena, i int) { a.Run(a.Sheep[i]) }},
	{"stopped", stallSilent, func(a *arena, i int) { a.Signal(a.Sheep[i], syscall.SIGSTOP) }, func(a *arena, i int) { a.Signal(a.Sheep[i], syscall.SIGCONT) }},
	{"unplugged", stallSilent, func(a *arena, i int) { a.net.Cut(i) }, func(a *arena, i int) { a.net.Mend(i) }},
}

// Guests of surviving nodes wait no longer than promised, whoever is lost: the
// node that leads Raft, the one that orders their writes, or another. SPARSE=GIB makes
// the first disk so large, with a block of zeros in each object.
func TestLongestStall(t *testing.T) {
	onlyLong(t)
	a := enter(t, 3)
	var disks []*disk
	if gib := os.Getenv("SPARSE"); gib != "" {
		disks = append(disks, a.sparse("disk0", gib))
	}
	for i := len(disks); i < 3; i++ {
		disks = append(disks, a.disk(fmt.Sprintf("disk%d", i), 64<<20, 32))
	}
	for round := range rounds(t, 6, 0) {
		for _, l := range losses {
			i := a.victim(disks, round)
			took := a.stall(disks, l, i)
			for who, d := range took {
				t.Logf("round %d: %s %s: longest wait %v", round, l.name, who, d.Round(time.Millisecond))
				if d > l.limit {
					t.Errorf("%v is more than %v", d, l.limit)
				}
			}
		}
	}
	a.Checked()
}

// sparse makes a disk of so many GiB, and writes a block of zeros into each object.
func (a *arena) sparse(name, gib string) *disk {
	a.t.Helper()
	n, err := strconv.Atoi(gib)
	if err != nil {
		a.t.Fatalf("SPARSE=%q: %v", gib, err)
	}
	d := a.disk(name, uint64(n)<<30, 32)
	const objects, block = 256, 4096 // objects of a GiB
	lab.Fio(a.t, a.URI(a.Sheep[0], name), "--rw=write:4190208", "--zero_buffers", "--iodepth=16", fmt.Sprintf("--size=%dg", n), fmt.Sprintf("--io_size=%d", n*objects*block))
	return d
}

// victim is the leader, the coordinator of a disk, or any node, in turn.
func (a *arena) victim(disks []*disk, round int) int {
	var s *lab.Sheep
	switch round % 3 {
	case 0:
		s = a.Leader()
	case 1:
		s = a.coordinator(disks[a.rng.IntN(len(disks))].name)
	}
	if i := slices.Index(a.Sheep, s); i >= 0 {
		return i
	}
	i, _ := a.pick()
	return i
}

// stall loses a node under load and returns the longest wait of guests of the
// others, apart for disks whose writes the node ordered.
func (a *arena) stall(disks []*disk, l loss, victim int) map[string]time.Duration {
	a.t.Helper()
	n := len(a.Sheep)
	for k, d := range disks {
		at := append(slices.Clone(a.Sheep[k%n:]), a.Sheep[:k%n]...) // another one comes first
		d.populate(workload.Config{Depth: 1, Think: 2 * time.Millisecond}, at...)
	}
	a.Eventually(20*time.Second, "all guests are at work", func() error { return working(disks, n) })
	time.Sleep(time.Second)
	who := map[*disk]string{}
	leads := a.Leader() == a.Sheep[victim]
	for _, d := range disks {
		who[d] = describe(leads, a.coordinator(d.name) == a.Sheep[victim])
	}
	from := map[*disk]time.Duration{}
	for _, d := range disks {
		from[d] = d.guests.Now()
	}
	epoch := a.epoch()
	l.lose(a, victim)
	time.Sleep(6 * time.Second)
	l.back(a, victim)
	longest := map[string]time.Duration{}
	for k, d := range disks {
		to := d.guests.Now()
		seen := d.stop()
		d.judge()
		o := seen.Longest(from[d], to, others(n, victim, k)...)
		longest[who[d]] = max(longest[who[d]], o.Return-o.Call)
	}
	a.Recovered(time.Minute)
	if n := a.epoch() - epoch; n > 2 {
		a.t.Errorf("%s: the node left and came back in %d epochs: more than two", l.name, n)
	}
	return longest
}

// working is an error unless each of n guests of each disk has had some answers.
func working(disks []*disk, n int) error {
	for _, d := range disks {
		for i := range n {
			if got := d.guests.Acked(i); got < 20 {
				return fmt.Errorf("guest %d of %s has had %d answers", i, d.name, got)
			}
		}
	}
	return nil
}

// others are the numbers of the guests at gateways that are not lost, where
// guest 0 is at gateway first.
func others(n, lost, first int) (guests []int) {
	for i := range n {
		if (i+first)%n != lost {
			guests = append(guests, i)
		}
	}
	return guests
}

func describe(leads, coordinates bool) string {
	s := "a node"
	if leads {
		s = "the Raft leader"
	}
	if coordinates {
		s += " that coordinates"
	}
	return s
}
