// Command bench measures a cluster of three sheep on this machine beside programs
// that serve one local copy, which show what the machine can do: nbdkit and
// qemu-nbd. All of them run in the same minutes and take turns, job by job, so
// that ratios mean something on a machine whose speed drifts. `make bench` runs
// it; docs/performance.md says how to read what it prints. It is not a test: it
// judges nothing.
//
// Main types: plan (what is run), system (what is measured), job (what fio does),
// sample (one run of one job), result (everything, as it is stored).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := execute(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// execute runs one of the commands; the first argument names it, "run" if it is
// an option or missing.
func execute(ctx context.Context, args []string, out io.Writer) error {
	command := "run"
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		command, args = args[0], args[1:]
	}
	switch command {
	case "run":
		return measure(ctx, args, out)
	case "profile":
		return profile(ctx, args, out)
	case "scale":
		return scale(ctx, args, out)
	case "show":
		return show(args, out)
	}
	return fmt.Errorf("no command %q; there are run, scale, profile and show", command)
}

// measure runs the plan that the arguments describe, prints a table and stores
// the result.
func measure(ctx context.Context, args []string, out io.Writer) (err error) {
	p, err := parse("bench run", args)
	if err != nil {
		return err
	}
	r, err := newRun(p, out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	if err := r.play(ctx); err != nil {
		return errors.Join(err, r.logs())
	}
	fmt.Fprintln(out)
	r.result.print(out)
	return r.result.store(p.out)
}

// show prints stored results again.
func show(args []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("show: name the files to show, as bench/results/*.json")
	}
	for _, name := range args {
		r, err := load(name)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s\n", name)
		r.print(out)
	}
	return nil
}
