package main

import (
	"context"
	"math"
	"runtime/debug"
	"testing"
	"time"
)

// The limit lets a heap of any size grow by half before the collector must run:
// one that it cannot hold would have it run all the time.
func TestMemoryLimitLeavesRoom(t *testing.T) {
	for _, live := range []uint64{0, 1 << 20, 100 << 20, 160 << 20, 1 << 30, 1 << 40} {
		if n := memoryLimit(live); uint64(n) < live+live/2 || n < heapEnough {
			t.Errorf("%d bytes live, the limit is %d", live, n)
		}
	}
}

func TestBoundMemorySetsTheLimitWhileItRuns(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { boundMemory(ctx); close(done) }()
	for deadline := time.Now().Add(10 * time.Second); debug.SetMemoryLimit(-1) == math.MaxInt64; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no limit was set")
		}
	}
	cancel()
	<-done
	if n := debug.SetMemoryLimit(-1); n != math.MaxInt64 {
		t.Errorf("the limit is %d after the end", n)
	}
	t.Setenv("GOGC", "100")
	boundMemory(t.Context()) // returns
}

// Memory is given back where the collector has rested and something may be gained, and
// not again before that much was taken anew.
func TestHoardIsGivenBackOnce(t *testing.T) {
	const mib = 1 << 20
	var h hoard
	count := func(ticks int, cycles, held uint64) (n int) {
		for range ticks {
			if h.due(cycles, held) {
				n++
				held = min(held, 100*mib)
				cycles += 2
				h.returned(cycles, held)
			}
		}
		return n
	}
	for _, c := range []struct {
		what   string
		ticks  int
		cycles uint64
		held   uint64
		want   int
	}{
		{"a small process", 100, 1, 40 * mib, 0},
		{"the collector has just run", hoardTicks, 2, 400 * mib, 0},
		{"it rests", 1, 2, 400 * mib, 1},
		{"nothing is gained since", 100, 4, 130 * mib, 0},
		{"much was taken anew", 100, 4, 170 * mib, 1},
	} {
		if n := count(c.ticks, c.cycles, c.held); n != c.want {
			t.Errorf("%s: given back %d times, want %d", c.what, n, c.want)
		}
	}
	for cycles := uint64(10); cycles < 100; cycles++ {
		if h.due(cycles, 1000*mib) {
			t.Fatal("given back while the collector runs anyway")
		}
	}
}
