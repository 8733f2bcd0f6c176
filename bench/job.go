package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// job is one thing that fio does to a disk.
type job struct {
	name  string
	rw    string // as fio calls it
	block int    // bytes
	depth int    // requests in flight
	flush int    // a flush after this many writes; 0: none
	// once: through the whole disk instead of for a time.
	once bool
	// stride: one block in each 4 MiB, in ascending order. Implies once.
	stride bool
	// align is what offsets of random jobs are a multiple of, in bytes; 0: the block.
	// offset is where a job begins, in bytes.
	align, offset int64
	// clone: on a clone; fresh: on one that nobody has written to yet.
	clone, fresh bool
	// seconds a job needs to show what it is for, whatever the runtime is.
	seconds int
	// brief is how long a job may take, whatever the runtime is; 0: no bound. Such a
	// job runs once, before anything that fills the log.
	brief time.Duration
	// qemu: sent by QEMU's block layer, not by fio. rw is then write or read, and
	// offsets are far apart where blocks are small.
	qemu bool
	// mark is a file that appears when the job is connected and about to send its
	// first request; empty: none.
	mark string
}

const (
	kib = 1 << 10
	mib = 1 << 20
)

// prefill writes the whole disk once, so that nothing is measured on holes.
var prefill = job{name: "prefill", rw: "write", block: mib, depth: 8, once: true}

// list has all jobs. The names are those of a table in docs/performance.md.
var list = []job{
	{name: "rw4k-q16-fresh", rw: "randwrite", block: 4 * kib, depth: 16, brief: 500 * time.Millisecond},
	{name: "rw4k-q1", rw: "randwrite", block: 4 * kib, depth: 1},
	{name: "rw4k-q16", rw: "randwrite", block: 4 * kib, depth: 16},
	{name: "rw4k-q64", rw: "randwrite", block: 4 * kib, depth: 64},
	{name: "rw4k-q1-sync", rw: "randwrite", block: 4 * kib, depth: 1, flush: 1},
	{name: "rw4k-q16-f32", rw: "randwrite", block: 4 * kib, depth: 16, flush: 32},
	{name: "rr4k-q1", rw: "randread", block: 4 * kib, depth: 1},
	{name: "rr4k-q16", rw: "randread", block: 4 * kib, depth: 16},
	{name: "rr4k-q64", rw: "randread", block: 4 * kib, depth: 64},
	{name: "seqw1m-q8", rw: "write", block: mib, depth: 8},
	{name: "seqr1m-q8", rw: "read", block: mib, depth: 8},
	{name: "cow-touch-q1", rw: "write", block: 4 * kib, depth: 1, stride: true, clone: true, fresh: true},
	{name: "cow-again-q1", rw: "write", block: 4 * kib, depth: 1, stride: true, clone: true},
	{name: "cow-rw4k-q1", rw: "randwrite", block: 4 * kib, depth: 1, clone: true, fresh: true},
	{name: "cow-rw4k-q16", rw: "randwrite", block: 4 * kib, depth: 16, clone: true, fresh: true},
	{name: "cow-rr4k-q16", rw: "randread", block: 4 * kib, depth: 16, clone: true, fresh: true},
	{name: "qemu-w4k-q1", rw: "write", block: 4 * kib, depth: 1, qemu: true},
	{name: "qemu-w4k-q16", rw: "write", block: 4 * kib, depth: 16, qemu: true},
	{name: "qemu-w4k-q1-sync", rw: "write", block: 4 * kib, depth: 1, flush: 1, qemu: true},
	{name: "qemu-r4k-q1", rw: "read", block: 4 * kib, depth: 1, qemu: true},
	{name: "qemu-r4k-q16", rw: "read", block: 4 * kib, depth: 16, qemu: true},
	{name: "qemu-w1m-q8", rw: "write", block: mib, depth: 8, qemu: true},
	{name: "qemu-r1m-q8", rw: "read", block: mib, depth: 8, qemu: true},
	{name: "rw4k-q16-long", rw: "randwrite", block: 4 * kib, depth: 16, seconds: 30},
}

// sets are names for several jobs.
var sets = map[string][]string{
	"std":    {"rw4k-q16-fresh", "rw4k-q1", "rw4k-q16", "rw4k-q64", "rw4k-q1-sync", "rw4k-q16-f32", "rr4k-q1", "rr4k-q16", "rr4k-q64", "seqw1m-q8", "seqr1m-q8", "cow-touch-q1", "cow-again-q1"},
	"all":    names(list),
	"writes": {"rw4k-q1", "rw4k-q16", "rw4k-q64", "rw4k-q1-sync", "rw4k-q16-f32", "seqw1m-q8"},
	"reads":  {"rr4k-q1", "rr4k-q16", "rr4k-q64", "seqr1m-q8"},
	"cow":    {"cow-touch-q1", "cow-again-q1", "cow-rw4k-q1", "cow-rw4k-q16", "cow-rr4k-q16"},
	"qemu":   {"qemu-w4k-q1", "qemu-w4k-q16", "qemu-w4k-q1-sync", "qemu-r4k-q1", "qemu-r4k-q16", "qemu-w1m-q8", "qemu-r1m-q8"},
	"none":   {},
}

// runsOnce: not in every round.
func (j job) runsOnce() bool { return j.seconds > 0 || j.brief > 0 }

func setNames() []string {
	var out []string
	for n := range sets {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

func names(jobs []job) []string {
	var out []string
	for _, j := range jobs {
		out = append(out, j.name)
	}
	return out
}

// choose finds jobs by their names or those of sets, comma separated.
func choose(text string) ([]job, error) {
	var out []job
	for _, name := range strings.Split(text, ",") {
		want, ok := sets[name]
		if !ok {
			want = []string{name}
		}
		for _, w := range want {
			i := slices.IndexFunc(list, func(j job) bool { return j.name == w })
			if i < 0 {
				return nil, fmt.Errorf("job %q: there are %s and the sets %s", w, strings.Join(names(list), ", "), strings.Join(setNames(), ", "))
			}
			out = append(out, list[i])
		}
	}
	return out, nil
}

// file is the job as fio reads it, on the disk at uri. Jobs that are not run once
// last for millis.
func (j job) file(uri string, size int64, millis int64) string {
	var b strings.Builder
	line := func(key string, value any) { fmt.Fprintf(&b, "%s=%v\n", key, value) }
	fmt.Fprintf(&b, "[%s]\n", j.name)
	if image, ok := strings.CutPrefix(uri, "rbd:"); ok {
		pool, name, _ := strings.Cut(image, "/")
		line("ioengine", "rbd")
		line("clientname", "admin")
		line("pool", pool)
		line("rbdname", name)
	} else if file, ok := strings.CutPrefix(uri, "file:"); ok {
		line("ioengine", "libaio")
		line("direct", 1)
		line("filename", file)
	} else {
		line("ioengine", "nbd")
		line("uri", uri)
	}
	line("bs", j.block)
	line("iodepth", j.depth)
	line("size", size)
	if j.align > 0 {
		line("blockalign", j.align)
	}
	if j.offset > 0 {
		line("offset", j.offset)
	}
	line("randrepeat", 0)
	line("percentile_list", "50:99:99.9")
	rw := j.rw
	if j.stride {
		rw = fmt.Sprintf("%s:%d", j.rw, objectSize-j.block)
		line("io_size", size/objectSize*int64(j.block)) // else fio wraps until size is moved
	}
	line("rw", rw)
	if j.flush > 0 {
		line("fsync", j.flush)
	}
	if j.mark != "" {
		line("exec_prerun", "touch "+j.mark)
	}
	if !j.once && !j.stride {
		line("time_based", 1)
		line("runtime", fmt.Sprintf("%dms", millis))
	}
	return b.String()
}
