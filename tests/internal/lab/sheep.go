package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Sheep is one daemon, in the foreground.
type Sheep struct {
	Port int
	Zone int
	Args []string
	// Disks are directories for replicas besides META; empty: META/obj.
	Disks []string
	Env   []string // added to the environment
	Files int      // how many files it may have open; 0: as many as the test
	NS    string   // network namespace; empty: the host's
	Addr  string   // in that namespace
	cmd   *exec.Cmd
	done  chan struct{} // closed when cmd has ended
}

// Meta is the directory of a sheep.
func (l *Lab) Meta(s *Sheep) string { return filepath.Join(l.Dir, strconv.Itoa(s.Port)) }

// Socket is where a sheep serves NBD; it is reached from every namespace.
func (l *Lab) Socket(s *Sheep) string { return filepath.Join(l.Meta(s), "nbd.sock") }

// URI is an export of a sheep.
func (l *Lab) URI(s *Sheep, export string) string {
	return "nbd+unix:///" + export + "?socket=" + l.Socket(s)
}

func (l *Lab) output(s *Sheep) string { return filepath.Join(l.Dir, fmt.Sprintf("log.%d", s.Port)) }

// Run starts the process of s and waits until its API answers.
func (l *Lab) Run(s *Sheep) {
	l.TB.Helper()
	l.Spawn(s)
	l.Answers(s)
}

// Spawn starts the process of s.
func (l *Lab) Spawn(s *Sheep) {
	l.TB.Helper()
	args := append([]string{"-f", "-p", strconv.Itoa(s.Port), "-z", strconv.Itoa(s.Zone),
		"-c", "local:" + filepath.Join(l.Dir, "local"), "--nbd", "none", strings.Join(append([]string{l.Meta(s)}, s.Disks...), ",")}, s.Args...)
	if s.NS != "" {
		args = append(args, "-y", s.Addr)
	}
	program := filepath.Join(l.Bin, "sheep")
	if s.Files > 0 {
		args = append([]string{"--nofile=" + strconv.Itoa(s.Files), program}, args...)
		program = "prlimit"
	}
	s.cmd = s.Command(context.Background(), program, args...)
	log, err := os.OpenFile(l.output(s), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		l.TB.Fatal(err)
	}
	defer log.Close()
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.Env = append(os.Environ(), s.Env...)
	if err := s.cmd.Start(); err != nil {
		l.TB.Fatal(err)
	}
	pid := strconv.Itoa(s.cmd.Process.Pid)
	note("pid", pid)
	s.done = make(chan struct{})
	go func() { s.cmd.Wait(); unnote("pid", pid); close(s.done) }()
}

// Answers waits until the API of s answers.
func (l *Lab) Answers(s *Sheep) {
	l.TB.Helper()
	l.Eventually(30*time.Second, fmt.Sprintf("sheep on port %d answers", s.Port), func() error {
		if !s.Alive() {
			b, _ := os.ReadFile(l.output(s))
			return fmt.Errorf("it ended: %s", Tail(b))
		}
		_, errText, code := l.DogAt(s, "node", "list")
		if code != 0 {
			return errors.New(errText)
		}
		return nil
	})
}

// Command runs a program where the sheep lives. It is not `ip netns exec`, which
// gives the program its own view of the mounts, too: file systems would live on in
// it after they were unmounted.
func (s *Sheep) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	if s.NS != "" {
		name, args = "nsenter", append([]string{"--net=/run/netns/" + s.NS, name}, args...)
	}
	return exec.CommandContext(ctx, name, args...)
}

// Alive says whether the process runs.
func (s *Sheep) Alive() bool {
	if s.cmd == nil {
		return false
	}
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// Pid is the process id of a sheep that was started.
func (s *Sheep) Pid() int { return s.cmd.Process.Pid }

// Processor is the time that a sheep has had of the processors.
func (l *Lab) Processor(s *Sheep) (used time.Duration) {
	l.TB.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.Pid()))
	if err != nil {
		l.TB.Fatal(err)
	}
	const user, system, tick = 11, 12, 10 * time.Millisecond // of the fields behind the name, proc(5)
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	for _, i := range []int{user, system} {
		n, err := strconv.Atoi(fields[i])
		if err != nil {
			l.TB.Fatal(err)
		}
		used += time.Duration(n) * tick
	}
	return used
}

// Done is closed when the process has ended.
func (s *Sheep) Done() <-chan struct{} { return s.done }

// Kill ends sheep as a crash would, all at once.
func (l *Lab) Kill(all ...*Sheep) {
	l.TB.Helper()
	for _, s := range all {
		if err := s.cmd.Process.Signal(syscall.SIGKILL); err != nil {
			l.TB.Fatal(err)
		}
	}
	for _, s := range all {
		<-s.done
	}
}

func (s *Sheep) kill() {
	s.cmd.Process.Kill()
	<-s.done
}

// Stop ends a sheep with SIGTERM and wants it gone within seconds.
func (l *Lab) Stop(s *Sheep) {
	l.TB.Helper()
	l.Signal(s, syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(10 * time.Second):
		l.TB.Errorf("sheep on port %d did not stop within 10 s of SIGTERM", s.Port)
		s.kill()
	}
}

// Signal sends a signal to a sheep.
func (l *Lab) Signal(s *Sheep, sig syscall.Signal) {
	l.TB.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		l.TB.Fatal(err)
	}
}
