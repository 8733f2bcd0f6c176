// Package lab runs real sheep for tests as an operator would: processes on
// loopback or in network namespaces, on directories or on disks of their own, with
// dog and the usual clients beside them. What a test made goes away with the test,
// also when the test fails, is interrupted or is killed (see Main).
//
// It holds no expectations about data: see package register for those.
package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sheepdog/api"
	"sheepdog/internal/program"
)

// Lab is a set of sheep and their directory.
type Lab struct {
	TB    testing.TB
	Dir   string // short, for it holds unix sockets
	Bin   string
	Sheep []*Sheep

	mounts  []string // to unmount in the end
	daemons []string // process ids, to end after that
}

// New makes a lab without sheep. The binaries must have been built.
func New(tb testing.TB) *Lab {
	tb.Helper()
	bin, err := binaries()
	if err != nil {
		tb.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "shp")
	if err != nil {
		tb.Fatal(err)
	}
	note("dir", dir)
	l := &Lab{TB: tb, Dir: dir, Bin: bin}
	tb.Cleanup(l.End)
	return l
}

// binaries finds bin beside the go.mod above the working directory.
func binaries() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir != filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			bin := filepath.Join(dir, "bin")
			if _, err := os.Stat(filepath.Join(bin, "sheep")); err != nil {
				return "", fmt.Errorf("no binaries: %w; run make build first", err)
			}
			return bin, nil
		}
		dir = filepath.Dir(dir)
	}
	return "", errors.New("no go.mod above the working directory")
}

// Start makes n sheep with a zone each, not formatted.
func Start(tb testing.TB, n int, args ...string) *Lab {
	tb.Helper()
	l := New(tb)
	for i := range n {
		l.Add(i, args...)
	}
	return l
}

// Add starts one more sheep.
func (l *Lab) Add(zone int, args ...string) *Sheep {
	l.TB.Helper()
	s := l.Plan(zone, args...)
	l.Run(s)
	return s
}

// Plan makes a sheep that is not started.
func (l *Lab) Plan(zone int, args ...string) *Sheep {
	l.TB.Helper()
	s := &Sheep{Port: FreePort(l.TB), Zone: zone, Args: args}
	l.Sheep = append(l.Sheep, s)
	return s
}

// End kills what is left, shows logs of a failed test, and removes everything.
func (l *Lab) End() {
	for _, s := range l.Sheep {
		if s.Alive() {
			s.kill()
		}
	}
	if l.TB.Failed() {
		for _, s := range l.Sheep {
			out, _ := os.ReadFile(l.output(s))
			log, _ := os.ReadFile(filepath.Join(l.Meta(s), "sheep.log"))
			l.TB.Logf("log of sheep on port %d:\n%s%s", s.Port, Tail(out), Tail(log))
		}
	}
	l.keep()
	for _, dir := range slices.Backward(l.mounts) {
		if err := unmount(dir); err != nil {
			l.TB.Errorf("unmount %s: %v", dir, err)
		}
	}
	l.endDaemons()
	if err := os.RemoveAll(l.Dir); err != nil {
		l.TB.Errorf("remove the directory of the lab: %v", err)
		return
	}
	unnote("dir", l.Dir)
}

// keep copies the logs to $LAB_KEEP, for a longer look.
func (l *Lab) keep() {
	to := os.Getenv("LAB_KEEP")
	if to == "" {
		return
	}
	to = filepath.Join(to, strings.ReplaceAll(l.TB.Name(), "/", "_"))
	if err := os.MkdirAll(to, 0o755); err != nil {
		l.TB.Log(err)
		return
	}
	for _, s := range l.Sheep {
		for name, path := range map[string]string{"out": l.output(s), "log": filepath.Join(l.Meta(s), "sheep.log")} {
			b, _ := os.ReadFile(path)
			if err := os.WriteFile(filepath.Join(to, fmt.Sprintf("%d.%s", s.Port, name)), b, 0o644); err != nil {
				l.TB.Log(err)
			}
		}
	}
	l.TB.Logf("logs are kept in %s", to)
}

// Tail is the end of a log.
func Tail(b []byte) []byte {
	const most = 6000
	return b[max(0, len(b)-most):]
}

// Dog runs a command at the first living sheep and wants it to succeed.
func (l *Lab) Dog(args ...string) string {
	l.TB.Helper()
	out, errText, code := l.DogAt(l.First(), args...)
	if code != 0 {
		l.TB.Fatalf("dog %s: exit %d: %s%s", strings.Join(args, " "), code, out, errText)
	}
	return out
}

// First is the first living sheep.
func (l *Lab) First() *Sheep {
	l.TB.Helper()
	i := slices.IndexFunc(l.Sheep, (*Sheep).Alive)
	if i < 0 {
		l.TB.Fatal("no sheep is alive")
	}
	return l.Sheep[i]
}

// DogAt runs a command at one sheep.
func (l *Lab) DogAt(s *Sheep, args ...string) (stdout, stderr string, code int) {
	return l.DogIn(s, nil, args...)
}

// dogLimit is longer than any command of a test takes.
const dogLimit = 3 * time.Minute

// DogIn is DogAt with standard input.
func (l *Lab) DogIn(s *Sheep, stdin []byte, args ...string) (stdout, stderr string, code int) {
	ctx, cancel := context.WithTimeout(context.Background(), dogLimit)
	defer cancel()
	return l.DogWithin(ctx, s, stdin, args...)
}

// DogWithin is DogIn with a limit; a command that exceeds it has code -1.
func (l *Lab) DogWithin(ctx context.Context, s *Sheep, stdin []byte, args ...string) (stdout, stderr string, code int) {
	args = append(slices.Clone(args), "-p", strconv.Itoa(s.Port))
	if s.NS != "" {
		args = append(args, "-a", s.Addr)
	}
	cmd := s.Command(ctx, filepath.Join(l.Bin, "dog"), args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return out.String(), errs.String() + err.Error(), -1
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// DogOn is DogAt for a command whose failure counts as no output.
func (l *Lab) DogOn(s *Sheep, args ...string) string {
	out, _, code := l.DogAt(s, args...)
	if code != 0 {
		return ""
	}
	return out
}

// Rows are the lines of an output.
func Rows(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == '\n' })
}

// Meet waits until all sheep see each other.
func (l *Lab) Meet() {
	l.TB.Helper()
	l.Eventually(20*time.Second, "all sheep see each other", func() error {
		for _, s := range l.Sheep {
			if n := len(Rows(l.DogOn(s, "node", "list", "-r"))); n != len(l.Sheep) {
				return fmt.Errorf("port %d sees %d", s.Port, n)
			}
		}
		return nil
	})
}

// Format waits until all sheep see each other, then formats.
func (l *Lab) Format(copies int) {
	l.TB.Helper()
	l.Meet()
	l.Dog("cluster", "format", "--copies", strconv.Itoa(copies))
}

// Recovered waits until every living sheep sees all of them as members, and none
// as recovering. All are asked: one that has just started knows old news.
func (l *Lab) Recovered(limit time.Duration) {
	l.TB.Helper()
	living := slices.DeleteFunc(slices.Clone(l.Sheep), func(s *Sheep) bool { return !s.Alive() })
	l.Eventually(limit, "recovery ends", func() error {
		for _, s := range living {
			if err := l.complete(s, len(living)); err != nil {
				return fmt.Errorf("port %d: %w", s.Port, err)
			}
		}
		return nil
	})
}

// RecoveredSeen is Recovered as one sheep sees it, which is asked seldom and without
// dog: where guests are measured meanwhile, since each start of dog costs as much as
// hundreds of their requests. It returns when that was so.
func (l *Lab) RecoveredSeen(s *Sheep, limit time.Duration) (asked time.Time) {
	l.TB.Helper()
	poll(l.TB, limit, 50*time.Millisecond, "recovery ends", func() error {
		asked = time.Now()
		var members api.NodeList
		var recovering api.RecoveryList
		if err := errors.Join(l.Get(s, "/v1/recovery", &recovering), l.Get(s, "/v1/nodes", &members)); err != nil {
			return err
		}
		if n := len(members.Nodes); n != len(l.Sheep) || len(recovering.Nodes) > 0 {
			return fmt.Errorf("%d nodes in the view, %d of them recovering", n, len(recovering.Nodes))
		}
		return nil
	})
	return asked
}

// complete is an error unless a sheep sees n members, and none recovering.
func (l *Lab) complete(s *Sheep, n int) error {
	out, errText, code := l.DogAt(s, "node", "recovery", "-r") // waits for members that just start
	if code != 0 || len(Rows(out)) != 0 {
		return fmt.Errorf("exit %d: %s%s", code, out, errText)
	}
	if got := len(Rows(l.DogOn(s, "node", "list", "-r"))); got != n {
		return fmt.Errorf("%d nodes in the view, %d alive", got, n)
	}
	return nil
}

// Checked ends a test: all replicas are equal.
func (l *Lab) Checked() {
	l.TB.Helper()
	out, errText, code := l.DogAt(l.First(), "cluster", "check", "--dry-run")
	if code != 0 {
		l.TB.Errorf("cluster check: exit %d\n%s%s", code, out, errText)
	}
}

// Eventually is the function of that name, for this lab's test.
func (l *Lab) Eventually(limit time.Duration, what string, check func() error) {
	l.TB.Helper()
	Eventually(l.TB, limit, what, check)
}

// Eventually polls until check returns nil, and ends the test when limit is over.
// It is for conditions that have no event to wait for from outside.
func Eventually(tb testing.TB, limit time.Duration, what string, check func() error) {
	tb.Helper()
	poll(tb, limit, 50*time.Millisecond, what, check)
}

func poll(tb testing.TB, limit, every time.Duration, what string, check func() error) {
	tb.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("not within %v: %s: %v", limit, what, err)
		}
		time.Sleep(every)
	}
}

// FreePort is a port that nobody uses, nor gets from FreePort while the tests run.
func FreePort(tb testing.TB) int {
	tb.Helper()
	port, err := program.FreePort()
	if err != nil {
		tb.Fatal(err)
	}
	return port
}
