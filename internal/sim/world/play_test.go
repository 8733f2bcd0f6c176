package world

import (
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sheepdog"
	"sheepdog/internal/sim"
)

func testLog() slog.Handler {
	if os.Getenv("SIM_LOG") == "" {
		return nil
	}
	return slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})
}

// number reads an environment variable.
func number(t *testing.T, name string, otherwise int) int {
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s=%s: want a number", name, s)
	}
	return n
}

// tags are what the test was built with, for the command that repeats it.
func tags() string {
	if sheepdog.Partitions < 1<<16 {
		return "-tags fewpartitions "
	}
	return ""
}

// play runs a script in a bubble, reports the trace and how to repeat it, and
// returns what was played.
func play(t *testing.T, opt Options, s Script) (sum totals) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		opt.Log = testLog()
		w := New(t, opt)
		defer w.Close()
		defer func() {
			if t.Failed() {
				t.Logf("trace:\n%s", strings.Join(w.Trace(), "\n"))
				t.Logf("repeat: SEED=%d go test %s./internal/sim/world -run '%s'", opt.Seed, tags(), t.Name())
			}
		}()
		p, err := w.Run(s)
		if err != nil {
			t.Errorf("seed %d: %v", opt.Seed, err)
		}
		if opt.Coded.Parity > 0 && len(w.Up()[0].Node().Directory().AllCoded()) == 0 {
			t.Error("nothing was encoded")
		}
		sum.add(p)
		if !t.Failed() && (sum.operations < s.AtLeast || s.AtLeast > 0 && sum.faults < atLeastFaults) {
			t.Errorf("seed %d: only %d operations and %d faults", opt.Seed, sum.operations, sum.faults)
		}
		t.Logf("seed %d: %.1f s simulated, %d operations, faults %v, %+v", opt.Seed, w.Now().Seconds(), sum.operations, p.Done, p.Ledger.Counts())
	})
	return sum
}

// totals is what plays have done.
type totals struct {
	plays, operations, faults int
	least                     int // operations of a play
	fewest                    int // faults of a play
	simulated                 time.Duration
	done                      map[string]int // faults by name
	count                     Counts
}

func (s *totals) add(p *Play) {
	o := totals{plays: 1, simulated: p.Now(), done: p.Done, count: p.Ledger.Counts()}
	o.operations = o.count.Total()
	for _, n := range p.Done {
		o.faults += n
	}
	o.least, o.fewest = o.operations, o.faults
	s.join(o)
}

// join adds other plays.
func (s *totals) join(o totals) {
	if s.plays == 0 {
		s.least, s.fewest, s.done = o.least, o.fewest, make(map[string]int)
	}
	s.plays, s.operations, s.faults = s.plays+o.plays, s.operations+o.operations, s.faults+o.faults
	s.least, s.fewest, s.simulated = min(s.least, o.least), min(s.fewest, o.fewest), s.simulated+o.simulated
	for name, n := range o.done {
		s.done[name] += n
	}
	s.count.Snapshots += o.count.Snapshots
	s.count.Clones += o.count.Clones
	s.count.Deletes += o.count.Deletes
	s.count.Rollbacks += o.count.Rollbacks
	s.count.Groups += o.count.Groups
	s.count.Flattened += o.count.Flattened
	s.count.Altered += o.count.Altered
	s.count.Unlocked += o.count.Unlocked
	s.count.Grown += o.count.Grown
	s.count.FUA += o.count.FUA
	s.count.Unknown += o.count.Unknown
	s.count.Cells += o.count.Cells
	s.count.Searched += o.count.Searched
}

// What a seed must have played to count.
const (
	atLeastOperations = 2000
	atLeastFaults     = 5
)

// drawn lets a seed decide the size, the network and the kind of a world.
func drawn(seed uint64) Options {
	opt := Options{Seed: seed, Nodes: []int{3, 3, 4, 5}[seed%4], Copies: []int{3, 3, 2, 3, 3}[seed%5], Sync: seed%7 == 3,
		Network: sim.NetOptions{Latency: []time.Duration{0, 2 * time.Millisecond, 500 * time.Microsecond}[seed/2%3],
			Jitter: []time.Duration{0, 4 * time.Millisecond, 200 * time.Microsecond}[seed%3], Loss: []float64{0, 0.02, 0.05}[seed/3%3], Duplicates: []float64{0, 0.05}[seed/9%2]}}
	if opt.Nodes > 3 && seed/4%3 == 0 {
		opt.Gateway = opt.Nodes
	}
	if seed%3 == 1 {
		opt.RecoveryDelay = 500 * time.Millisecond
	}
	if seed%5 == 4 {
		opt.ScrubEvery = 20 * time.Second
	}
	opt.MinCopies = []int{0, 0, 0, 1, 0, opt.Copies, 1}[seed/2%7]
	return opt
}

// seedScript is what a seed plays.
func seedScript() Script {
	return Script{AtLeast: atLeastOperations, Pause: 30 * time.Millisecond, Calm: 400 * time.Millisecond}
}

// TestSeeds plays random scripts: SEEDS=N plays more of them, SEED=K the one.
func TestSeeds(t *testing.T) {
	first, count := number(t, "FIRST", 1), number(t, "SEEDS", 20)
	if testing.Short() {
		count = min(count, 2)
	}
	if os.Getenv("SEED") != "" {
		first, count = number(t, "SEED", 0), 1
	}
	var mu sync.Mutex
	var all totals
	t.Cleanup(func() {
		t.Logf("%d seeds with %d operations (at least %d each) and %d faults (at least %d each) in %.0f simulated s: %v; %+v",
			all.plays, all.operations, all.least, all.faults, all.fewest, all.simulated.Seconds(), all.done, all.count)
	})
	for i := range count {
		seed := uint64(first + i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			one := play(t, drawn(seed), seedScript())
			mu.Lock()
			defer mu.Unlock()
			all.join(one)
		})
	}
}
