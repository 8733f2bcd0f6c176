package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"

	"sheepdog/api"
)

// objectSize is that of our objects, in bytes.
const objectSize = 4 << 20

// storedSeconds is how long a job of stored takes at least: in less it is a matter of chance
// whether the destage of what was written before, as much as in two seconds, counts.
const storedSeconds = 7

// storedJobs are measured on a disk with one block in each object.
var storedJobs = []job{
	{name: "randwrite", rw: "randwrite", block: 4 * kib, depth: 16, align: objectSize, seconds: storedSeconds},
	{name: "randread", rw: "randread", block: 4 * kib, depth: 16, align: objectSize, seconds: storedSeconds},
}

// storedSystem is one of those that stored measures in turn.
type storedSystem struct {
	name, uri string
	pids      func() []int
	rest      func(context.Context) error // waits until it has nothing left to do
	memory    func() (int64, error)       // bytes of its largest process
	rows      [][]storedSample            // by step and job
}

// storedSample is a sample, and what the whole machine but fio used for an operation, until
// the system had nothing left to do: the host brings what nbdkit has written to the disk in
// nobody's name, and some of it later.
type storedSample struct {
	sample
	withDisk float64 // microseconds
}

// stored measures on a disk of which more and more is stored, one block in each
// object: what a sheep knows of its objects grows with their number, not with
// what is in them. Each job opens the disk anew, so that its slowest request tells
// what the first ones wait for. Beside it nbdkit serves one sparse file with the same
// blocks: what of the growth is the machine's.
func (s *scaling) stored(ctx context.Context, out io.Writer) (err error) {
	const name = "stored"
	last := s.storedGiB[len(s.storedGiB)-1]
	if _, err := s.ours.client.CreateVDI(ctx, &api.CreateRequest{Name: name, SizeBytes: uint64(last) << 30}); err != nil {
		return err
	}
	dir := filepath.Join(s.run.dir, "control")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	control := &local{dir: dir, size: int64(last) << 30, serve: serveNbdkit}
	defer func() { err = errors.Join(err, control.stop()) }()
	if err := control.start(ctx); err != nil {
		return err
	}
	systems := []*storedSystem{
		{name: "sheep", uri: s.ours.uri(name), pids: s.ours.pids, rest: s.ours.rest, memory: s.ours.largest},
		{name: "nbdkit", uri: control.disk(), pids: control.pids, rest: control.rest, memory: func() (int64, error) { return resident(control.main.PID()) }},
	}
	if err := touchMemory(storedTouched); err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "stored, one block in each object\t\twrite CPU us\twith disk\twrites/s\tslowest ms\tread CPU us\twith disk\treads/s\tslowest ms\tmemory MiB\t")
	began := int64(0)
	for i, n := range s.storedGiB {
		size := int64(n) << 30
		if err := s.storedStep(ctx, systems, i, began, size); err != nil {
			return err
		}
		began = size
		for _, sys := range systems {
			if err := sys.print(w, n); err != nil {
				return err
			}
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, sys := range systems {
		fmt.Fprintln(out, sys.growth())
	}
	return nil
}

// storedStep stores a block in each object from one offset to another, and runs the jobs.
// The systems take turns, each time another one first.
func (s *scaling) storedStep(ctx context.Context, systems []*storedSystem, step int, from, to int64) error {
	fill := job{name: "fill", rw: "write", block: 4 * kib, depth: 16, stride: true, offset: from}
	for _, sys := range systems {
		if _, err := runFio(ctx, s.run.dir, fill, sys.uri, to-from, 0, sys.pids()); err != nil {
			return err
		}
		sys.rows = append(sys.rows, nil)
	}
	for i, j := range storedJobs {
		for k := range systems {
			for _, sys := range systems { // else one works while the other is measured
				if err := sys.rest(ctx); err != nil {
					return err
				}
			}
			sys := systems[(i+step+k)%len(systems)]
			got, err := s.storedJob(ctx, sys, j, to)
			if err != nil {
				return err
			}
			sys.rows[step] = append(sys.rows[step], got)
		}
	}
	return nil
}

// storedJob runs a job on so many bytes of a disk, and waits until all of it is done.
func (s *scaling) storedJob(ctx context.Context, sys *storedSystem, j job, size int64) (storedSample, error) {
	before, err := readMachine()
	if err != nil {
		return storedSample{}, err
	}
	got, err := runFio(ctx, s.run.dir, j, sys.uri, size, s.run.plan.runtime, sys.pids())
	if err == nil {
		err = sys.rest(ctx)
	}
	if err != nil {
		return storedSample{}, err
	}
	after, err := readMachine()
	busy := (after.total - after.idle) - (before.total - before.idle)
	return storedSample{got, micros(busy)/float64(got.Count) - got.Client}, err
}

// print is the latest row of a system, of so many GiB.
func (s *storedSystem) print(w io.Writer, gib int) error {
	memory, err := s.memory()
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%d GiB\t%s", gib, s.name)
	for _, got := range s.rows[len(s.rows)-1] {
		fmt.Fprintf(w, "\t%.1f\t%.1f\t%.0f\t%.1f", got.CPU, got.withDisk, got.PerSecond, got.Max/1000)
	}
	_, err = fmt.Fprintf(w, "\t%d\t\n", memory>>20)
	return err
}

// growth is what operations of the last row cost in those of the first.
func (s *storedSystem) growth() string {
	first, last := s.rows[0], s.rows[len(s.rows)-1]
	out := s.name + ", CPU of the last row in that of the first:"
	for i := range first {
		out += fmt.Sprintf(" %s %.2f, with the disk %.2f;", storedJobs[i].name, last[i].CPU/first[i].CPU, last[i].withDisk/first[i].withDisk)
	}
	return strings.TrimSuffix(out, ";")
}

// rest has the disk take what was written, so that the host does not do that beside what
// is measured next.
func (l *local) rest(context.Context) error {
	f, err := os.Open(l.path("disk"))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

const (
	// storedTouched is what all systems of stored take of the host's memory, and more: three
	// copies of a GiB with their logs, and one.
	storedTouched = 8 << 30
	// touchSpare is left to others.
	touchSpare = 2 << 30
)

// touchMemory writes to so many bytes of free memory, as far as there are, and gives them
// back. The first write to a page that a virtual machine has not touched before costs
// many times as much as later ones: which job would meet it is a matter of chance.
func touchMemory(n int64) error {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return fmt.Errorf("free memory: %w", err)
	}
	if n = touchable(n, int64(info.Freeram)*int64(info.Unit)); n == 0 {
		return nil
	}
	b, err := unix.Mmap(-1, 0, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return fmt.Errorf("touch %d MiB of memory: %w", n>>20, err)
	}
	for i := 0; i < len(b); i += os.Getpagesize() {
		b[i] = 1
	}
	return unix.Munmap(b)
}

// touchable is how much of so many free bytes is touched.
func touchable(want, free int64) int64 { return max(min(want, free-touchSpare), 0) }
