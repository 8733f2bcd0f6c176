package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"sheepdog/api"
	"sheepdog/internal/pause"
)

// idle tells what a sheep takes that has nothing to do yet.
func (s *scaling) idle(ctx context.Context, out io.Writer) error {
	const rest = 5 * time.Second // past its start, and what the CPU is measured over
	if err := pause.For(ctx, rest); err != nil {
		return err
	}
	o := s.ours
	began, err := cpuOf(o.pids())
	if err != nil {
		return err
	}
	if err := pause.For(ctx, rest); err != nil {
		return err
	}
	ended, err := cpuOf(o.pids())
	if err != nil {
		return err
	}
	memory, err := o.largest()
	if err != nil {
		return err
	}
	disk := int64(0)
	for i := range o.sheep {
		d, err := taken(o.meta(i))
		if err != nil {
			return err
		}
		disk = max(disk, d)
	}
	_, err = fmt.Fprintf(out, "an idle sheep takes %d MiB of memory, %d MiB of disk and %.1f %% of a processor\n",
		memory>>20, disk>>20, 100*float64(ended-began)/float64(rest)/float64(len(o.sheep)))
	return err
}

// taken is the space that the files in a directory take.
func taken(dir string) (int64, error) {
	total := int64(0)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it was removed meanwhile
		}
		if err == nil {
			total += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	})
	return total, err
}

// storms are of a base that the cache of frozen data holds twice over, and of one
// that it does not hold at all; clones begin together or one after another.
var (
	stormBases  = []int64{128 << 20, 1 << 30}
	stormDelays = []time.Duration{0, 100 * time.Millisecond}
)

// stormClones is how many guests boot together.
const stormClones = 20

// storms has many fresh clones of one disk read from end to end at once, as guests
// do that boot together: through a sheep that holds a replica of everything, and
// through one that holds none.
func (s *scaling) storms(ctx context.Context, out io.Writer) error {
	if err := errors.Join(s.ours.spawn("-g"), s.ours.all(ctx)); err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "%d clones of\tstart\tthrough a sheep with\tseconds\tread from its files\tfrom those of others\tits memory MiB\t\n", stormClones)
	for _, size := range stormBases {
		base := fmt.Sprintf("base%d", size>>20)
		if err := s.stormBase(ctx, base, size); err != nil {
			return err
		}
		for _, delay := range stormDelays {
			for _, at := range []int{0, nodes} {
				if err := s.storm(ctx, w, base, size, delay, at); err != nil {
					return err
				}
			}
		}
	}
	return w.Flush()
}

// stormBase makes a disk that is written from end to end.
func (s *scaling) stormBase(ctx context.Context, name string, size int64) error {
	if _, err := s.ours.client.CreateVDI(ctx, &api.CreateRequest{Name: name, SizeBytes: uint64(size)}); err != nil {
		return err
	}
	_, err := runFio(ctx, s.run.dir, prefill, s.ours.uri(name), size, 0, s.ours.pids())
	return err
}

// storm is one storm through the at-th sheep, of a snapshot that nobody has read yet. What sheep read is told as a multiple
// of the base; with a replica at hand it is from files that the host has in memory.
func (s *scaling) storm(ctx context.Context, w io.Writer, base string, size int64, delay time.Duration, at int) error {
	clones, err := s.stormDisks(ctx, base, at)
	if err != nil {
		return err
	}
	before, err := s.ours.readBytes()
	if err != nil {
		return err
	}
	began := time.Now()
	errs := make([]error, len(clones))
	var wg sync.WaitGroup
	for i, name := range clones {
		wg.Go(func() {
			time.Sleep(time.Duration(i) * delay)
			j := job{name: name, rw: "read", block: 128 * kib, depth: 2, once: true}
			_, errs[i] = runFio(ctx, s.run.dir, j, s.ours.uriAt(at, name), size, 0, s.ours.pids())
		})
	}
	wg.Wait()
	took := time.Since(began)
	after, err := s.ours.readBytes()
	if err := errors.Join(append(errs, err)...); err != nil {
		return err
	}
	own, others := int64(0), int64(0)
	for i := range after {
		if n := after[i] - before[i]; i == at {
			own = n
		} else {
			others += n
		}
	}
	memory, err := resident(s.ours.pids()[at])
	if err != nil {
		return err
	}
	what, start := "all replicas", "together"
	if at == nodes {
		what = "none"
	}
	if delay > 0 {
		start = delay.String() + " apart"
	}
	fmt.Fprintf(w, "%d MiB\t%s\t%s\t%.1f\t%.2f\t%.2f\t%d\t\n", size>>20, start, what, took.Seconds(),
		float64(own)/float64(size), float64(others)/float64(size), memory>>20)
	for _, name := range clones {
		if err := s.ours.client.DeleteVDI(ctx, &api.DeleteRequest{Name: name}); err != nil {
			return err
		}
	}
	return nil
}

// stormDisks makes the clones of one storm, of a new snapshot, by the sheep that will
// serve them: so it knows them. Caches know nothing of a layer that is new.
func (s *scaling) stormDisks(ctx context.Context, base string, at int) ([]string, error) {
	client := api.NewClient("127.0.0.1:" + strconv.Itoa(s.ours.ports[at]))
	defer client.Close()
	w := &api.WriteRequest{Name: base, Length: 4 * kib}
	if _, err := client.WriteVDI(ctx, w, bytes.NewReader(make([]byte, 4*kib))); err != nil {
		return nil, err
	}
	tag := strconv.FormatInt(time.Now().UnixNano(), 36)
	if _, err := client.SnapshotVDI(ctx, &api.SnapshotRequest{Name: base, Tag: tag}); err != nil {
		return nil, err
	}
	var names []string
	for i := range stormClones {
		name := fmt.Sprintf("storm%d", i)
		if _, err := client.CloneVDI(ctx, &api.CloneRequest{Source: base, Snapshot: api.Selector(tag), Name: name}); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

// readBytes is what each sheep has read by calls of read, in bytes.
func (o *ours) readBytes() ([]int64, error) {
	var out []int64
	for _, pid := range o.pids() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
		if err != nil {
			return nil, err
		}
		n := int64(0)
		if _, err := fmt.Sscanf(strings.TrimSpace(string(b)), "rchar: %d", &n); err != nil {
			return nil, fmt.Errorf("/proc/%d/io has %.60q: %w", pid, b, err)
		}
		out = append(out, n)
	}
	return out, nil
}
