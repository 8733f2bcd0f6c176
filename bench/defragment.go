package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"sheepdog/api"
	"sheepdog/internal/pause"
)

// defragmentSize is that of each disk, in bytes.
const defragmentSize = 384 << 20

// Jobs of defragment. The first write a disk from one end to the other, the second each block
// of it again, in another order.
var (
	writeInOrder  = job{name: "in-order", rw: "write", block: mib, depth: 8, once: true}
	writeAtRandom = job{name: "at-random", rw: "randwrite", block: 4 * kib, depth: 64, once: true}
	readLong      = job{name: "seqr1m", rw: "read", block: mib, depth: 8}
	readOnce      = job{name: "seqr1m-once", rw: "read", block: mib, depth: 8, once: true}
)

// longDisk is a disk that is read in sequence, and what that took.
type longDisk struct {
	name, uri string
	random    bool // written again at random
	pids      func() []int
	samples   []sample
}

// defragment measures reads in sequence of what was written at random, before and after a
// sheep put it in order, and beside that of what was written in sequence. So that all of
// them take turns, what is still as it was written is on a second cluster, whose sheep move
// nothing.
func (s *scaling) defragment(ctx context.Context, out io.Writer) (err error) {
	still, err := s.another("still", "--defragment-rate", "0")
	if err != nil {
		return err
	}
	control := &local{dir: filepath.Join(s.run.dir, "control"), size: defragmentSize, serve: serveNbdkit}
	defer func() { err = errors.Join(err, still.ours.stop(), control.stop()) }()
	if err := os.Mkdir(control.dir, 0o700); err != nil {
		return err
	}
	if err := errors.Join(still.ours.start(ctx), control.start(ctx)); err != nil {
		return err
	}
	disks := []*longDisk{
		{name: "written in sequence", uri: s.ours.uri("ordered"), pids: s.ours.pids},
		{name: "written at random", uri: still.ours.uri("scattered"), pids: still.ours.pids, random: true},
		{name: "the same, moved", uri: s.ours.uri("scattered"), pids: s.ours.pids, random: true},
		{name: "nbdkit", uri: control.disk(), pids: control.pids, random: true},
	}
	if err := s.writeLongDisks(ctx, still, disks); err != nil {
		return err
	}
	m, err := s.putInOrder(ctx, disks[2])
	if err != nil {
		return err
	}
	if err := s.readLongDisks(ctx, still, disks); err != nil {
		return err
	}
	if err := printLongDisks(out, disks); err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, m)
	return err
}

// writeLongDisks writes the disks, and waits until all of it is in its place.
func (s *scaling) writeLongDisks(ctx context.Context, still *scaling, disks []*longDisk) error {
	for _, c := range []*scaling{s, still} {
		for _, name := range []string{"ordered", "scattered"} {
			if _, err := c.ours.client.CreateVDI(ctx, &api.CreateRequest{Name: name, SizeBytes: defragmentSize}); err != nil {
				return err
			}
		}
	}
	for _, d := range disks {
		jobs := []job{writeInOrder}
		if d.random {
			jobs = append(jobs, writeAtRandom)
		}
		for _, j := range jobs {
			if _, err := runFio(ctx, s.run.dir, j, d.uri, defragmentSize, 0, d.pids()); err != nil {
				return err
			}
		}
	}
	return errors.Join(s.ours.drain(ctx), still.ours.drain(ctx))
}

// readLongDisks reads all disks in turns, round by round and each time another one first.
func (s *scaling) readLongDisks(ctx context.Context, still *scaling, disks []*longDisk) error {
	for round := range s.rounds {
		for k := range disks {
			if err := errors.Join(s.ours.rest(ctx), still.ours.rest(ctx)); err != nil {
				return err
			}
			d := disks[(k+round)%len(disks)]
			got, err := runFio(ctx, s.run.dir, readLong, d.uri, defragmentSize, s.run.plan.runtime, d.pids())
			if err != nil {
				return err
			}
			got.Round = round
			d.samples = append(d.samples, got)
		}
	}
	return nil
}

// printLongDisks tells what a MiB took on each disk, and that in what the first and the last
// took in the same round.
func printLongDisks(out io.Writer, disks []*longDisk) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	first, last := disks[0], disks[len(disks)-1]
	fmt.Fprintf(w, "%d MiB, read in sequence\tCPU us a MiB\tMB/s\tCPU, to %s\trate\tCPU, to %s\trate\t\n", defragmentSize>>20, first.name, last.name)
	for _, d := range disks {
		fmt.Fprintf(w, "%s\t%s\t%s", d.name, whole(spread(pick(d.samples, sample.cpu))), whole(spread(pick(d.samples, sample.bytes))))
		for _, to := range []*longDisk{first, last} {
			if d == to {
				fmt.Fprint(w, "\t\t")
				continue
			}
			fmt.Fprintf(w, "\t%s\t%s", two(spread(ratios(d.samples, to.samples, sample.cpu))), two(spread(ratios(d.samples, to.samples, sample.rate))))
		}
		fmt.Fprint(w, "\t\n")
	}
	return w.Flush()
}

// moving is what it took to put a disk in order.
type moving struct {
	passes int    // from end to end
	bytes  uint64 // that the sheep that is read has moved
	took   time.Duration
	cpu    time.Duration // of all sheep, without what they take when they have nothing to do
}

func (m moving) String() string {
	perMiB := 0.0
	if m.bytes > 0 {
		perMiB = micros(m.cpu) / (float64(m.bytes) / mib)
	}
	return fmt.Sprintf("moved: %d MiB by the sheep that is read, after %d passes, in %.1f s; that took all sheep %.2f s of CPU, %.0f us a MiB",
		m.bytes>>20, m.passes, m.took.Seconds(), m.cpu.Seconds(), perMiB)
}

// putInOrder reads a disk until the sheep that serves it has moved what there is to move:
// what is read twice begins to wait for that, and a pass more shows whether that was all.
func (s *scaling) putInOrder(ctx context.Context, d *longDisk) (m moving, err error) {
	const most = 10
	idle, err := s.idleShare(ctx)
	if err != nil {
		return m, err
	}
	for m.passes = 1; m.passes <= most; m.passes++ {
		if _, err := runFio(ctx, s.run.dir, readOnce, d.uri, defragmentSize, 0, d.pids()); err != nil {
			return m, err
		}
		before := m.bytes
		began := time.Now()
		cpu, err := s.spent(func() error {
			m.bytes, err = s.ours.moved(ctx)
			return err
		})
		if err != nil {
			return m, err
		}
		took := time.Since(began)
		m.took += took
		m.cpu += cpu - time.Duration(idle*float64(took))
		if m.bytes > 0 && m.bytes == before {
			return m, nil
		}
	}
	return m, fmt.Errorf("after %d passes over what was written at random %d MiB were moved, and it goes on or has not begun", most, m.bytes>>20)
}

// moved waits until nothing waits for being moved at the first sheep, and it rests, and
// tells how many bytes it has moved since it was started.
func (o *ours) moved(ctx context.Context) (uint64, error) {
	const (
		look  = 250 * time.Millisecond
		limit = time.Minute
	)
	for range int(limit / look) {
		st, err := o.client.Status(ctx)
		if err != nil {
			return 0, err
		}
		if st.Defragment.WaitingBytes == 0 {
			if err := o.rest(ctx); err != nil {
				return 0, err
			}
			st, err = o.client.Status(ctx)
			return st.Defragment.MovedBytes, err
		}
		if err := pause.For(ctx, look); err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("the first sheep has not moved in %v what waits for that", limit)
}
