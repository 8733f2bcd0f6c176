package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"sheepdog/api"
	"sheepdog/internal/pause"
)

// scaleNodes is how many sheep, each with a store, are in the cluster. More of them
// have more to do on two processors than fits, when they join.
var scaleNodes = []int{3, 8, 16}

// joinTogether is how many are started at a time.
const joinTogether = 6

// nodes measures while more and more nodes join. All of them run on this machine, so
// that what they do when nobody asks for anything is measured first and taken off.
func (s *scaling) nodes(ctx context.Context, out io.Writer) error {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tidle CPU % of a sheep\twrite CPU us\tread CPU us\tclone ms\tits CPU, ms of a sheep\tmemory MiB\t")
	for _, n := range scaleNodes {
		for len(s.ours.sheep) < n {
			for range min(joinTogether, n-len(s.ours.sheep)) {
				if err := s.ours.spawn(); err != nil {
					return err
				}
			}
			if err := s.ours.all(ctx); err != nil {
				return err
			}
		}
		if err := s.nodesRow(ctx, w, n); err != nil {
			return err
		}
	}
	return w.Flush()
}

func (s *scaling) nodesRow(ctx context.Context, w io.Writer, n int) error {
	idle, err := s.idleShare(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%d nodes\t%.1f", n, 100*idle/float64(n))
	for _, j := range s.run.plan.jobs {
		got, err := runFio(ctx, s.run.dir, j, s.ours.disk(), s.run.plan.size, s.run.plan.runtime, s.ours.pids())
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "\t%.1f", got.CPU-1e6*idle/got.PerSecond)
	}
	const clones = 50
	var took []float64
	began := time.Now()
	cpu, err := s.spent(func() error {
		for i := range clones {
			at := time.Now()
			_, err := s.ours.client.CloneVDI(ctx, &api.CloneRequest{Source: diskName, Snapshot: baseTag, Name: fmt.Sprintf("of%d-%d", n, i)})
			if err != nil {
				return err
			}
			took = append(took, micros(time.Since(at))/1e3)
		}
		return nil
	})
	if err != nil {
		return err
	}
	cpu -= time.Duration(idle * float64(time.Since(began)))
	memory, err := s.ours.largest()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "\t%.1f\t%.2f\t%d\t\n", spread(took).median, micros(cpu)/1e3/clones/float64(n), memory>>20)
	return err
}

// spent is the CPU of all sheep while do runs.
func (s *scaling) spent(do func() error) (time.Duration, error) { return spentBy(s.ours.pids(), do) }

// spentBy is the CPU time that processes take meanwhile.
func spentBy(pids []int, do func() error) (time.Duration, error) {
	before, err := cpuOf(pids)
	if err != nil {
		return 0, err
	}
	if err := do(); err != nil {
		return 0, err
	}
	after, err := cpuOf(pids)
	return after - before, err
}

// idleShare is how much of a processor all sheep together take when nobody asks them
// for anything, once that is as little as it gets.
func (s *scaling) idleShare(ctx context.Context) (float64, error) {
	const look = 3 * time.Second
	least := 0.0
	for i := range 6 {
		d, err := s.spent(func() error { return pause.For(ctx, look) })
		if err != nil {
			return 0, err
		}
		share := float64(d) / float64(look)
		if i > 0 && share > 0.9*least {
			return min(share, least), nil
		}
		least = share
	}
	return least, nil
}
