package main

import (
	"errors"
	"flag"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// plan is what one invocation does.
type plan struct {
	bin     string // directory of sheep and dog
	other   string // the same of another build, for the system "other"
	dir     string // where systems keep their data; empty: a new temporary directory
	out     string // directory of results; empty: nothing is stored
	size    int64  // of the disk, in bytes
	rounds  int
	runtime time.Duration // of a job
	jobs    []job
	systems []string
	control bool // also clones, snapshots and the like
}

// Settings of the two modes. Quick is for a look at a change; the full one has
// enough rounds for medians.
var modes = map[string]plan{
	"quick": {size: 256 << 20, rounds: 2, runtime: time.Second},
	"full":  {size: 1 << 30, rounds: 5, runtime: 4 * time.Second},
}

// parse reads the options of a command.
func parse(command string, args []string) (*plan, error) {
	f := flag.NewFlagSet(command, flag.ContinueOnError)
	p := &plan{}
	mode := f.String("mode", "quick", "quick (about two minutes) or full (about half an hour)")
	jobs := f.String("jobs", "std", "jobs, comma separated, or one of the sets "+strings.Join(setNames(), ", "))
	systems := f.String("systems", "sheep,nbdkit,qemu-nbd,disk", "what is measured, in this order")
	size := f.Int64("size", 0, "size of the disk in MiB; 0: that of the mode")
	f.StringVar(&p.bin, "bin", "bin", "directory of sheep and dog")
	f.StringVar(&p.other, "other", "", "directory of sheep and dog of another build, for the system \"other\"")
	f.StringVar(&p.dir, "dir", "", "existing directory for the data; empty: a temporary one in TMPDIR")
	f.StringVar(&p.out, "out", "", "directory that the result is stored in, named after the commit; empty: it is not stored")
	f.IntVar(&p.rounds, "rounds", 0, "how often each job is run; 0: as the mode has it")
	f.DurationVar(&p.runtime, "runtime", 0, "how long each job runs; 0: as the mode has it")
	f.BoolVar(&p.control, "control", true, "also measure clones, snapshots, creation and deletion")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("argument %q: there are only options; see -h", f.Arg(0))
	}
	m, ok := modes[*mode]
	if !ok {
		return nil, fmt.Errorf("mode %q: want quick or full", *mode)
	}
	if p.rounds == 0 {
		p.rounds = m.rounds
	}
	if p.runtime == 0 {
		p.runtime = m.runtime
	}
	if p.size = *size << 20; p.size == 0 {
		p.size = m.size
	}
	p.systems = strings.Split(*systems, ",")
	var err error
	if p.jobs, err = choose(*jobs); err != nil {
		return nil, err
	}
	return p, p.check()
}

// check wants the plan to be possible before anything is started.
func (p *plan) check() error {
	if p.rounds < 1 || p.runtime < 100*time.Millisecond || p.size < 64<<20 || p.size%(4<<20) != 0 {
		return errors.New("want at least one round, 100 ms for a job, and a size of at least 64 MiB, a multiple of 4 MiB")
	}
	for _, s := range p.systems {
		if !slices.Contains(systemNames(), s) {
			return fmt.Errorf("system %q: there are %s", s, strings.Join(systemNames(), ", "))
		}
		if tool := programs[s]; tool != "" {
			if _, err := exec.LookPath(tool); err != nil {
				return fmt.Errorf("%w; %s", err, remedy(s))
			}
		}
	}
	if _, err := exec.LookPath("fio"); err != nil {
		return fmt.Errorf("%w; make setup installs it", err)
	}
	if slices.ContainsFunc(p.jobs, func(j job) bool { return j.qemu }) {
		if _, err := exec.LookPath("qemu-img"); err != nil {
			return fmt.Errorf("%w; make setup installs it", err)
		}
	}
	if err := findBuild(&p.bin); err != nil {
		return err
	}
	if !slices.Contains(p.systems, "other") {
		return nil
	}
	if p.other == "" {
		return errors.New(`system "other" is another build: name its directory with -other`)
	}
	return findBuild(&p.other)
}

// findBuild wants sheep and dog in a directory and makes its name absolute.
func findBuild(dir *string) (err error) {
	for _, name := range []string{"sheep", "dog"} {
		if _, err := exec.LookPath(filepath.Join(*dir, name)); err != nil {
			return fmt.Errorf("%w; run make build first", err)
		}
	}
	*dir, err = filepath.Abs(*dir)
	return err
}

// remedy is how a missing program of a system comes.
func remedy(system string) string {
	if system == "ceph" {
		return "apt-get install --no-install-recommends ceph-mon ceph-mgr ceph-osd ceph-common"
	}
	return "make setup installs it"
}
