// Package chaos breaks clusters of real processes while guests use them, and
// judges what the guests saw: registers on a shared disk, read and written through
// several gateways at once, must have been linearizable, and fio must find what it
// wrote. Processes live in network namespaces.
//
// Without CHAOS=long each test runs a few rounds, for `make test`. `make chaos`
// runs the long form; SEED=N chooses the faults, RUN=PATTERN the tests.
package chaos

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sheepdog/tests/internal/lab"
	"sheepdog/tests/internal/workload"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// arena is a cluster in namespaces, with a disk for registers and one for fio at
// each node.
type arena struct {
	*lab.Lab
	t    *testing.T
	net  *lab.Fabric
	rng  *rand.Rand
	seed uint64

	reg *disk
}

const (
	registersSize = 192 << 20 // of the disk with the registers
	registerCount = 96
)

func long() bool { return os.Getenv("CHAOS") == "long" }

// onlyLong skips a test in the short form.
func onlyLong(t *testing.T) {
	t.Helper()
	if !long() {
		t.Skip("only in make chaos")
	}
}

// rounds is how often a fault is repeated in the long and in the short form.
// ROUNDS overrides the former, to run a part.
func rounds(t *testing.T, inLong, inShort int) int {
	t.Helper()
	n := inShort
	if long() {
		n = inLong
		if s := os.Getenv("ROUNDS"); s != "" {
			var err error
			if n, err = strconv.Atoi(s); err != nil {
				t.Fatalf("ROUNDS=%q: %v", s, err)
			}
		}
	}
	return n
}

// seeded prints the seed, and in a failure how to repeat it.
func seeded(t *testing.T) (uint64, *rand.Rand) {
	t.Helper()
	seed := uint64(time.Now().UnixNano() % 1e6)
	if s := os.Getenv("SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("SEED=%q: %v", s, err)
		}
	}
	t.Logf("seed %d", seed)
	t.Cleanup(func() {
		if t.Failed() {
			name, _, _ := strings.Cut(t.Name(), "/")
			form := "CHAOS=short "
			if long() {
				form = ""
			}
			t.Logf("to repeat: make chaos %sSEED=%d RUN=%s", form, seed, name)
		}
	})
	return seed, rand.New(rand.NewPCG(seed, 0xc4a05))
}

// enter makes an arena of n formatted sheep with three copies.
func enter(t *testing.T, n int, args ...string) *arena {
	t.Helper()
	a := &arena{t: t}
	a.seed, a.rng = seeded(t)
	a.Lab, a.net = lab.StartInNamespaces(t, n, args...)
	a.furnish()
	return a
}

func (a *arena) furnish() {
	a.t.Helper()
	a.Format(min(3, len(a.Sheep)))
	a.reg = a.disk("reg", registersSize, registerCount)
	for i := range a.Sheep {
		a.Dog("vdi", "create", fmt.Sprintf("fio%d", i), "64M")
	}
}

// think is the mean pause of a guest between requests: this is a test of
// correctness, and the machine is small.
const think = 4 * time.Millisecond

// populate lets guests loose at all gateways.
func (a *arena) populate() {
	a.t.Helper()
	a.reg.populate(workload.Config{Depth: 4, Think: think}, a.Sheep...)
}

// answerLimit is how long a request may take when all faults are over.
const answerLimit = 30 * time.Second

// judge ends the guests and the test: nothing wrong was seen, nothing is stuck,
// and all replicas are equal.
func (a *arena) judge() *workload.Seen {
	a.t.Helper()
	seen := a.reg.stop()
	a.reg.judge()
	a.t.Logf("%d reads and writes of registers, %d flushes, %d connections lost; longest answer %v", len(seen.Ops), len(seen.Flushes), seen.Lost, longest(seen))
	a.Recovered(time.Minute)
	a.Checked()
	return seen
}

func longest(seen *workload.Seen) time.Duration {
	var all []int
	for i := range 16 {
		all = append(all, i)
	}
	o := seen.Longest(0, time.Hour, all...)
	return (o.Return - o.Call).Round(time.Millisecond)
}

// verify runs fio at some sheep in the background, each on a disk of its own; what
// it wrote it reads again.
func (a *arena) verify(wg *sync.WaitGroup, runtime time.Duration, at ...int) {
	for _, i := range at {
		wg.Go(func() { a.fio(i, runtime) })
	}
}

func (a *arena) fio(i int, runtime time.Duration) {
	lab.Fio(a.t, a.URI(a.Sheep[i], fmt.Sprintf("fio%d", i)), "--rw=randwrite", "--verify=crc32c", "--verify_backlog=256", "--fsync=16", "--iodepth=8",
		"--rate_iops=800", fmt.Sprintf("--runtime=%d", int(runtime.Seconds())), "--time_based=1", "--do_verify=1")
}

// verifyUntil runs fio at some sheep again and again until it is told to stop,
// which waits for the end of the last runs.
func (a *arena) verifyUntil(at ...int) (stop func()) {
	end := make(chan struct{})
	var wg sync.WaitGroup
	for _, i := range at {
		wg.Go(func() {
			for !a.t.Failed() {
				select {
				case <-end:
					return
				default:
					a.fio(i, 3*time.Second)
				}
			}
		})
	}
	return func() { close(end); wg.Wait() }
}

// between is a time from the seed.
func (a *arena) between(low, high time.Duration) time.Duration {
	return low + time.Duration(a.rng.Int64N(int64(high-low)))
}

// pick is a sheep from the seed, with its number.
func (a *arena) pick() (int, *lab.Sheep) {
	i := a.rng.IntN(len(a.Sheep))
	return i, a.Sheep[i]
}

// coordinator is the sheep that orders the writes of a VDI, or nil while nobody
// does.
func (a *arena) coordinator(vdi string) *lab.Sheep {
	for _, s := range a.Sheep {
		if !s.Alive() {
			continue
		}
		for _, row := range lab.Rows(a.DogOn(s, "vdi", "lock", "list", "-v", "-r")) {
			if f := strings.Fields(row); slices.Contains(f, vdi) {
				addr := f[len(f)-1]
				i := slices.IndexFunc(a.Sheep, func(s *lab.Sheep) bool { return addr == fmt.Sprintf("%s:%d", s.Addr, s.Port) })
				if i >= 0 {
					return a.Sheep[i]
				}
			}
		}
	}
	return nil
}
