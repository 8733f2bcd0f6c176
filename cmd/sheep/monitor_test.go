package main

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The thread that is taken for the scheduler's monitor is the one that sleeps and
// wakes again and again while a goroutine is at work; others have no reason to.
func TestMonitorThread(t *testing.T) {
	thread, err := monitorThread()
	if err != nil {
		t.Skipf("threads of this process are not to be seen: %v", err)
	}
	began, deadline := sleeps(t, thread), time.Now().Add(20*time.Second)
	for sleeps(t, thread) < began+30 {
		if time.Now().After(deadline) {
			t.Fatalf("thread %s slept %d times in 20 s of work", thread, sleeps(t, thread)-began)
		}
	}
}

// sleeps is how often a thread has gone to sleep.
func sleeps(t *testing.T, thread string) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/task/" + thread + "/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "\nvoluntary_ctxt_switches:")
	line, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestCalmMonitor(t *testing.T) {
	thread, err := monitorThread()
	if err != nil {
		t.Skipf("threads of this process are not to be seen: %v", err)
	}
	err = calmMonitor()
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EROFS) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	want := strconv.FormatInt(int64(monitorSlack), 10)
	if got := slackOf(t, thread); got != want {
		t.Errorf("the monitor's slack is %s ns, want %s", got, want)
	}
	if got := slackOf(t, "self"); got == want {
		t.Errorf("the first thread's slack is %s ns, too", got)
	}
}

// slackOf is in nanoseconds.
func slackOf(t *testing.T, thread string) string {
	t.Helper()
	b, err := os.ReadFile("/proc/" + thread + "/timerslack_ns")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}
