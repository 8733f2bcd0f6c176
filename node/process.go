package node

import (
	"bytes"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"sheepdog/internal/prom"
)

// writeProcess tells of this process, in the names that Prometheus' own libraries use.
// What the host does not tell is left out.
func writeProcess(w *prom.Writer, started time.Time) {
	w.Gauge("process_start_time_seconds", "When the process was started, in seconds since 1970.").Time(started)
	var use unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &use) == nil {
		w.Counter("process_cpu_seconds_total", "User and system CPU time.").Value(seconds(use.Utime) + seconds(use.Stime))
	}
	if virtual, resident, ok := memory(); ok {
		w.Gauge("process_virtual_memory_bytes", "Virtual memory.").Value(virtual)
		w.Gauge("process_resident_memory_bytes", "Memory that is really there.").Value(resident)
	}
	if dir, err := os.Open("/proc/self/fd"); err == nil {
		names, err := dir.Readdirnames(-1)
		if dir.Close(); err == nil {
			w.Gauge("process_open_fds", "Open files.").Value(float64(len(names) - 1)) // one is the directory
		}
	}
	if most, err := openFiles(); err == nil {
		w.Gauge("process_max_fds", "Files that may be open.").Value(float64(most))
	}
}

func seconds(t unix.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }

// memory reads /proc/self/statm, whose first two fields are pages.
func memory() (virtual, resident float64, ok bool) {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, 0, false
	}
	f := bytes.Fields(b)
	if len(f) < 2 {
		return 0, 0, false
	}
	v, verr := strconv.ParseUint(string(f[0]), 10, 64)
	r, rerr := strconv.ParseUint(string(f[1]), 10, 64)
	page := float64(os.Getpagesize())
	return float64(v) * page, float64(r) * page, verr == nil && rerr == nil
}

// writeRuntime tells of Go's runtime, without stopping it.
func writeRuntime(w *prom.Writer) {
	read := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/goal:bytes"}, {Name: "/gc/cycles/total:gc-cycles"}, {Name: "/cpu/classes/gc/total:cpu-seconds"}}
	metrics.Read(read)
	w.Gauge("go_goroutines", "Goroutines.").Value(float64(runtime.NumGoroutine()))
	w.Gauge("go_memstats_heap_alloc_bytes", "Memory of objects in the heap.").Value(runtimeValue(read[0]))
	w.Gauge("go_memstats_next_gc_bytes", "Heap at which the next collection of garbage is due.").Value(runtimeValue(read[1]))
	w.Counter("go_gc_cycles_total", "Collections of garbage that are over.").Value(runtimeValue(read[2]))
	w.Counter("go_gc_cpu_seconds_total", "CPU time of the collection of garbage, as the runtime estimates it.").Value(runtimeValue(read[3]))
}

// runtimeValue is 0 for what a later runtime does not know any more.
func runtimeValue(s metrics.Sample) float64 {
	switch s.Value.Kind() {
	case metrics.KindUint64:
		return float64(s.Value.Uint64())
	case metrics.KindFloat64:
		return s.Value.Float64()
	}
	return 0
}
