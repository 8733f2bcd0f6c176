package lab

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// journalVar names the file that lists what tests have made and not yet removed.
// A line is + or -, a kind (pid, netns, dir) and a name.
const journalVar = "LAB_JOURNAL"

// Main runs the tests of a package under a guard: a process of its own that,
// whatever becomes of the tests, ends processes and removes namespaces, mounts,
// loop devices and directories that they left. Leftovers of tests that ran to
// their end fail the run.
func Main(m *testing.M) int {
	if path := os.Getenv("LAB_GUARD"); path != "" {
		return guard(path)
	}
	journal, err := os.CreateTemp("", "shp-journal")
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		return 1
	}
	journal.Close()
	os.Setenv(journalVar, journal.Name())
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "LAB_GUARD="+journal.Name())
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // ^C is not for it
	alive, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab: start the guard:", err)
		return 1
	}
	code := m.Run()
	alive.Close()
	if err := cmd.Wait(); err != nil && code == 0 {
		code = 1
	}
	return code
}

// note remembers that something will have to go; unnote that it is gone.
func note(kind, name string)   { enter("+", kind, name) }
func unnote(kind, name string) { enter("-", kind, name) }

func enter(sign, kind, name string) {
	path := os.Getenv(journalVar)
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		panic(fmt.Sprintf("lab: journal: %v", err))
	}
	defer f.Close()
	fmt.Fprintf(f, "%s %s %s\n", sign, kind, name)
}

// guard waits for the end of its parent and removes what that left.
func guard(journal string) int {
	io.Copy(io.Discard, os.Stdin)
	left, err := leftovers(journal)
	os.Remove(journal)
	if err != nil {
		fmt.Fprintln(os.Stderr, "guard:", err)
		return 1
	}
	for _, thing := range slices.Backward(left) {
		fmt.Fprintf(os.Stderr, "guard: %s %s was left behind; removing it\n", thing.kind, thing.name)
	}
	for _, kind := range []string{"pid", "netns", "dir"} {
		for _, thing := range slices.Backward(left) {
			if thing.kind != kind {
				continue
			}
			if err := thing.remove(); err != nil {
				fmt.Fprintf(os.Stderr, "guard: remove %s %s: %v\n", thing.kind, thing.name, err)
			}
		}
	}
	if len(left) > 0 {
		return 1
	}
	return 0
}

type thing struct{ kind, name string }

func leftovers(journal string) ([]thing, error) {
	b, err := os.ReadFile(journal)
	if err != nil {
		return nil, err
	}
	var left []thing
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		f := strings.SplitN(s.Text(), " ", 3)
		if len(f) != 3 {
			continue // cut off in the middle
		}
		th := thing{f[1], f[2]}
		left = slices.DeleteFunc(left, func(o thing) bool { return o == th })
		if f[0] == "+" {
			left = append(left, th)
		}
	}
	return left, nil
}

func (t thing) remove() error {
	switch t.kind {
	case "pid":
		return endProcess(t.name)
	case "netns":
		return run("ip", "netns", "del", t.name)
	case "dir":
		return removeDir(t.name)
	}
	return fmt.Errorf("unknown kind %q", t.kind)
}

func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// endProcess kills a process of the tests, unless the number went to another.
// The processes were children of our parent, so init has them now.
func endProcess(name string) error {
	pid, err := strconv.Atoi(name)
	if err != nil || pid <= 1 {
		return fmt.Errorf("%q is no process id", name)
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !bytes.Contains(cmdline, []byte("/shp")) {
		return nil
	}
	return terminate(pid)
}

// terminate kills a process that is no child of ours and waits for its end.
func terminate(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return err
	}
	for range 200 {
		if syscall.Kill(pid, 0) != nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return errors.New("it does not end")
}

// removeDir removes a directory of a lab, with the mounts and loop devices in it.
func removeDir(dir string) error {
	if !strings.HasPrefix(filepath.Base(dir), "shp") {
		return errors.New("it is not ours")
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for _, line := range slices.Backward(Rows(string(mounts))) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], dir+"/") {
			err = errors.Join(err, run("umount", "-l", f[1]))
		}
	}
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, file := range loops {
		if b, e := os.ReadFile(file); e == nil && strings.HasPrefix(string(b), dir+"/") {
			err = errors.Join(err, run("losetup", "-d", "/dev/"+strings.Split(file, "/")[3]))
		}
	}
	return errors.Join(err, os.RemoveAll(dir))
}
