package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"sheepdog/api"
)

// scale measures what an operation costs, and what a sheep takes in memory, while
// the number of disks and the depth of a disk's chain of snapshots grow.
func scale(ctx context.Context, args []string, out io.Writer) (err error) {
	f := flag.NewFlagSet("bench scale", flag.ContinueOnError)
	bin := f.String("bin", "bin", "directory of sheep and dog")
	dir := f.String("dir", "", "existing directory for the data; empty: a temporary one in TMPDIR")
	disks := f.String("disks", "10,1000,10000", "numbers of disks, ascending")
	depths := f.String("depths", "1,100,500", "numbers of snapshots in the chain, ascending")
	if err := f.Parse(args); err != nil {
		return err
	}
	wantDisks, err := ascending(*disks)
	if err != nil {
		return err
	}
	wantDepths, err := ascending(*depths)
	if err != nil {
		return err
	}
	p, err := parse("bench scale", []string{"-bin", *bin, "-dir", *dir, "-systems", "sheep", "-size", "128", "-jobs", "rw4k-q16,rr4k-q16", "-runtime", "2s"})
	if err != nil {
		return err
	}
	r, err := newRun(p, io.Discard)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	o := r.systems["sheep"].(*ours)
	if err := errors.Join(o.start(ctx), o.idle(ctx, out), r.fillDisk(ctx, "sheep"), r.storm(ctx, o, out)); err != nil {
		return errors.Join(err, r.logs())
	}
	s := &scaling{run: r, ours: o, w: tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)}
	fmt.Fprintln(s.w, strings.Join([]string{"", "write CPU us", "read CPU us", "clone ms", "snapshot ms", "memory MiB", ""}, "\t"))
	for _, n := range wantDisks {
		if err := s.withDisks(ctx, n); err != nil {
			return err
		}
	}
	for _, n := range wantDepths {
		if err := s.withDepth(ctx, n); err != nil {
			return err
		}
	}
	return s.w.Flush()
}

// ascending parses numbers that do not fall.
func ascending(text string) ([]int, error) {
	var out []int
	for _, s := range strings.Split(text, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%q in %q: want numbers from 1 on", s, text)
		}
		out = append(out, n)
	}
	if !slices.IsSorted(out) {
		return nil, fmt.Errorf("%q: want ascending numbers", text)
	}
	return out, nil
}

// scaling is one run of scale.
type scaling struct {
	run   *run
	ours  *ours
	w     *tabwriter.Writer
	disks int
	depth int
}

// cloners is how many clones are asked for at a time.
const cloners = 16

// withDisks makes clones until there are n disks, and measures.
func (s *scaling) withDisks(ctx context.Context, n int) error {
	var wg sync.WaitGroup
	errs := make([]error, cloners)
	next := make(chan int)
	for k := range cloners {
		wg.Go(func() {
			for i := range next {
				if errs[k] == nil {
					_, errs[k] = s.ours.client.CloneVDI(ctx, &api.CloneRequest{Source: diskName, Snapshot: baseTag, Name: "scale" + strconv.Itoa(i)})
				}
			}
		})
	}
	for ; s.disks < n; s.disks++ {
		next <- s.disks
	}
	close(next)
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return s.row(ctx, fmt.Sprintf("%d disks", n))
}

// withDepth takes snapshots of the disk until n are below it, with writes between
// them, and measures.
func (s *scaling) withDepth(ctx context.Context, n int) error {
	for ; s.depth < n; s.depth++ {
		if err := s.snapshot(ctx); err != nil {
			return err
		}
	}
	return s.row(ctx, fmt.Sprintf("%d snapshots below", n))
}

func (s *scaling) snapshot(ctx context.Context) error {
	b := make([]byte, 4*kib)
	w := &api.WriteRequest{Name: diskName, Offset: uint64(s.depth%1024) * 4 * kib, Length: 4 * kib}
	if _, err := s.ours.client.WriteVDI(ctx, w, strings.NewReader(string(b))); err != nil {
		return err
	}
	_, err := s.ours.client.SnapshotVDI(ctx, &api.SnapshotRequest{Name: diskName, Tag: fmt.Sprintf("depth-%d-%d", s.depth, time.Now().UnixNano())})
	return err
}

// row measures and prints.
func (s *scaling) row(ctx context.Context, name string) error {
	o, r := s.ours, s.run
	var cpu []float64
	for _, j := range r.plan.jobs {
		got, err := runFio(ctx, r.dir, j, o.disk(), r.plan.size, r.plan.runtime, o.pids())
		if err != nil {
			return err
		}
		cpu = append(cpu, got.CPU)
	}
	var clones, snapshots []float64
	for i := range 10 {
		began := time.Now()
		clone := fmt.Sprintf("row-%s-%d", strings.ReplaceAll(name, " ", "-"), i)
		if _, err := o.client.CloneVDI(ctx, &api.CloneRequest{Source: diskName, Snapshot: baseTag, Name: clone}); err != nil {
			return err
		}
		clones = append(clones, micros(time.Since(began))/1e3)
		began = time.Now()
		if _, err := o.client.SnapshotVDI(ctx, &api.SnapshotRequest{Name: clone, Tag: "s"}); err != nil {
			return err
		}
		snapshots = append(snapshots, micros(time.Since(began))/1e3)
	}
	memory := int64(0)
	for _, pid := range o.pids() {
		n, err := resident(pid)
		if err != nil {
			return err
		}
		memory = max(memory, n)
	}
	fmt.Fprintf(s.w, "%s\t%.1f\t%.1f\t%.1f\t%.1f\t%d\t\n", name, cpu[0], cpu[1], spread(clones).median, spread(snapshots).median, memory>>20)
	return nil
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
