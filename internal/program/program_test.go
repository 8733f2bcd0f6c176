package program

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func start(t *testing.T, script string) *Process {
	t.Helper()
	p, err := Start("a script", filepath.Join(t.TempDir(), "log"), false, "/bin/sh", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill() })
	return p
}

func TestKilledProcessIsGone(t *testing.T) {
	p := start(t, "exec sleep 60")
	if !p.Alive() {
		t.Fatal("it is not there:", p.Check())
	}
	if err := p.Kill(); err != nil || p.Alive() {
		t.Fatal("killed:", err, "alive:", p.Alive())
	}
	if err := p.Ended(time.Second); err == nil {
		t.Error("a killed process ended without an error")
	}
	if err := (*Process)(nil).Kill(); err != nil {
		t.Error("no process:", err)
	}
}

func TestStopIsHeard(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	p, err := Start("a script", log, false, "/bin/sh", "-c", "trap 'echo heard; exit' TERM; echo ready; while :; do sleep 0.01; done")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	says := func(word string) func() error {
		return func() error {
			if b, err := os.ReadFile(log); err != nil || !strings.Contains(string(b), word) {
				return errors.Join(errors.New("it did not say "+word), err, p.Check())
			}
			return nil
		}
	}
	if err := Eventually(t.Context(), 10*time.Second, "the script runs", says("ready")); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(log); !strings.Contains(string(b), "heard") {
		t.Errorf("it was not told: %q", b)
	}
}

func TestWaitingForOneThatEndedDoesNotLast(t *testing.T) {
	p := start(t, "exit 3")
	err := p.WaitSocket(t.Context(), filepath.Join(t.TempDir(), "no"))
	if f := (Final{}); !errors.As(err, &f) || !strings.Contains(err.Error(), "exit status 3") {
		t.Error(err)
	}
}

func TestEventuallyTellsWhatWasAmissInTime(t *testing.T) {
	amiss := errors.New("amiss")
	err := Eventually(t.Context(), 50*time.Millisecond, "never", func() error { return amiss })
	if !errors.Is(err, amiss) {
		t.Error(err)
	}
	looks := 0
	err = Eventually(t.Context(), time.Minute, "the third look", func() error {
		if looks++; looks < 3 {
			return amiss
		}
		return nil
	})
	if err != nil || looks != 3 {
		t.Error(err, looks)
	}
}

func TestOutputKeepsBothStreams(t *testing.T) {
	out, err := Output(t.Context(), "/bin/sh", "-c", "echo said; echo why >&2; exit 4")
	if out != "said\n" || err == nil || !strings.Contains(err.Error(), "why") || !strings.Contains(err.Error(), "exit status 4") {
		t.Errorf("%q, %v", out, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Output(ctx, "/bin/sh", "-c", "exec sleep 60"); err == nil {
		t.Error("it outlived its context")
	}
}
