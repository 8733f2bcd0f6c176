package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

const leaveVar = "LAB_LEAVE"

// A test is killed; its guard ends its process and removes its directory.
func TestGuardRemovesWhatAKilledTestLeft(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestLeaveAndDie$", "-test.v")
	cmd.Env = append(os.Environ(), leaveVar+"=1")
	out, err := cmd.Output()
	var dir string
	var pid int
	for _, row := range Rows(string(out)) {
		fmt.Sscanf(row, "left %s %d", &dir, &pid)
	}
	if err == nil || pid == 0 {
		t.Fatalf("%v: %s", err, out)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		_, err := os.Stat(dir)
		if os.IsNotExist(err) && syscall.Kill(pid, 0) != nil {
			return
		}
		if time.Now().After(deadline) {
			syscall.Kill(pid, syscall.SIGKILL)
			os.RemoveAll(dir)
			t.Fatalf("left behind: %s (%v), process %d", dir, err, pid)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestLeaveAndDie is the other half of the test above.
func TestLeaveAndDie(t *testing.T) {
	if os.Getenv(leaveVar) == "" {
		t.Skip("only as a part of TestGuardRemovesWhatAKilledTestLeft")
	}
	dir, err := os.MkdirTemp("", "shp")
	if err != nil {
		t.Fatal(err)
	}
	note("dir", dir)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("tail", "-f", file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	note("pid", fmt.Sprint(cmd.Process.Pid))
	fmt.Printf("left %s %d\n", dir, cmd.Process.Pid)
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

func TestJournalTellsWhatIsLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	if err := os.WriteFile(path, []byte("+ dir /tmp/shp1\n+ pid 12\n+ netns a\n- pid 12\n+ pid 13\n- netns a\n+ ne"), 0o600); err != nil {
		t.Fatal(err)
	}
	left, err := leftovers(path)
	if want := "[{dir /tmp/shp1} {pid 13}]"; err != nil || fmt.Sprint(left) != want {
		t.Errorf("%v, %v, want %s", left, err, want)
	}
}

func TestGuardTouchesNothingOfOthers(t *testing.T) {
	if err := removeDir(t.TempDir()); err == nil {
		t.Error("a directory that is not a lab's was removed")
	}
	if err := endProcess("1"); err == nil {
		t.Error("process 1")
	}
	other := exec.Command("sleep", "60")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { other.Process.Kill(); other.Wait() }()
	if err := endProcess(fmt.Sprint(other.Process.Pid)); err != nil {
		t.Error(err)
	}
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("a process that got the number of one of ours was ended: %v", err)
	}
}
