package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"sheepdog/api"
	"sheepdog/internal/pause"
)

// scaleParts are what `bench scale` can measure, each on a cluster of its own.
var scaleParts = []struct {
	name string
	run  func(*scaling, context.Context, io.Writer) error
}{
	{"idle", (*scaling).idle},
	{"storm", (*scaling).storms},
	{"disks", (*scaling).disks},
	{"chains", (*scaling).chains},
	{"stored", (*scaling).stored},
	{"defragment", (*scaling).defragment},
	{"connections", (*scaling).connections},
	{"nodes", (*scaling).nodes},
}

// scale measures what an operation costs, and what a sheep takes in memory, while
// what a cluster holds and serves grows.
func scale(ctx context.Context, args []string, out io.Writer) error {
	var names []string
	for _, p := range scaleParts {
		names = append(names, p.name)
	}
	all := strings.Join(names, ",")
	f := flag.NewFlagSet("bench scale", flag.ContinueOnError)
	bin := f.String("bin", "bin", "directory of sheep and dog")
	dir := f.String("dir", "", "existing directory for the data; empty: a temporary one in TMPDIR")
	parts := f.String("parts", all, "what is measured, comma separated")
	sizes := f.String("stored", "1,32,1024", "steps of the part stored, in GiB, comma separated, ascending")
	rounds := f.Int("rounds", 3, "how often what takes turns in the parts stored and defragment is measured")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *rounds < 1 || *rounds > maxRounds {
		return fmt.Errorf("-rounds %d: want 1 to %d", *rounds, maxRounds)
	}
	steps, err := parseSteps(*sizes)
	if err != nil {
		return fmt.Errorf("-stored %s: %w", *sizes, err)
	}
	settings := scaling{storedGiB: steps, rounds: *rounds}
	p, err := parse("bench scale", []string{"-bin", *bin, "-dir", *dir, "-systems", "sheep", "-size", "128", "-jobs", "rw4k-q16,rr4k-q16", "-runtime", "2s"})
	if err != nil {
		return err
	}
	for _, want := range strings.Split(*parts, ",") {
		i := slices.Index(names, want)
		if i < 0 {
			return fmt.Errorf("part %q: there are %s", want, all)
		}
		if err := scalePart(ctx, p, settings, scaleParts[i].run, out); err != nil {
			return fmt.Errorf("%s: %w", want, err)
		}
	}
	return nil
}

// maxRounds bounds how long a part takes: an hour or two.
const maxRounds = 100

// maxStored bounds a step of stored, in GiB: each of the sheep takes a block of disk and
// memory for each 4 MiB of it.
const maxStored = 16 << 10

// parseSteps reads ascending numbers.
func parseSteps(text string) ([]int, error) {
	var steps []int
	last := 0
	for _, field := range strings.Split(text, ",") {
		n, err := strconv.Atoi(field)
		if err != nil || n <= last || n > maxStored {
			return nil, fmt.Errorf("%q: want numbers from 1 to %d, each larger than the one before", field, maxStored)
		}
		steps, last = append(steps, n), n
	}
	return steps, nil
}

// scalePart measures one part on a fresh cluster.
func scalePart(ctx context.Context, p *plan, s scaling, part func(*scaling, context.Context, io.Writer) error, out io.Writer) (err error) {
	r, err := newRun(p, io.Discard)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	s.run, s.ours = r, r.systems["sheep"].(*ours)
	if err = s.ours.start(ctx); err == nil {
		err = part(&s, ctx, out)
	}
	if err != nil {
		r.out = out
		return errors.Join(err, r.logs())
	}
	return nil
}

// scaling is one part of scale under way.
type scaling struct {
	run       *run
	ours      *ours
	storedGiB []int // steps of stored
	rounds    int   // of stored and defragment
}

// another is a second cluster of the same run, for its caller to start and to stop.
func (s *scaling) another(name string, options ...string) (*scaling, error) {
	o := newOurs(filepath.Join(s.run.dir, name), s.run.plan.bin, s.run.plan.size)
	o.options = options
	return &scaling{run: s.run, ours: o, storedGiB: s.storedGiB, rounds: s.rounds}, os.Mkdir(o.dir, 0o700)
}

// Steps of the parts.
var (
	scaleDisks       = []int{10, 1000, 10_000}
	scaleDepths      = []int{1, 100, 500} // snapshots below the disk
	scaleConnections = []int{1, 20, 200}
)

// scaleRounds is how often a row is measured where clusters take turns.
const scaleRounds = 5

// table begins a table with the columns of row.
func table(out io.Writer) *tabwriter.Writer {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, strings.Join([]string{"", "write CPU us", "read CPU us", "clone ms", "snapshot ms", "memory MiB", ""}, "\t"))
	return w
}

// disks measures beside more and more disks, and what a sheep that serves all of them
// takes when nobody asks for anything. A second cluster, which keeps the first number of
// disks, takes turns: what a machine does changes more in the minutes between two rows than
// what is measured.
func (s *scaling) disks(ctx context.Context, out io.Writer) (err error) {
	few, err := s.another("few")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, few.ours.stop()) }()
	if err := few.ours.start(ctx); err != nil {
		return err
	}
	both := []*scaling{s, few}
	for _, c := range both {
		if err := c.prepare(ctx); err != nil {
			return err
		}
		if err := c.disksUpTo(ctx, 0, scaleDisks[0]); err != nil {
			return err
		}
	}
	w := table(out)
	var idle, growth []string
	for i, n := range scaleDisks {
		if err := s.disksUpTo(ctx, scaleDisks[max(i-1, 0)], n); err != nil {
			return err
		}
		const settled = 10 * time.Second // the sheep have flushed and destaged what the new disks wrote
		if err := pause.For(ctx, settled); err != nil {
			return err
		}
		share, err := s.idleShare(ctx)
		if err != nil {
			return err
		}
		idle = append(idle, fmt.Sprintf("%.2f %%", 100*share/float64(len(s.ours.sheep))))
		rows, err := inTurns(ctx, both, fmt.Sprintf("%d", n))
		if err != nil {
			return err
		}
		for k, c := range both {
			if err := c.print(w, fmt.Sprintf("%d disks", []int{n, scaleDisks[0]}[k]), rows[k]); err != nil {
				return err
			}
		}
		growth = append(growth, fmt.Sprintf("%d disks in %d, the same rounds: %s", n, scaleDisks[0], grown(rows[0], rows[1])))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s\nidle, a sheep takes of a processor: %s\n", strings.Join(growth, "\n"), strings.Join(idle, ", "))
	return err
}

// inTurns measures a row of each of the clusters several times, each time another one
// first, while none of them has anything else to do.
func inTurns(ctx context.Context, clusters []*scaling, name string) ([][]figures, error) {
	rows := make([][]figures, len(clusters))
	for round := range scaleRounds {
		for k := range clusters {
			for _, c := range clusters {
				if err := c.ours.rest(ctx); err != nil {
					return nil, err
				}
			}
			k = (k + round) % len(clusters)
			got, err := clusters[k].measure(ctx, fmt.Sprintf("%s-%d", name, round))
			if err != nil {
				return nil, err
			}
			rows[k] = append(rows[k], got)
		}
	}
	return rows, nil
}

// grown is what each figure is in that of the other, round by round.
func grown(many, few []figures) string {
	var out []string
	for f, name := range figureNames {
		var ratios []float64
		for i := range many {
			ratios = append(ratios, many[i][f]/few[i][f])
		}
		m := spread(ratios)
		out = append(out, fmt.Sprintf("%s %.2f (%.2f-%.2f)", name, m.median, m.least, m.most))
	}
	return strings.Join(out, ", ")
}

// chains measures on more and more snapshots of the disk, with a write between them.
func (s *scaling) chains(ctx context.Context, out io.Writer) error {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	w := table(out)
	depth := 0
	for _, n := range scaleDepths {
		for ; depth < n; depth++ {
			if err := s.snapshot(ctx, depth); err != nil {
				return err
			}
		}
		if err := s.row(ctx, w, fmt.Sprintf("%d snapshots below", n)); err != nil {
			return err
		}
	}
	return w.Flush()
}

// A house is a base and the clones that guests would boot from it. So many houses are
// made at a time.
const (
	houseDisks    = 1 + stormClones
	houseBuilders = 16
)

// disksUpTo makes the disks from the first up to n. Each has a block of its own, that
// the first sheep wrote: so it has been appointed for all of them.
func (s *scaling) disksUpTo(ctx context.Context, first, n int) error {
	var wg sync.WaitGroup
	errs := make([]error, houseBuilders)
	next := make(chan int)
	for k := range houseBuilders {
		wg.Go(func() {
			for house := range next {
				for i := max(first, house*houseDisks); i < min(n, (house+1)*houseDisks) && errs[k] == nil; i++ {
					errs[k] = s.houseDisk(ctx, house, i%houseDisks)
				}
			}
		})
	}
	for house := first / houseDisks; house*houseDisks < n; house++ {
		next <- house
	}
	close(next)
	wg.Wait()
	return errors.Join(errs...)
}

// houseDisk makes a disk of a house: the base, with a snapshot, or the i-th clone of it.
func (s *scaling) houseDisk(ctx context.Context, house, i int) error {
	c, base := s.ours.client, fmt.Sprintf("house%d", house)
	if i > 0 {
		name := fmt.Sprintf("%s.%d", base, i)
		if _, err := c.CloneVDI(ctx, &api.CloneRequest{Source: base, Snapshot: baseTag, Name: name}); err != nil {
			return err
		}
		return s.writeBlock(ctx, name, uint64(i))
	}
	if _, err := c.CreateVDI(ctx, &api.CreateRequest{Name: base, SizeBytes: 1 << 30}); err != nil {
		return err
	}
	if err := s.writeBlock(ctx, base, 0); err != nil {
		return err
	}
	_, err := c.SnapshotVDI(ctx, &api.SnapshotRequest{Name: base, Tag: baseTag})
	return err
}

// writeBlock writes the i-th block of a disk.
func (s *scaling) writeBlock(ctx context.Context, name string, i uint64) error {
	w := &api.WriteRequest{Name: name, Offset: i * 4 * kib, Length: 4 * kib}
	_, err := s.ours.client.WriteVDI(ctx, w, bytes.NewReader(bytes.Repeat([]byte{1}, 4*kib)))
	return err
}

// snapshot writes a block and takes the depth-th snapshot of the chain.
func (s *scaling) snapshot(ctx context.Context, depth int) error {
	if err := s.writeBlock(ctx, diskName, uint64(depth%1024)); err != nil {
		return err
	}
	_, err := s.ours.client.SnapshotVDI(ctx, &api.SnapshotRequest{Name: diskName, Tag: fmt.Sprintf("depth-%d-%d", depth, time.Now().UnixNano())})
	return err
}

// prepare fills the disk, and writes as a row does: a log that has not its full
// length yet would be charged to the first row.
func (s *scaling) prepare(ctx context.Context) error {
	r := s.run
	if err := r.fillDisk(ctx, "sheep", s.ours); err != nil {
		return err
	}
	const untilFull = 4 * time.Second
	_, err := runFio(ctx, r.dir, r.plan.jobs[0], s.ours.disk(), r.plan.size, untilFull, s.ours.pids())
	return err
}

// job runs one job on a disk once the sheep have done what the one before left to do.
func (s *scaling) job(ctx context.Context, j job, uri string, size int64) (sample, error) {
	if err := s.ours.rest(ctx); err != nil {
		return sample{}, err
	}
	return runFio(ctx, s.run.dir, j, uri, size, s.run.plan.runtime, s.ours.pids())
}

// rest waits until the sheep together take less than a tenth of a processor.
func (o *ours) rest(ctx context.Context) error {
	const look = 500 * time.Millisecond
	for range 40 {
		began, err := cpuOf(o.pids())
		if err != nil {
			return err
		}
		if err := pause.For(ctx, look); err != nil {
			return err
		}
		ended, err := cpuOf(o.pids())
		if err != nil || ended-began < look/10 {
			return err
		}
	}
	return errors.New("the sheep have something to do for 20 s though nobody asks them for anything")
}

// row measures reads, writes, clones and snapshots, and prints.
func (s *scaling) row(ctx context.Context, w io.Writer, name string) error {
	got, err := s.measure(ctx, strings.ReplaceAll(name, " ", "-"))
	if err != nil {
		return err
	}
	return s.print(w, name, []figures{got})
}

// figures are a row: CPU of a write and of a read in us, a clone and a snapshot in ms.
type figures [4]float64

var figureNames = [len(figures{})]string{"write", "read", "clone", "snapshot"}

// measure finds the figures of a row with a name of its own.
func (s *scaling) measure(ctx context.Context, name string) (figures, error) {
	o, r := s.ours, s.run
	var out figures
	for i, j := range r.plan.jobs {
		got, err := s.job(ctx, j, o.disk(), r.plan.size)
		if err != nil {
			return out, err
		}
		out[i] = got.CPU
	}
	var clones, snapshots []float64
	for i := range 10 {
		began := time.Now()
		clone := fmt.Sprintf("row-%s-%d", name, i)
		if _, err := o.client.CloneVDI(ctx, &api.CloneRequest{Source: diskName, Snapshot: baseTag, Name: clone}); err != nil {
			return out, err
		}
		clones = append(clones, micros(time.Since(began))/1e3)
		began = time.Now()
		if _, err := o.client.SnapshotVDI(ctx, &api.SnapshotRequest{Name: clone, Tag: "s"}); err != nil {
			return out, err
		}
		snapshots = append(snapshots, micros(time.Since(began))/1e3)
	}
	out[2], out[3] = spread(clones).median, spread(snapshots).median
	return out, nil
}

// print tells the medians of a row that was measured more than once.
func (s *scaling) print(w io.Writer, name string, rounds []figures) error {
	memory, err := s.ours.largest()
	if err != nil {
		return err
	}
	fmt.Fprint(w, name)
	for f := range figureNames {
		var all []float64
		for _, got := range rounds {
			all = append(all, got[f])
		}
		fmt.Fprintf(w, "\t%.1f", spread(all).median)
	}
	_, err = fmt.Fprintf(w, "\t%d\t\n", memory>>20)
	return err
}

// largest is the memory of the largest of the sheep, in bytes.
func (o *ours) largest() (int64, error) {
	most := int64(0)
	for _, pid := range o.pids() {
		n, err := resident(pid)
		if err != nil {
			return 0, err
		}
		most = max(most, n)
	}
	return most, nil
}

// resident is the memory of a process in bytes.
func resident(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0, fmt.Errorf("/proc/%d/statm has %q", pid, b)
	}
	pages, err := strconv.ParseInt(f[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}
