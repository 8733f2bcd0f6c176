package main

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"sheepdog/api"
	"sheepdog/cmd/dog/internal/show"
)

// maxBenchmarkThreads bounds -n of benchmark io.
const maxBenchmarkThreads = 256

// benchmark is one `dog benchmark io`.
type benchmark struct {
	total   string
	threads int
	workers string // ignored: the original's kind of threads
	force   bool
}

func (d *dog) benchmarkCommands() *cobra.Command {
	return group("benchmark", "How fast a VDI is written", d.benchmarkIO())
}

func (d *dog) benchmarkIO() *cobra.Command {
	b := &benchmark{}
	cmd := &cobra.Command{Use: "io [-f] [-t <total>] [-n <threads>] <vdiname>", Short: "Write over a fully allocated VDI, object by object", Args: arguments(1, 1, "VDI name"), ValidArgsFunction: d.completeVDI,
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) error {
			return d.runBenchmark(ctx, c, b, args[0])
		})}
	f := cmd.Flags()
	f.BoolVarP(&b.force, "force", "f", false, "do not ask")
	f.StringVarP(&b.total, "total", "t", "", "bytes to write, as 1G, from the beginning again at the end (default: the size of the VDI)")
	f.IntVarP(&b.threads, "threads", "n", 1, "objects written at once")
	f.StringVarP(&b.workers, "workqueue", "w", "", "ordered, dynamic or fixed; ignored")
	return cmd
}

func (d *dog) runBenchmark(ctx context.Context, c *api.Client, b *benchmark, name string) error {
	if b.threads < 1 || b.threads > maxBenchmarkThreads {
		return badArgument("Invalid number of threads '%d': want 1 to %d", b.threads, maxBenchmarkThreads)
	}
	switch b.workers {
	case "", "ordered", "dynamic", "fixed":
	default:
		return badArgument("Invalid kind of threads '%s': want ordered, dynamic or fixed", b.workers)
	}
	v, err := findVDI(ctx, c, name, "")
	if err != nil {
		return failed(err, "benchmark VDI %s", name)
	}
	total := v.SizeBytes
	if b.total != "" {
		if total, err = show.ParseSize(b.total); err != nil || total == 0 {
			return badArgument("Invalid total '%s': want a size of more than 0, as 1G", b.total)
		}
	}
	if objects := (v.SizeBytes + 1<<v.BlockSizeShift - 1) >> v.BlockSizeShift; v.OwnObjects < objects {
		return &failure{code: exitSystem, err: fmt.Errorf("VDI %s has unallocated data: %d of %d objects are its own. Make one with dog vdi create -P", name, v.OwnObjects, objects)}
	}
	if !b.force {
		if err := d.confirm(fmt.Sprintf("What VDI %s has is overwritten.", name)); err != nil {
			return err
		}
	}
	begin := time.Now()
	if err := b.write(ctx, c, v, total); err != nil {
		return failed(err, "benchmark VDI %s", name)
	}
	return d.benchmarked(total, time.Since(begin))
}

// write writes total bytes in pieces of an object.
func (b *benchmark) write(ctx context.Context, c *api.Client, v *api.VDI, total uint64) error {
	piece := min(uint64(1)<<v.BlockSizeShift, v.SizeBytes)
	pieces := spans(v.SizeBytes, total, piece)
	data := ballast(piece)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var mu sync.Mutex
	var wg sync.WaitGroup
	next, stop := iter.Pull2(pieces)
	defer stop()
	for range b.threads {
		wg.Go(func() {
			for ctx.Err() == nil {
				mu.Lock()
				off, n, ok := next()
				mu.Unlock()
				if !ok {
					return
				}
				req := &api.WriteRequest{Name: v.Name, Offset: off, Length: int64(n)}
				if _, err := c.WriteVDI(ctx, req, bytes.NewReader(data[:n])); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// spans is where total bytes of a VDI of size bytes are written: offset and length, round
// after round.
func spans(size, total, piece uint64) iter.Seq2[uint64, uint64] {
	return func(yield func(off, n uint64) bool) {
		for off := uint64(0); total > 0; {
			n := min(piece, size-off, total)
			if !yield(off, n) {
				return
			}
			total -= n
			if off += n; off == size {
				off = 0
			}
		}
	}
}

// ballast is data for a piece. They are not zeros, which take no space on any disk.
func ballast(n uint64) []byte {
	b := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{})
	_, _ = rng.Read(b) // it does not fail
	return b
}

// benchmarkReply is what the command prints with -o json.
type benchmarkReply struct {
	Version        int     `json:"version"`
	WrittenBytes   uint64  `json:"writtenBytes"`
	Seconds        float64 `json:"seconds"`
	BytesPerSecond float64 `json:"bytesPerSecond"`
}

// benchmarked tells the speed where the original said nothing: with -v and -o
// json.
func (d *dog) benchmarked(total uint64, took time.Duration) error {
	speed := float64(total) / max(took.Seconds(), 1e-9)
	switch {
	case d.json():
		return d.document(benchmarkReply{Version: api.Version, WrittenBytes: total, Seconds: took.Seconds(), BytesPerSecond: speed})
	case d.verbose:
		return d.print(fmt.Sprintf("%s written in %.3f seconds: %s/s\n", show.Size(total), took.Seconds(), show.Size(uint64(speed))))
	}
	return nil
}

// upgradeCommands are the original's converters of files that older versions of
// it made. Nothing of what it stored can be read here, so they say what to do.
func (d *dog) upgradeCommands() *cobra.Command {
	var commands []*cobra.Command
	for _, name := range []string{"inode-convert", "epoch-convert", "config-convert", "object-location"} {
		commands = append(commands, &cobra.Command{Use: name, Short: "Not there any more: files of the original cannot be read", Args: arguments(0, 3),
			RunE: func(*cobra.Command, []string) error {
				if err := d.checkOptions(); err != nil {
					return err
				}
				return fmt.Errorf("Files of the original Sheepdog cannot be converted, of any version. Read each disk there with qemu-img or dog vdi read, and make it here with dog vdi import")
			}})
	}
	return group("upgrade", "Converters of the original's files, which are not there any more", commands...)
}
