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
