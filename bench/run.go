package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// run is one execution of a plan.
type run struct {
	plan    *plan
	dir     string
	out     io.Writer
	systems map[string]system
	uris    map[string]string // of the clone that a system has, by its name
	result  *result
}

func newRun(p *plan, out io.Writer) (*run, error) {
	dir, err := os.MkdirTemp(p.dir, "bench") // short: it holds unix sockets
	if err != nil {
		return nil, err
	}
	r := &run{plan: p, dir: dir, out: out, systems: make(map[string]system), uris: make(map[string]string), result: newResult(p)}
	for _, name := range p.systems {
		sub := filepath.Join(dir, name)
		if err := os.Mkdir(sub, 0o700); err != nil {
			return nil, err
		}
		r.systems[name] = newSystem(name, sub, p)
	}
	return r, nil
}

// play does the whole plan.
func (r *run) play(ctx context.Context) error {
	if err := r.prepare(ctx); err != nil {
		return err
	}
	for round := range r.plan.rounds {
		for i, j := range r.plan.jobs {
			if j.runsOnce() && round > 0 {
				continue
			}
			// Each round and job begins with another system, so that none has always
			// the machine as the one before it left it.
			for k := range r.plan.systems {
				name := r.plan.systems[(k+round+i)%len(r.plan.systems)]
				if s, ok := r.systems[name].(picky); ok && !s.does(j) {
					continue
				}
				if err := r.one(ctx, name, j, round); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
			}
		}
	}
	if o, ok := r.systems["sheep"].(*ours); ok && r.plan.control {
		return r.controls(ctx, o)
	}
	return nil
}

// prepare starts everything and fills the disks.
func (r *run) prepare(ctx context.Context) error {
	for _, name := range r.plan.systems {
		s := r.systems[name]
		if err := s.start(ctx); err != nil {
			return fmt.Errorf("start %s: %w", name, err)
		}
		if err := r.fillDisk(ctx, name, s); err != nil {
			return err
		}
	}
	return nil
}

// fillDisk writes the disk of a system and freezes what was written.
func (r *run) fillDisk(ctx context.Context, name string, s system) error {
	began := time.Now()
	if _, err := runFio(ctx, r.dir, prefill, s.disk(), r.plan.size, 0, s.pids()); err != nil {
		return fmt.Errorf("fill the disk of %s: %w", name, err)
	}
	if err := s.freeze(ctx); err != nil {
		return fmt.Errorf("freeze the disk of %s: %w", name, err)
	}
	fmt.Fprintf(r.out, "%s: disk of %d MiB written in %.1f s\n", name, r.plan.size>>20, time.Since(began).Seconds())
	return nil
}

// one runs a job on a system and notes what it found.
func (r *run) one(ctx context.Context, name string, j job, round int) error {
	s := r.systems[name]
	target := s.disk()
	if j.clone {
		if j.fresh || r.uris[name] == "" {
			u, err := s.clone(ctx)
			if err != nil {
				return err
			}
			r.uris[name] = u
		}
		target = r.uris[name]
	}
	send := runFio
	if j.qemu {
		send = runQemu
	}
	got, err := send(ctx, r.dir, j, target, r.plan.size, r.plan.runtime, s.pids())
	if err != nil {
		return err
	}
	got.Round = round
	r.result.add(j.name, name, got)
	fmt.Fprintf(r.out, "%d %-13s %-9s %8.0f/s %8.1f MB/s  mean %8.0f us  CPU %7.1f us  other %2.0f %%\n",
		round+1, j.name, name, got.PerSecond, got.MBs, got.Mean, got.CPU, 100*got.Other)
	return nil
}

// close stops everything that was started, and removes its data.
func (r *run) close() error {
	var errs []error
	for _, name := range r.plan.systems {
		if err := r.systems[name].stop(); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", name, err))
		}
	}
	return errors.Join(append(errs, os.RemoveAll(r.dir))...)
}

// logs prints the end of what the sheep said, after a failure.
func (r *run) logs() error {
	o, ok := r.systems["sheep"].(*ours)
	if !ok {
		return nil
	}
	b, err := o.log()
	if err != nil {
		return err
	}
	const tail = 4000
	_, err = fmt.Fprintf(r.out, "\nthe sheep said:\n%s\n", b[max(0, len(b)-tail):])
	return err
}
