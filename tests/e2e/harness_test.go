// Package e2e runs the real binaries as an operator would, with the clients that
// operators use: qemu-img, qemu-io, nbdinfo, nbdcopy, fio. `make e2e` builds the
// binaries first.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// world is a set of sheep on loopback. The test ends with the checker: every
// process stops when told, and none is left.
type world struct {
	t     *testing.T
	dir   string
	bin   string
	sheep []*sheep
}

// sheep is one daemon, in the foreground.
type sheep struct {
	port int
	zone int
	args []string
	ns   string // network namespace; empty: the host's
	addr string // in that namespace
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
}

// start makes n sheep with a zone each, not formatted.
func start(t *testing.T, n int, args ...string) *world {
	t.Helper()
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(bin, "sheep")); err != nil {
		t.Fatalf("no binaries: %v; run make build first", err)
	}
	dir, err := os.MkdirTemp("", "shp") // short: it holds unix sockets
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir, bin: bin}
	t.Cleanup(w.end)
	for i := range n {
		w.add(i, args...)
	}
	return w
}

// add starts one more sheep.
func (w *world) add(zone int, args ...string) *sheep {
	w.t.Helper()
	s := &sheep{port: freePort(w.t), zone: zone, args: args}
	w.sheep = append(w.sheep, s)
	w.run(s)
	return s
}

func (w *world) meta(s *sheep) string { return filepath.Join(w.dir, strconv.Itoa(s.port)) }

func (w *world) socket(s *sheep) string { return filepath.Join(w.meta(s), "nbd.sock") }

func (w *world) uri(s *sheep, export string) string {
	return "nbd+unix:///" + export + "?socket=" + w.socket(s)
}

// run starts the process of s and waits until its API answers.
func (w *world) run(s *sheep) {
	w.t.Helper()
	args := append([]string{"-f", "-p", strconv.Itoa(s.port), "-z", strconv.Itoa(s.zone),
		"-c", "local:" + filepath.Join(w.dir, "local"), "--nbd", "none", w.meta(s)}, s.args...)
	if s.ns != "" {
		args = append(args, "-y", s.addr)
	}
	s.cmd = s.command(context.Background(), filepath.Join(w.bin, "sheep"), args...)
	log, err := os.OpenFile(filepath.Join(w.dir, fmt.Sprintf("log.%d", s.port)), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		w.t.Fatal(err)
	}
	defer log.Close()
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	s.done = make(chan struct{})
	go func() { s.cmd.Wait(); close(s.done) }()
	w.eventually(20*time.Second, fmt.Sprintf("sheep on port %d answers", s.port), func() error {
		if !s.alive() {
			b, _ := os.ReadFile(log.Name())
			return fmt.Errorf("it ended: %s", tail(b))
		}
		_, errText, code := w.dogAt(s, "node", "list")
		if code != 0 {
			return errors.New(errText)
		}
		return nil
	})
}

// command runs a program where the sheep lives.
func (s *sheep) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	if s.ns != "" {
		name, args = "ip", append([]string{"netns", "exec", s.ns, name}, args...)
	}
	return exec.CommandContext(ctx, name, args...)
}

func (s *sheep) alive() bool {
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// kill ends a sheep as a crash would.
func (w *world) kill(s *sheep) {
	w.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		w.t.Fatal(err)
	}
	<-s.done
}

// stop ends a sheep with SIGTERM and wants it gone within seconds.
func (w *world) stop(s *sheep) {
	w.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		w.t.Fatal(err)
	}
	select {
	case <-s.done:
	case <-time.After(10 * time.Second):
		w.t.Errorf("sheep on port %d did not stop within 10 s of SIGTERM", s.port)
		w.kill(s)
	}
}

// end kills what is left, shows logs of a failed test, and removes everything.
func (w *world) end() {
	for _, s := range w.sheep {
		if s.cmd != nil && s.alive() {
			s.cmd.Process.Kill()
			<-s.done
		}
	}
	if w.t.Failed() {
		for _, s := range w.sheep {
			out, _ := os.ReadFile(filepath.Join(w.dir, fmt.Sprintf("log.%d", s.port)))
			log, _ := os.ReadFile(filepath.Join(w.meta(s), "sheep.log"))
			w.t.Logf("log of sheep on port %d:\n%s%s", s.port, tail(out), tail(log))
		}
	}
	os.RemoveAll(w.dir)
}

func tail(b []byte) []byte {
	const most = 6000
	if len(b) > most {
		return b[len(b)-most:]
	}
	return b
}

// dog runs a command at the first living sheep and wants it to succeed.
func (w *world) dog(args ...string) string {
	w.t.Helper()
	out, errText, code := w.dogAt(w.first(), args...)
	if code != 0 {
		w.t.Fatalf("dog %s: exit %d: %s%s", strings.Join(args, " "), code, out, errText)
	}
	return out
}

func (w *world) first() *sheep {
	for _, s := range w.sheep {
		if s.alive() {
			return s
		}
	}
	w.t.Fatal("no sheep is alive")
	return nil
}

// dogAt runs a command at one sheep.
func (w *world) dogAt(s *sheep, args ...string) (stdout, stderr string, code int) {
	return w.dogIn(s, nil, args...)
}

// dogIn is dogAt with standard input.
func (w *world) dogIn(s *sheep, stdin []byte, args ...string) (stdout, stderr string, code int) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	args = append(args, "-p", strconv.Itoa(s.port))
	if s.ns != "" {
		args = append(args, "-a", s.addr)
	}
	cmd := s.command(ctx, filepath.Join(w.bin, "dog"), args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return out.String(), errs.String() + err.Error(), -1
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// format waits until all sheep see each other, then formats.
func (w *world) format(copies int) {
	w.t.Helper()
	w.eventually(20*time.Second, "all sheep see each other", func() error {
		for _, s := range w.sheep {
			if n := len(rows(w.dogOn(s, "node", "list", "-r"))); n != len(w.sheep) {
				return fmt.Errorf("port %d sees %d", s.port, n)
			}
		}
		return nil
	})
	w.dog("cluster", "format", "--copies", strconv.Itoa(copies))
}

// dogOn is dogAt for a command whose failure counts as no output.
func (w *world) dogOn(s *sheep, args ...string) string {
	out, _, code := w.dogAt(s, args...)
	if code != 0 {
		return ""
	}
	return out
}

func rows(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == '\n' })
}

// recovered waits until every living sheep is in the view and none is
// recovering.
func (w *world) recovered(limit time.Duration) {
	w.t.Helper()
	living := 0
	for _, s := range w.sheep {
		if s.alive() {
			living++
		}
	}
	w.eventually(limit, "recovery ends", func() error {
		if n := len(rows(w.dogOn(w.first(), "node", "list", "-r"))); n != living {
			return fmt.Errorf("%d nodes in the view, %d alive", n, living)
		}
		out, errText, code := w.dogAt(w.first(), "node", "recovery", "-r")
		if code != 0 || len(rows(out)) != 0 {
			return fmt.Errorf("exit %d: %s%s", code, out, errText)
		}
		return nil
	})
}

// checked ends a test: all replicas are equal.
func (w *world) checked() {
	w.t.Helper()
	out, errText, code := w.dogAt(w.first(), "cluster", "check", "--dry-run")
	if code != 0 {
		w.t.Fatalf("cluster check: exit %d\n%s%s", code, out, errText)
	}
}

// eventually polls until check returns nil. It is for conditions that have no
// event to wait for from outside.
func (w *world) eventually(limit time.Duration, what string, check func() error) {
	w.t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("not within %v: %s: %v", limit, what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// need skips a test aloud when a tool is missing.
func need(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIPPED: %s is not installed; run scripts/setup.sh", tool)
		}
	}
}

// tool runs a client and wants it to succeed.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// send writes bytes to an address and hangs up.
func send(t *testing.T, network, addr string, p []byte) {
	t.Helper()
	c, err := net.DialTimeout(network, addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	c.Write(p) // the far end may hang up in the middle
}
