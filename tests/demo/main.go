// Command demo does the main job of Sheepdog on real input: a cluster of three
// on this host, a Debian guest that runs on a clone, nodes that die under it.
// It verifies every step, prints one table of what took how long, and ends with
// 0 only if everything was as it must be. `make demo` runs it. It is not a
// benchmark: figures of one run on one machine compare with each other only.
//
// Main types: demo (the story), sheep, writer.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"sheepdog/tests/internal/report"
)

// options are where the demo finds things.
type options struct {
	bin    string // directory of sheep and dog
	image  string // the guest's disk, made if it does not exist
	script string // makes the image
	keep   bool   // leave everything running
}

func main() {
	opt := options{keep: os.Getenv("KEEP") == "1"}
	flag.StringVar(&opt.bin, "bin", "bin", "directory of sheep and dog")
	flag.StringVar(&opt.image, "image", "cache/guest.raw", "disk image of the guest; made if it does not exist")
	flag.StringVar(&opt.script, "image-script", "scripts/guest-image.sh", "program that makes the image")
	flag.Parse()
	if err := run(opt); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		os.Exit(1)
	}
}

// run tells the whole story and clears up, also after a failure or Ctrl-C.
func run(opt options) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	d, err := newDemo(opt)
	if err != nil {
		return err
	}
	err = d.play(ctx)
	if ctx.Err() != nil {
		err = errors.Join(errors.New("interrupted"), err)
	}
	if err == nil && opt.keep {
		d.report.Print(os.Stdout)
		d.explain(os.Stdout)
		return nil
	}
	err = errors.Join(err, d.end())
	if err != nil {
		d.showLogs(os.Stderr)
		return errors.Join(err, d.clear(false))
	}
	d.report.Print(os.Stdout)
	return d.clear(true)
}

// newDemo checks what can be checked before anything is started.
func newDemo(opt options) (*demo, error) {
	for _, p := range []*string{&opt.bin, &opt.image, &opt.script} {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return nil, err
		}
		*p = abs
	}
	for _, name := range []string{"sheep", "dog"} {
		if _, err := os.Stat(filepath.Join(opt.bin, name)); err != nil {
			return nil, fmt.Errorf("%w; run make build first", err)
		}
	}
	dir, err := os.MkdirTemp("", "demo") // short: it holds unix sockets
	if err != nil {
		return nil, err
	}
	if err := enoughSpace(dir); err != nil {
		return nil, errors.Join(err, os.Remove(dir))
	}
	return &demo{opt: opt, dir: dir, report: &report.Report{Out: os.Stdout}}, nil
}

// spaceNeeded is for three replicas of the guest and the logs, in bytes.
const spaceNeeded = 4 << 30

func enoughSpace(dir string) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return fmt.Errorf("free space of %s: %w", dir, err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < spaceNeeded {
		return fmt.Errorf("%s has %d MiB free, the demo wants %d MiB; set TMPDIR to a directory with more", dir, free>>20, spaceNeeded>>20)
	}
	return nil
}
