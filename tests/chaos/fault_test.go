package chaos

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"sheepdog/tests/internal/lab"
)

// diskSize is enough for a sheep with the disks of an arena.
const diskSize = 3 << 30

// enterFaulty is enter with the directory of the first sheep on a faulty disk.
func enterFaulty(t *testing.T, n int) (*arena, *lab.FaultyDisk) {
	t.Helper()
	a := &arena{t: t}
	a.seed, a.rng = seeded(t)
	a.Lab, a.net = lab.PlanInNamespaces(t, n)
	d := a.GiveFaultyDisk(a.Meta(a.Sheep[0]), diskSize)
	for _, s := range a.Sheep {
		a.Run(s)
	}
	a.furnish()
	return a, d
}

// One node's disk becomes very slow for a while. It is waited for, and nothing
// else.
func TestSlowDisk(t *testing.T) {
	onlyLong(t)
	a, d := enterFaulty(t, 3)
	a.populate()
	for range rounds(t, 3, 0) {
		time.Sleep(2 * time.Second)
		iops := 2 + a.rng.IntN(12)
		d.Slow(iops)
		slow := a.between(3*time.Second, 10*time.Second)
		time.Sleep(slow)
		d.Slow(0)
		t.Logf("%d operations per second for %v", iops, slow.Round(time.Millisecond))
	}
	a.judge()
}

// One write, or one flush, of one node's disk fails, once. What the node promised
// to have and lost must not be taken from it: afterwards it loses its page cache.
func TestOneErrorOfADisk(t *testing.T) {
	kinds := []string{"write", "flush"}
	if !long() {
		kinds = kinds[:1]
	}
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			a, d := enterFaulty(t, 3)
			a.populate()
			for round := range rounds(t, 5, 1) {
				time.Sleep(a.between(time.Second, 2*time.Second))
				d.FailOnce(kind)
				time.Sleep(a.between(2*time.Second, 4*time.Second))
				d.Mend()
				s := a.Sheep[0]
				t.Logf("round %d: the node lives: %v; errors in its log so far: %d", round, s.Alive(), a.logged(s, "input/output error"))
				if s.Alive() {
					a.Kill(s)
				}
				d.Remount()
				a.Run(s)
				a.Recovered(time.Minute)
			}
			a.judge()
		})
	}
}

// The disk under META dies for good, with the maps of the data and the Raft log.
// The node leaves, and in the same process a gateway stands in for it: guests at
// its socket go on. Started again with its disk mended, it is the node that it was.
func TestMetaDies(t *testing.T) {
	for round := range rounds(t, 5, 1) {
		t.Run(strconv.Itoa(round), testMetaDies)
	}
}

func testMetaDies(t *testing.T) {
	a, d := enterFaulty(t, 3)
	a.populate()
	s := a.Sheep[0]
	time.Sleep(a.between(time.Second, 2*time.Second))
	leads := a.Leader() == s
	d.Die()
	dead := time.Now()
	a.Eventually(30*time.Second, "a gateway in the place of the node", func() error {
		_, warnings, _ := a.DogAt(s, "cluster", "info")
		if !s.Alive() || !strings.Contains(warnings, "goes on as a gateway") {
			return fmt.Errorf("alive %v, warnings %q", s.Alive(), warnings)
		}
		return nil
	})
	before := a.reg.guests.Acked(0)
	a.Eventually(30*time.Second, "answers to its guests", func() error {
		if n := a.reg.guests.Acked(0) - before; n < 100 {
			return fmt.Errorf("%d answers", n)
		}
		return nil
	})
	t.Logf("its guests had 100 answers %v after the disk died; the node led Raft: %v", time.Since(dead).Round(100*time.Millisecond), leads)
	if _, warnings, _ := a.DogAt(a.Sheep[1], "cluster", "info"); !strings.Contains(warnings, "failed or missing disks") {
		t.Errorf("the other nodes do not warn: %q", warnings)
	}
	a.Kill(s)
	d.Mend()
	d.Remount()
	a.Run(s)
	a.judge()
}

// logged counts the lines of a sheep's log with some words.
func (a *arena) logged(s *lab.Sheep, words string) (n int) {
	a.t.Helper()
	b, err := os.ReadFile(a.Meta(s) + "/sheep.log")
	if err != nil {
		a.t.Fatal(err)
	}
	for _, row := range lab.Rows(string(b)) {
		if strings.Contains(row, words) {
			n++
		}
	}
	return n
}

// A neighbour fills one node's disk. Guests wait, or do not notice; nobody gets an
// error, and when the neighbour is gone all goes on.
func TestDiskFilledByANeighbour(t *testing.T) {
	onlyLong(t)
	a := &arena{t: t}
	a.seed, a.rng = seeded(t)
	a.Lab, a.net = lab.PlanInNamespaces(t, 3)
	for _, s := range a.Sheep {
		a.GiveDisk(s, diskSize)
		a.Run(s)
	}
	a.furnish()
	a.populate()
	for round := range rounds(t, 3, 0) {
		i, s := a.pick()
		time.Sleep(time.Second)
		full := a.Meta(s) + "/neighbour"
		left := a.fill(full)
		before := a.reg.guests.Acked(i)
		time.Sleep(a.between(5*time.Second, 8*time.Second))
		t.Logf("round %d: node %d with %d bytes free answered %d requests", round, i, left, a.reg.guests.Acked(i)-before)
		if !s.Alive() {
			t.Fatal("the full node ended")
		}
		if err := os.Remove(full); err != nil {
			t.Fatal(err)
		}
	}
	a.judge()
}

// fill takes all space of the file system that a new file is on.
func (a *arena) fill(path string) (left int64) {
	a.t.Helper()
	f, err := os.Create(path)
	if err != nil {
		a.t.Fatal(err)
	}
	defer f.Close()
	size := int64(0)
	for step := int64(1 << 30); step >= 4096; {
		if err := allocate(f, size, step); err != nil {
			step /= 2
			continue
		}
		size += step
	}
	return free(a.t, path)
}

// A thousand guests attach at once, some say nothing, some hang in the middle of
// the handshake, some never read their answers: the others do not notice.
func TestUnpleasantClients(t *testing.T) {
	a := enter(t, 3)
	a.populate()
	s := a.Sheep[0]
	n := 1000
	if !long() {
		n = 200
	}
	crowd := gather(t, a, s, n)
	time.Sleep(3 * time.Second)
	before := a.reg.guests.Acked(0)
	from := a.reg.guests.Now()
	time.Sleep(3 * time.Second)
	done := a.reg.guests.Acked(0) - before
	t.Logf("with %d others the guest of that gateway had %d answers in 3 s; the sheep has %d MiB", n, done, resident(t, s)>>20)
	if done == 0 {
		t.Error("the guest starves")
	}
	to := a.reg.guests.Now()
	crowd.leave()
	seen := a.judge()
	if o := seen.Longest(from, to, 0); o.Return-o.Call > 5*time.Second {
		t.Errorf("a guest waited %v", o.Return-o.Call)
	}
	if m := resident(t, s); m > memoryLimit {
		t.Errorf("%d MiB resident", m>>20)
	}
}

// memoryLimit is for a sheep with a crowd: the gigabyte that its clients share, what
// each has of its own, and what it needs itself.
const memoryLimit = 2 << 30

// resident is the memory of a sheep, in bytes.
func resident(t *testing.T, s *lab.Sheep) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", s.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(b), &size, &pages); err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}
