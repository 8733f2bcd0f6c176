package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"sheepdog/api"
	"sheepdog/internal/pause"
)

// objectSize is that of our objects, in bytes.
const objectSize = 4 << 20

// storedSeconds is how long a job of stored takes: in less it is a matter of chance how much
// is destaged beside writes, and of reads a large part is what it takes to open a large disk.
const storedSeconds = 7

// storedJobs are what stored measures.
var storedJobs = [...]job{
	{name: "randwrite", rw: "randwrite", block: 4 * kib, depth: 16, seconds: storedSeconds},
	{name: "randread", rw: "randread", block: 4 * kib, depth: 16, seconds: storedSeconds},
}

// storedSystem is one of those that stored measures in turn, with one disk.
type storedSystem struct {
	name, uri string
	pids      func() []int
	rest      func(context.Context) error // waits until it has nothing left to do
	drain     func(context.Context) error // the same, after random writes
	memory    func() (int64, error)       // bytes of its largest process
	logs      bool                        // it has a log, which drain empties only when something was replaced
	rows      []storedRow
}

// storedPair is a disk of a cluster and one of an nbdkit, with blocks at the same offsets.
type storedPair struct {
	ours    *ours
	control *local
	align   int64 // a block is stored in each so many bytes
	size    int64 // bytes of the disk that are filled so; the disk has more at first
	systems []*storedSystem
}

// stored measures on a disk of which more and more is stored, one block in each
// object: what a sheep knows of its objects grows with their number, not with
// what is in them. Each job opens the disk anew, so that its slowest request tells
// what the first ones wait for. Beside it nbdkit serves one sparse file with the same
// blocks: what of the growth is the machine's. The last row takes turns with a full disk
// of as many blocks, on a cluster and an nbdkit of its own: what of the growth comes of
// how sparse the disk is, for as much is written at random.
func (s *scaling) stored(ctx context.Context, out io.Writer) (err error) {
	if err := touchMemory(storedTouched); err != nil {
		return err
	}
	other, err := s.another("full")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, other.ours.stop()) }()
	if err := other.ours.start(ctx); err != nil {
		return err
	}
	last := int64(s.storedGiB[len(s.storedGiB)-1]) << 30
	sparse, full := newStoredPair(s.ours, objectSize), newStoredPair(other.ours, storedBlock)
	defer func() { err = errors.Join(err, sparse.control.stop(), full.control.stop()) }()
	if err := errors.Join(sparse.start(ctx, last), full.start(ctx, last/objectSize*storedBlock)); err != nil {
		return err
	}
	w := storedTable(out)
	if err := s.storedRows(ctx, w, sparse, full); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for i, sys := range sparse.systems {
		fmt.Fprint(out, sys.growth(full.systems[i]))
	}
	return nil
}

// storedBlock is the length of what is stored at each place.
const storedBlock = 4 * kib

// newStoredPair serves the control with nbdkit, from the cluster's directory.
func newStoredPair(o *ours, align int64) *storedPair {
	return &storedPair{ours: o, align: align, control: &local{dir: filepath.Join(o.dir, "control"), serve: serveNbdkit}}
}

// start makes disks of so many bytes, with nothing stored.
func (p *storedPair) start(ctx context.Context, size int64) error {
	const name = "stored"
	if _, err := p.ours.client.CreateVDI(ctx, &api.CreateRequest{Name: name, SizeBytes: uint64(size)}); err != nil {
		return err
	}
	if err := os.Mkdir(p.control.dir, 0o700); err != nil {
		return err
	}
	p.control.size = size
	if err := p.control.start(ctx); err != nil {
		return err
	}
	p.systems = []*storedSystem{
		{name: "sheep", uri: p.ours.uri(name), pids: p.ours.pids, rest: p.ours.rest, drain: p.ours.drain, memory: p.ours.largest, logs: true},
		{name: "nbdkit", uri: p.control.disk(), pids: p.control.pids, rest: p.control.rest, drain: p.control.rest,
			memory: func() (int64, error) { return resident(p.control.main.PID()) }},
	}
	return nil
}

// storedRows measures and prints row by row.
func (s *scaling) storedRows(ctx context.Context, w io.Writer, sparse, full *storedPair) error {
	for i, n := range s.storedGiB {
		pairs, rounds := []*storedPair{sparse}, 1
		if i == len(s.storedGiB)-1 {
			pairs, rounds = []*storedPair{full, sparse}, s.rounds
			if err := s.store(ctx, full, full.control.size); err != nil {
				return err
			}
		}
		if err := s.store(ctx, sparse, int64(n)<<30); err != nil {
			return err
		}
		idle, err := idleLoad(ctx, slices.Concat(sparse.systems, full.systems))
		if err != nil {
			return err
		}
		if err := s.storedTurns(ctx, pairs, rounds, idle); err != nil {
			return err
		}
		for _, p := range pairs {
			if err := p.print(w); err != nil {
				return err
			}
		}
	}
	return nil
}

// store fills a disk up to so many bytes, and then writes as the jobs do where there is a log:
// one that has not its full length yet, or what the filling left in it, would be charged to
// the first of them.
func (s *scaling) store(ctx context.Context, p *storedPair, upTo int64) error {
	const untilFull = 4 * time.Second
	fill := job{name: "fill", rw: "write", block: storedBlock, depth: 16, once: true, stride: p.align == objectSize, offset: p.size}
	before := job{name: "before", rw: "randwrite", block: storedBlock, depth: 16, align: p.align}
	for _, sys := range p.systems {
		if _, err := runFio(ctx, s.run.dir, fill, sys.uri, upTo-p.size, 0, sys.pids()); err != nil {
			return err
		}
		if sys.logs {
			if _, err := runFio(ctx, s.run.dir, before, sys.uri, upTo, untilFull, sys.pids()); err != nil {
				return err
			}
		}
		if err := sys.drain(ctx); err != nil {
			return err
		}
	}
	p.size = upTo
	return nil
}

// storedTurns runs the jobs on all disks, round by round and each time another one first. Each
// begins when the one before has left nothing to do.
func (s *scaling) storedTurns(ctx context.Context, pairs []*storedPair, rounds int, idle float64) error {
	type turn struct {
		pair *storedPair
		sys  *storedSystem
	}
	var turns []turn
	for i := range pairs[0].systems { // disks of a kind follow each other
		for _, p := range pairs {
			turns = append(turns, turn{p, p.systems[i]})
			p.systems[i].rows = append(p.systems[i].rows, storedRow{})
		}
	}
	for round := range rounds {
		for i, j := range storedJobs {
			for k := range turns {
				t := turns[(k+i+round)%len(turns)]
				j.align = t.pair.align
				got, err := s.storedJob(ctx, t.sys, j, t.pair.size, idle)
				if err != nil {
					return err
				}
				row := t.sys.last()
				row[i] = append(row[i], got)
			}
		}
	}
	return nil
}

// storedJob runs a job on so many bytes of a disk, and waits until all of it is done. Of a
// processor the systems take the idle part in any case, which is not charged to the job.
func (s *scaling) storedJob(ctx context.Context, sys *storedSystem, j job, size int64, idle float64) (storedSample, error) {
	settle := sys.rest
	if j.rw == "randwrite" {
		settle = sys.drain
	}
	began := time.Now()
	before, err := readMachine()
	if err != nil {
		return storedSample{}, err
	}
	got, err := runFio(ctx, s.run.dir, j, sys.uri, size, s.run.plan.runtime, sys.pids())
	if err == nil {
		err = settle(ctx)
	}
	if err != nil {
		return storedSample{}, err
	}
	after, err := readMachine()
	busy := after.busySince(before) - time.Duration(idle*float64(time.Since(began)))
	return storedSample{got, micros(busy)/float64(got.Count) - got.Client}, err
}

// idleLoad is how much of a processor the systems together take while nobody asks them for
// anything.
func idleLoad(ctx context.Context, systems []*storedSystem) (float64, error) {
	const look = 3 * time.Second
	var pids []int
	for _, sys := range systems {
		pids = append(pids, sys.pids()...)
	}
	d, err := spentBy(pids, func() error { return pause.For(ctx, look) })
	return float64(d) / float64(look), err
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
	// copies of a GiB with their logs, and one, twice.
	storedTouched = 10 << 30
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
