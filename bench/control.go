package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"sheepdog/api"
)

// controls measures what changes the directory of disks: commands as a user types
// them, and requests to the API as a program sends them.
func (r *run) controls(ctx context.Context, o *ours) error {
	for _, step := range []func(context.Context, *ours) error{r.clones, r.creations, r.snapshots, r.together, r.fairness} {
		if err := step(ctx, o); err != nil {
			return err
		}
	}
	if _, ok := r.systems["qemu-nbd"]; ok {
		return r.overlays(ctx)
	}
	return nil
}

// repeats is how often each control operation is measured.
func (r *run) repeats() int { return 5 * r.plan.rounds }

// timed notes how long n operations took, each by itself.
func (r *run) timed(row, system string, n int, operation func(i int) error) error {
	for i := range n {
		began := time.Now()
		if err := operation(i); err != nil {
			return fmt.Errorf("%s: %w", row, err)
		}
		r.took(row, system, i, time.Since(began))
	}
	return nil
}

func (r *run) took(row, system string, i int, d time.Duration) {
	r.result.add(row, system, sample{Round: i, Mean: micros(d), Count: 1})
}

// dog is one command as a user types it.
func (o *ours) dog(ctx context.Context, args ...string) error {
	_, err := output(ctx, filepath.Join(o.bin, "dog"), append(args, "-p", strconv.Itoa(o.ports[0]))...)
	return err
}

func (r *run) clones(ctx context.Context, o *ours) error {
	return errors.Join(
		r.timed("clone-command", "sheep", r.repeats(), func(i int) error {
			return o.dog(ctx, "vdi", "clone", "-s", baseTag, diskName, "cc"+strconv.Itoa(i))
		}),
		r.timed("clone-api", "sheep", r.repeats(), func(i int) error {
			_, err := o.client.CloneVDI(ctx, &api.CloneRequest{Source: diskName, Snapshot: baseTag, Name: "ca" + strconv.Itoa(i)})
			return err
		}))
}

// creations creates disks of 10 GiB, and deletes others with data in them.
func (r *run) creations(ctx context.Context, o *ours) error {
	name := func(i int) string { return "cd" + strconv.Itoa(i) }
	return errors.Join(
		r.timed("create-command", "sheep", r.repeats(), func(i int) error { return o.dog(ctx, "vdi", "create", name(i), "10G") }),
		r.fill(ctx, o, name),
		r.timed("delete-command", "sheep", r.repeats(), func(i int) error { return o.dog(ctx, "vdi", "delete", name(i)) }))
}

// fill writes to each of the disks, so that their deletion has something to do.
func (r *run) fill(ctx context.Context, o *ours, name func(int) string) error {
	for i := range r.repeats() {
		if _, err := runFio(ctx, r.dir, prefill, o.uri(name(i)), 16*mib, 0, o.pids()); err != nil {
			return err
		}
	}
	return nil
}

// snapshots takes snapshots of a disk that is being written to, and notes the
// longest time that a write took meanwhile, and without any snapshot before.
func (r *run) snapshots(ctx context.Context, o *ours) error {
	load := job{name: "load", rw: "randwrite", block: 4 * kib, depth: 4}
	const pause = 200 * time.Millisecond
	length := time.Duration(r.repeats()+2) * pause
	for _, name := range []string{"sheep", "nbdkit"} {
		s := r.systems[name]
		if s == nil {
			continue
		}
		got, err := runFio(ctx, r.dir, load, s.disk(), r.plan.size, length, s.pids())
		if err != nil {
			return err
		}
		r.result.add("stall-alone", name, sample{Mean: got.Max, Count: 1})
	}
	fio, err := r.behind(ctx, load, o.disk(), length, o.pids())
	if err != nil {
		return err
	}
	for i := 0; i < r.repeats() && err == nil; i++ {
		time.Sleep(pause) // so much load between two snapshots
		began := time.Now()
		_, err = o.client.SnapshotVDI(ctx, &api.SnapshotRequest{Name: diskName, Tag: "in-use-" + strconv.Itoa(i)})
		r.took("snapshot-api", "sheep", i, time.Since(began))
	}
	got, failed := fio.wait()
	if err := errors.Join(err, failed); err != nil {
		return err
	}
	r.result.add("snapshot-stall", "sheep", sample{Mean: got.Max, Count: 1})
	return nil
}

// together makes many clones at once, from one client.
func (r *run) together(ctx context.Context, o *ours) error {
	const many = 100
	return r.timed("clones-100", "sheep", r.plan.rounds, func(round int) error {
		errs := make([]error, many)
		var wg sync.WaitGroup
		for i := range many {
			wg.Go(func() {
				_, errs[i] = o.client.CloneVDI(ctx, &api.CloneRequest{Source: diskName, Snapshot: baseTag, Name: fmt.Sprintf("many%d.%d", round, i)})
			})
		}
		wg.Wait()
		return errors.Join(errs...)
	})
}

// fairness measures the latency of a disk with one write in flight, alone and while
// another disk has 64.
func (r *run) fairness(ctx context.Context, o *ours) error {
	const name = "modest"
	if _, err := o.client.CreateVDI(ctx, &api.CreateRequest{Name: name, SizeBytes: 64 * mib}); err != nil {
		return err
	}
	if _, err := runFio(ctx, r.dir, prefill, o.uri(name), 64*mib, 0, o.pids()); err != nil {
		return err
	}
	modest := job{name: "modest", rw: "randwrite", block: 4 * kib, depth: 1}
	greedy := job{name: "greedy", rw: "randwrite", block: 4 * kib, depth: 64}
	length := max(r.plan.runtime, time.Second)
	for round := range r.plan.rounds {
		alone, err := runFio(ctx, r.dir, modest, o.uri(name), 64*mib, length, o.pids())
		if err != nil {
			return err
		}
		fio, err := r.behind(ctx, greedy, o.disk(), 2*length, o.pids())
		if err != nil {
			return err
		}
		beside, err := runFio(ctx, r.dir, modest, o.uri(name), 64*mib, length, o.pids())
		if _, failed := fio.wait(); err != nil || failed != nil {
			return errors.Join(err, failed)
		}
		r.result.add("fair-alone", "sheep", sample{Round: round, Mean: alone.Mean, Count: 1})
		r.result.add("fair-beside", "sheep", sample{Round: round, Mean: beside.Mean, Count: 1})
	}
	return nil
}

// overlays is what a clone costs with files: one process that makes an overlay.
func (r *run) overlays(ctx context.Context) error {
	l := r.systems["qemu-nbd"].(*local)
	return r.timed("clone-command", "qemu-nbd", r.repeats(), func(i int) error {
		_, err := output(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-b", l.path("disk"), "-F", "raw", l.path("cc"+strconv.Itoa(i)))
		return err
	})
}
