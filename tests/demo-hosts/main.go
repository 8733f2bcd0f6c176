// Command demo-hosts takes the Debian package to machines with a systemd of their own:
// three guests with a network between them install it, become a cluster, are upgraded one
// after the other under a client's writes, lose their power, start again and have it
// removed. It verifies every step and ends with 0 only if everything was as it must be.
// `make demo-hosts` runs it, in some minutes where guests are emulated.
//
// Main types: story, host.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"sheepdog/internal/program"
	"sheepdog/tests/internal/report"
)

// options are where the program finds things; all paths are absolute.
type options struct {
	image    string // the guests' disk
	packages string // directory of sheepdog_1.0.0_*.deb, sheepdog_1.0.1_*.deb and client
}

func main() {
	var opt options
	flag.StringVar(&opt.image, "image", "cache/guest.raw", "disk image of the guests; see scripts/guest-image.sh")
	flag.StringVar(&opt.packages, "packages", "bin/hosts", "directory of the packages of two versions and of the client")
	flag.Parse()
	if err := run(opt); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo-hosts: %v\n", err)
		os.Exit(1)
	}
}

// run tells the whole story and clears up, also after a failure or Ctrl-C.
func run(opt options) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	for _, p := range []*string{&opt.image, &opt.packages} {
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp("", "hosts") // short: it holds unix sockets
	if err != nil {
		return err
	}
	s := &story{opt: opt, dir: dir, report: &report.Report{Out: os.Stdout}}
	err = s.play(ctx)
	if ctx.Err() != nil {
		err = errors.Join(errors.New("interrupted"), err)
	}
	if err != nil {
		s.showJournals()
	}
	err = errors.Join(err, s.end())
	if err != nil {
		s.showLogs()
	} else {
		s.report.Print(os.Stdout)
	}
	return errors.Join(err, os.RemoveAll(dir))
}

// showJournals asks the hosts that still answer what became of the service.
func (s *story) showJournals() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, h := range s.hosts {
		if h.guest == nil || h.guest.Con == nil || !h.guest.Proc.Alive() {
			continue
		}
		out, err := h.run(ctx, "journalctl --no-pager -u sheepdog -n 60 -o short-precise; dog node list")
		fmt.Fprintf(os.Stderr, "\n==> the service on %s (%v)\n%s\n", h.name, err, out)
	}
}

// end takes the power from what still runs.
func (s *story) end() (err error) {
	for _, h := range s.hosts {
		err = errors.Join(err, h.guest.PowerOff())
	}
	return err
}

// logTail is how much of each console is shown after a failure, in bytes.
const logTail = 4000

func (s *story) showLogs() {
	paths, err := filepath.Glob(filepath.Join(s.dir, "log", "*"))
	for _, p := range paths {
		b, e := os.ReadFile(p)
		err = errors.Join(err, e)
		fmt.Fprintf(os.Stderr, "\n==> the end of %s\n%s\n", filepath.Base(p), strings.ToValidUTF8(string(program.Tail(b, logTail)), "?"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "logs:", err)
	}
}
