package world

import (
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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

// play runs a script in a bubble and reports the trace and how to repeat it.
func play(t *testing.T, opt Options, s Script) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		opt.Log = testLog()
		w := New(t, opt)
		defer w.Close()
		defer func() {
			if t.Failed() {
				t.Logf("trace:\n%s", strings.Join(w.Trace(), "\n"))
				t.Logf("repeat: SEED=%d go test ./internal/sim/world -run '%s'", opt.Seed, t.Name())
			}
		}()
		p, err := w.Run(s)
		if err != nil {
			t.Errorf("seed %d: %v", opt.Seed, err)
		}
		if opt.Coded.Parity > 0 && len(w.Up()[0].Node().Directory().AllCoded()) == 0 {
			t.Error("nothing was encoded")
		}
		c := p.Ledger.Counts()
		t.Logf("seed %d: %.1f s simulated, %d operations, faults %v, %+v", opt.Seed, w.Now().Seconds(), c.Total(), p.Done, c)
	})
}

// drawn lets a seed decide the size and the network of a world.
func drawn(seed uint64) Options {
	return Options{Seed: seed, Nodes: []int{3, 3, 4, 5}[seed%4], Copies: []int{3, 3, 2, 3, 3}[seed%5],
		Network: sim.NetOptions{Jitter: []time.Duration{0, time.Millisecond, 200 * time.Microsecond}[seed%3], Loss: []float64{0, 0.02, 0.05}[seed/3%3]}}
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
	for i := range count {
		seed := uint64(first + i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			play(t, drawn(seed), Script{})
		})
	}
}
