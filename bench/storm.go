package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"sheepdog/api"
)

// idle tells what a sheep takes that has nothing to do yet.
func (o *ours) idle(ctx context.Context, out io.Writer) error {
	const rest = 5 * time.Second // past its start
	select {
	case <-time.After(rest):
	case <-ctx.Done():
		return ctx.Err()
	}
	memory, disk := int64(0), int64(0)
	for i, pid := range o.pids() {
		m, err := resident(pid)
		if err != nil {
			return err
		}
		d, err := taken(o.meta(i))
		if err != nil {
			return err
		}
		memory, disk = max(memory, m), max(disk, d)
	}
	_, err := fmt.Fprintf(out, "an idle sheep takes %d MiB of memory and %d MiB of disk\n", memory>>20, disk>>20)
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

// storm has many fresh clones of one disk read from end to end at once, as guests do
// that boot together, and tells how much the sheep read from files meanwhile.
func (r *run) storm(ctx context.Context, o *ours, out io.Writer) error {
	const clones = 20
	before, err := o.readBytes()
	if err != nil {
		return err
	}
	began := time.Now()
	errs := make([]error, clones)
	var wg sync.WaitGroup
	for i := range clones {
		name := fmt.Sprintf("storm%d", i)
		if _, err := o.client.CloneVDI(ctx, &api.CloneRequest{Source: diskName, Snapshot: baseTag, Name: name}); err != nil {
			return err
		}
		wg.Go(func() {
			j := job{name: name, rw: "read", block: 128 * kib, depth: 2, once: true}
			_, errs[i] = runFio(ctx, r.dir, j, o.uri(name), r.plan.size, 0, o.pids())
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	took := time.Since(began)
	after, err := o.readBytes()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%d clones read %d MiB each through one node, all at once, in %.1f s; the nodes read %v MiB from files and pipes meanwhile\n",
		clones, r.plan.size>>20, took.Seconds(), mibs(after, before))
	return err
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

func mibs(after, before []int64) []int64 {
	out := make([]int64, len(after))
	for i := range after {
		out[i] = (after[i] - before[i]) >> 20
	}
	return out
}
