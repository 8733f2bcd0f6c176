package main

import (
	"context"
	"math"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// The collector lets garbage grow to the size of what lives. Below heapEnough that
// is cheap and small; from there on, garbage may be half of what lives, so that a
// node with many objects is not twice as large as what it knows of them. A fixed
// limit would have the collector run all the time once more lives than it allows.
const (
	heapEnough   = 160 << 20
	memoryBeside = 24 << 20 // what the runtime takes beside the heap
	memoryEvery  = time.Second
)

// boundMemory keeps the limit of the Go runtime's memory where it belongs, until
// ctx ends. GOGC and GOMEMLIMIT, if set, stay what they are.
func boundMemory(ctx context.Context) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	defer debug.SetMemoryLimit(math.MaxInt64)
	tick := time.NewTicker(memoryEvery)
	defer tick.Stop()
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	for {
		metrics.Read(sample)
		debug.SetMemoryLimit(memoryLimit(sample[0].Value.Uint64()))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// memoryLimit is in bytes, for a heap of which so many live.
func memoryLimit(live uint64) int64 { return int64(max(heapEnough, live+live/2+memoryBeside)) }
