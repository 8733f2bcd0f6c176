package main

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"sheepdog/tests/internal/vm"
)

// files are what the guest said it had written and synced, by number, with
// their MD5 sums.
type files map[int]string

// writer is a loop in the guest that writes a file, syncs it, and says so on
// the console, until it is stopped.
type writer struct {
	con   *vm.Console
	files files
	next  int // number of the next loop's first file
}

// writeLoop writes numbered files of 64 KiB until a line is typed, at most
// twenty a second. What it says is split by quotes, so that no echo of it is
// taken for a report.
const writeLoop = `mkdir -p /root/work; n=%d; while ! read -t 0.05 x; do f=/root/work/$n; ` +
	`if dd if=/dev/urandom of=$f bs=16k count=4 conv=fsync 2>/dev/null; then set -- $(md5sum $f); printf '\n<''<wrote:%%d:%%s>>\n' $n $1; ` +
	`else printf '\n<''<failed:%%d>>\n' $n; fi; n=$((n+1)); done; printf '\n<''<stopped:%%d>>\n' $n`

var (
	wrote   = regexp.MustCompile(`<<(wrote|failed|stopped):(\d+)(?::([0-9a-f]{32}))?`)
	fileSum = regexp.MustCompile(`([0-9a-f]{32})  /root/work/(\d+)`)
)

// How many files are written before a disturbance and after it, at least, and
// how long that may take.
const (
	filesBefore = 20
	filesAfter  = 20
	writeLimit  = 3 * time.Minute
)

// pauses are the longest times between two reports of the guest.
type pauses struct {
	before, after time.Duration // of the disturbance
	written       int
}

// during has the guest write files, disturbs it in the middle, and wants it to
// go on. The guest may pause, but no write may fail.
func (w *writer) during(ctx context.Context, disturb func() error) (pauses, error) {
	var out pauses
	begin := w.con.Here()
	if err := w.con.Send(fmt.Sprintf(writeLoop, w.next)); err != nil {
		return out, err
	}
	p := begin
	if err := w.await(ctx, &p, filesBefore); err != nil {
		return out, fmt.Errorf("before the disturbance: %w", err)
	}
	at := time.Now()
	if err := disturb(); err != nil {
		return out, err
	}
	p = w.con.Here()
	if err := w.await(ctx, &p, filesAfter); err != nil {
		return out, fmt.Errorf("after the disturbance: %w", err)
	}
	if err := w.con.Send("stop"); err != nil {
		return out, err
	}
	return w.collect(ctx, begin, at)
}

// await waits for n reports from p on.
func (w *writer) await(ctx context.Context, p *vm.Position, n int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, writeLimit, fmt.Errorf("the guest did not write %d files within %v", n, writeLimit))
	defer cancel()
	for range n {
		m, err := w.con.Find(ctx, p, wrote)
		if err != nil {
			return err
		}
		if m[1] == "failed" {
			return fmt.Errorf("the guest could not write file %s", m[2])
		}
	}
	return nil
}

// collect takes all reports of a loop that was told to stop.
func (w *writer) collect(ctx context.Context, p vm.Position, disturbed time.Time) (pauses, error) {
	ctx, cancel := context.WithTimeout(ctx, writeLimit)
	defer cancel()
	var out pauses
	var last time.Time
	for {
		l, err := w.con.Next(ctx, &p)
		if err != nil {
			return out, fmt.Errorf("waiting for the end of the guest's loop: %w", err)
		}
		m := wrote.FindStringSubmatch(l.Text)
		if m == nil {
			continue
		}
		n, err := strconv.Atoi(m[2])
		if err != nil {
			return out, err
		}
		switch {
		case m[1] == "failed":
			return out, fmt.Errorf("the guest could not write file %d", n)
		case m[1] == "stopped":
			w.next = n
			return out, nil
		case m[3] == "":
			continue // another program wrote into the line
		}
		w.files[n] = m[3]
		out.written++
		out.note(last, l.At, disturbed)
		last = l.At
	}
}

// note takes the time between two reports into account.
func (o *pauses) note(last, now, disturbed time.Time) {
	switch {
	case last.IsZero():
	case now.Before(disturbed):
		o.before = max(o.before, now.Sub(last))
	default:
		o.after = max(o.after, now.Sub(last))
	}
}

// verify has the guest read all files from its disk again.
func (w *writer) verify(ctx context.Context) error {
	out, err := w.con.Run(ctx, writeLimit, `sync; echo 3 > /proc/sys/vm/drop_caches; md5sum /root/work/*`)
	if err != nil {
		return err
	}
	found := make(files)
	for _, m := range fileSum.FindAllStringSubmatch(out, -1) {
		n, err := strconv.Atoi(m[2])
		if err != nil {
			return err
		}
		found[n] = m[1]
	}
	for n, sum := range w.files {
		if found[n] != sum {
			return fmt.Errorf("file %d: the guest wrote %s and finds %q", n, sum, found[n])
		}
	}
	return nil
}
