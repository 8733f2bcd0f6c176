package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
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

// The test program is also the sheep that the tests start: actEnv says what its
// node does. Its port is a socket in META, which tells tests that it serves.
const actEnv = "SHEEP_TEST_ACT"

func TestMain(m *testing.M) {
	act := os.Getenv(actEnv)
	if act == "" {
		os.Exit(m.Run())
	}
	if err := Execute(os.Args[1:], "1.2.3", []string{"meta"}, actor(act)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func actor(act string) Runner {
	return func(ctx context.Context, s *Settings, log *slog.Logger, ready func()) error {
		switch act {
		case "fail":
			return errors.New("port 7000 is taken")
		case "panic":
			panic("at the start")
		}
		l, err := net.Listen("unix", filepath.Join(s.Meta, "alive"))
		if err != nil {
			return err
		}
		defer l.Close()
		log.Debug("debugging")
		ready()
		switch act {
		case "die":
			panic("later")
		case "fault":
			go fault(filepath.Join(s.Meta, "page"))
		}
		<-ctx.Done()
		return nil
	}
}

// fault reads a page of a memory map that its file does not have.
func fault(name string) {
	f, err := os.Create(name)
	if err == nil {
		err = f.Truncate(4096)
	}
	if err != nil {
		panic(err)
	}
	page, err := syscall.Mmap(int(f.Fd()), 0, 4096, syscall.PROT_READ, syscall.MAP_SHARED)
	if err == nil {
		err = f.Truncate(0)
	}
	if err != nil {
		panic(err)
	}
	fmt.Println(page[0])
}

// sheep runs the program in its own directory and returns what it said.
func sheep(t *testing.T, dir, act string, args ...string) (out string, err error) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), actEnv+"="+act)
	b, err := cmd.CombinedOutput()
	return string(b), err
}

// pid reads a pid file and makes sure that the process ends with the test.
func pid(t *testing.T, file string) int {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSuffix(string(b), "\n"))
	if err != nil {
		t.Fatalf("pid file has %q", b)
	}
	t.Cleanup(func() { _ = syscall.Kill(n, syscall.SIGKILL) })
	return n
}

// eventually polls, because the other process says nothing to this one.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("waited in vain: %s", what)
}

// gone reports whether a process has ended with all of its threads: while one of them
// is still on its way, what the process had open and locked is so.
func gone(pid int) bool {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil || len(threads) > 1 {
		return err != nil
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || bytes.Contains(b, []byte(") Z "))
}

// holds reports whether a process has a file open.
func holds(pid int, path string) bool {
	open, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, fd := range open {
		if to, _ := os.Readlink(fd); to == path {
			return true
		}
	}
	return false
}

func alive(meta string) bool {
	conn, err := net.Dial("unix", filepath.Join(meta, "alive"))
	if err == nil {
		conn.Close()
	}
	return err == nil
}

func TestDaemonLife(t *testing.T) {
	dir := t.TempDir()
	meta, pidFile := filepath.Join(dir, "a/b"), filepath.Join(dir, "pid")
	args := []string{"a/b", "-P", "pid", "-l", "level=debug", "-p", "7001"}
	if out, err := sheep(t, dir, "run", args...); err != nil || out != "" {
		t.Fatalf("start: %v, %q", err, out)
	}
	// Everything below holds at once: the starter returned when the daemon was ready.
	n := pid(t, pidFile)
	if !alive(meta) {
		t.Error("the starter returned before the daemon served")
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", n))
	if want := os.Args[0] + "\x00" + strings.Join(args, "\x00") + "\x00"; err != nil || string(cmdline) != want {
		t.Errorf("ps shows %q, want %q", cmdline, want)
	}
	if sid, _, _ := syscall.Syscall(syscall.SYS_GETSID, uintptr(n), 0, 0); int(sid) != n {
		t.Errorf("session %d of process %d", sid, n)
	}
	out, err := sheep(t, dir, "run", args...)
	if err == nil || !strings.Contains(out, "another sheep daemon is using "+meta) {
		t.Errorf("second start: %v, %q", err, out)
	}
	log := filepath.Join(meta, "sheep.log")
	if b, _ := os.ReadFile(log); !bytes.Contains(b, []byte("debugging")) {
		t.Errorf("log has %q", b)
	}
	if err := os.Rename(log, log+".1"); err != nil {
		t.Fatal(err)
	}
	_ = syscall.Kill(n, syscall.SIGHUP)
	// The new file is there a moment before the daemon writes to it.
	eventually(t, "reopened log", func() bool { return !holds(n, log+".1") })
	_ = syscall.Kill(n, syscall.SIGTERM)
	eventually(t, "end after SIGTERM", func() bool { return gone(n) })
	if _, err := os.Stat(pidFile); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pid file after the end: %v", err)
	}
	if b, _ := os.ReadFile(log); !bytes.Contains(b, []byte("sheep ends")) {
		t.Errorf("new log has %q", b)
	}
	if out, err := sheep(t, dir, "run", args...); err != nil {
		t.Fatalf("start again: %v, %q", err, out)
	}
	_ = syscall.Kill(pid(t, pidFile), syscall.SIGTERM)
}

func TestDaemonThatDoesNotStart(t *testing.T) {
	for act, want := range map[string]string{"fail": "port 7000 is taken\n", "panic": "panic: at the start"} {
		dir := t.TempDir()
		out, err := sheep(t, dir, act, "m", "-P", "pid")
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.HasPrefix(out, want) {
			t.Errorf("%s: %v, %q", act, err, out)
		}
		if _, err := os.Stat(filepath.Join(dir, "pid")); act == "fail" && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: pid file is left: %v", act, err)
		}
	}
}

func TestPanicOfARunningDaemonIsLogged(t *testing.T) {
	dir := t.TempDir()
	if out, err := sheep(t, dir, "die", "m"); err != nil {
		t.Fatalf("start: %v, %q", err, out)
	}
	eventually(t, "panic in the log", func() bool {
		b, _ := os.ReadFile(filepath.Join(dir, "m/sheep.log"))
		return bytes.Contains(b, []byte("panic: later"))
	})
}

func TestForeground(t *testing.T) {
	for _, option := range [][]string{{"-f"}, {"-l", "dst=stdout"}} {
		dir := t.TempDir()
		cmd := exec.Command(os.Args[0], append(option, "m", "-P", "pid")...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), actEnv+"=run")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "service", func() bool { return alive(filepath.Join(dir, "m")) })
		if n := pid(t, filepath.Join(dir, "pid")); n != cmd.Process.Pid {
			t.Errorf("%v: serves as process %d, not %d", option, n, cmd.Process.Pid)
		}
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: end: %v", option, err)
		}
	}
}

func TestOtherPIDFileOwner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	remove, err := writePID(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := writePID(path); err == nil || !strings.Contains(err.Error(), "belongs to a running process") {
		t.Errorf("second owner: %v", err)
	}
	remove()
	remove, err = writePID(path)
	if err != nil {
		t.Fatal(err)
	}
	remove()
}

func TestObsoleteOptions(t *testing.T) {
	dir := t.TempDir()
	out, err := sheep(t, dir, "run", "m", "-P", "pid", "-w", "net=1", "-D", "-j", "size=64M", "-x", "3", "-u", "-W", "-R", "max=1", "-i", "host=a", "-r", "x")
	if err != nil {
		t.Fatalf("%v, %q", err, out)
	}
	pid(t, filepath.Join(dir, "pid"))
	for _, o := range obsoleteOptions {
		if strings.Count(out, "Option -"+o.short+" no longer means anything and is ignored.\n") != 1 {
			t.Errorf("-%s: %q", o.short, out)
		}
	}
	if n := strings.Count(out, "\n"); n != len(obsoleteOptions) {
		t.Errorf("%d lines", n)
	}
}

func TestVersionAndHelp(t *testing.T) {
	for _, o := range []string{"-v", "--version"} {
		if out, err := sheep(t, t.TempDir(), "run", o); err != nil || out != "Sheepdog daemon version 1.2.3\n" {
			t.Errorf("%s: %v, %q", o, err, out)
		}
	}
	if out, err := sheep(t, t.TempDir(), "run", "-h"); err != nil || !strings.Contains(out, "--nosync") {
		t.Errorf("help: %v, %q", err, out)
	}
}
