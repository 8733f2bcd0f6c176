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
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/cycles/total:gc-cycles"},
		{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	read := func(i int) uint64 { return sample[i].Value.Uint64() }
	var h hoard
	for {
		metrics.Read(sample)
		debug.SetMemoryLimit(memoryLimit(read(0)))
		if h.due(read(1), read(2)-read(3)) {
			debug.FreeOSMemory()
			metrics.Read(sample)
			h.returned(read(1), read(2)-read(3))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Requests hardly make garbage, so that the collector, and with it the return of
// memory, may wait for minutes after a burst of large ones or the deletion of a disk.
// It is run where it has not for some seconds and there may be something to gain.
const (
	hoardTicks = 4 // of memoryEvery
	hoardWorth = 64 << 20
)

// hoard tells when memory is to be given back to the host.
type hoard struct {
	cycles uint64 // of the collector, so far
	idle   int    // ticks since the last one
	least  uint64 // bytes that were held since memory was given back
}

// due is asked at each tick.
func (h *hoard) due(cycles, held uint64) bool {
	h.least = min(h.least, held)
	if cycles != h.cycles {
		h.cycles, h.idle = cycles, 0
		return false
	}
	h.idle++
	return h.idle >= hoardTicks && held >= h.least+hoardWorth
}

// returned notes what is held after memory was given back.
func (h *hoard) returned(cycles, held uint64) { *h = hoard{cycles: cycles, least: held} }

// memoryLimit is in bytes, for a heap of which so many live.
func memoryLimit(live uint64) int64 { return int64(max(heapEnough, live+live/2+memoryBeside)) }
