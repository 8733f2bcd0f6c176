package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"
)

// shell is the other end of a console: for every line typed it echoes the line
// and then prints what answer says.
func shell(t *testing.T, answer func(typed string) string) *console {
	t.Helper()
	near, far := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		in := bufio.NewScanner(far)
		for in.Scan() {
			if _, err := fmt.Fprintf(far, "root@guest:~# %s\r\n%s", in.Text(), answer(in.Text())); err != nil {
				return
			}
		}
	}()
	c := newConsole(near)
	t.Cleanup(func() {
		c.close()
		far.Close()
		<-done
	})
	return c
}

// runID is the marker that a typed command asks for.
var runID = regexp.MustCompile(`<''<(run-\d+):`)

func TestRunBelievesOnlyTheMarker(t *testing.T) {
	c := shell(t, func(typed string) string {
		id := runID.FindStringSubmatch(typed)[1]
		return "out\r\n[  12.3] a kernel message\r\n[  12.4] another, without an end <<" + id + ":0>>\r\n"
	})
	out, err := c.run(t.Context(), 5*time.Second, "true")
	if err != nil || !strings.Contains(out, "out\n[  12.3] a kernel message\n") {
		t.Errorf("%v, %q", err, out)
	}
}

func TestRunFailsWithTheCommand(t *testing.T) {
	c := shell(t, func(typed string) string {
		return "no such file\r\n<<" + runID.FindStringSubmatch(typed)[1] + ":7>>\r\n"
	})
	if _, err := c.run(t.Context(), 5*time.Second, "false"); err == nil || !strings.Contains(err.Error(), "exit 7") || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("got %v", err)
	}
}

func TestRunDoesNotTakeTheEchoForAnAnswer(t *testing.T) {
	c := shell(t, func(string) string { return "" })
	if _, err := c.run(t.Context(), 200*time.Millisecond, "true"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestConsoleThatCloses(t *testing.T) {
	near, far := net.Pipe()
	c := newConsole(near)
	defer c.close()
	far.Close()
	var p position
	if _, err := c.find(t.Context(), &p, ready); !errors.Is(err, errConsoleClosed) {
		t.Errorf("got %v", err)
	}
}

func TestGreetAsksUntilAShellAnswers(t *testing.T) {
	lost := 2 // lines that the login throws away
	c := shell(t, func(typed string) string {
		if lost--; lost >= 0 || !strings.Contains(typed, "hello") {
			return ""
		}
		return strings.NewReplacer(`""`, "", `"`, "").Replace(typed[strings.Index(typed, `echo`)+5:]) + "\r\n"
	})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	c.patience = 50 * time.Millisecond
	if err := c.greet(ctx); err != nil {
		t.Error(err)
	}
}

// On a busy host every answer came after the next question was asked, and none
// was ever taken.
func TestGreetTakesALateAnswer(t *testing.T) {
	late := ""
	c := shell(t, func(typed string) string {
		if !strings.Contains(typed, "hello") {
			return ""
		}
		answer := late
		late = strings.NewReplacer(`""`, "", `"`, "").Replace(typed[strings.Index(typed, `echo`)+5:]) + "\r\n"
		return answer
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c.patience = 20 * time.Millisecond
	if err := c.greet(ctx); err != nil || c.turn > 2 {
		t.Error(c.turn, err)
	}
}

// loop is a guest's writer as the console shows it; the second answer is to
// "stop".
func loop(t *testing.T, reports string) *writer {
	c := shell(t, func(typed string) string {
		if typed == "stop" {
			return "<<stopped:100>>\r\n"
		}
		return reports
	})
	return &writer{con: c, files: make(files)}
}

func report64(n int) string {
	return fmt.Sprintf("\r\n<<wrote:%d:%032x>>\r\n", n, n)
}

// running is a guest's writer that goes on until "stop" is typed. Every third
// report is torn by another program.
func running(t *testing.T) *writer {
	t.Helper()
	near, far := net.Pipe()
	typed, done := make(chan string), make(chan struct{})
	go func() {
		defer close(typed)
		for in := bufio.NewScanner(far); in.Scan(); {
			typed <- in.Text()
		}
	}()
	go func() {
		defer close(done)
		<-typed // the loop
		for n := 0; ; n++ {
			select {
			case <-typed:
				fmt.Fprintf(far, "<<stopped:%d>>\r\n", n)
				for range typed {
				}
				return
			default:
			}
			text := report64(n)
			if n%3 == 2 {
				text = fmt.Sprintf("<<wrote:%d:[ 1.1] torn\r\n", n)
			}
			if _, err := far.Write([]byte(text)); err != nil {
				for range typed {
				}
				return
			}
		}
	}()
	c := newConsole(near)
	t.Cleanup(func() {
		c.close()
		far.Close()
		<-done
	})
	return &writer{con: c, files: make(files)}
}

func TestWriterRecordsWhatWasSynced(t *testing.T) {
	w := running(t)
	disturbed := false
	p, err := w.during(t.Context(), func() error { disturbed = true; return nil })
	if err != nil || !disturbed {
		t.Fatal(disturbed, err)
	}
	if w.next < filesBefore+filesAfter || p.written != len(w.files) || len(w.files) != w.next-w.next/3 {
		t.Errorf("%d files recorded, %d written, next %d", len(w.files), p.written, w.next)
	}
	for n, sum := range w.files {
		if n%3 == 2 || sum != fmt.Sprintf("%032x", n) {
			t.Errorf("file %d: %q", n, sum)
		}
	}
}

func TestWriterFailsWithTheFirstFailedWrite(t *testing.T) {
	w := loop(t, report64(0)+"<<failed:1>>\r\n")
	_, err := w.during(t.Context(), func() error { t.Error("disturbed"); return nil })
	if err == nil || !strings.Contains(err.Error(), "could not write file 1") {
		t.Errorf("got %v", err)
	}
}

func TestVerifyFindsWhatIsMissingOrDiffers(t *testing.T) {
	sum := func(n int) string { return fmt.Sprintf("%032x", n) }
	for name, found := range map[string]string{
		"":        sum(1) + "  /root/work/1\r\n" + sum(2) + "  /root/work/2\r\n",
		"missing": sum(1) + "  /root/work/1\r\n",
		"differs": sum(1) + "  /root/work/1\r\n" + sum(3) + "  /root/work/2\r\n",
	} {
		c := shell(t, func(typed string) string {
			return found + "<<" + runID.FindStringSubmatch(typed)[1] + ":0>>\r\n"
		})
		w := &writer{con: c, files: files{1: sum(1), 2: sum(2)}}
		if err := w.verify(t.Context()); (err != nil) != (name != "") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestPausesAreSplitAtTheDisturbance(t *testing.T) {
	at := time.Unix(1000, 0)
	var p pauses
	last := time.Time{}
	for _, ms := range []int{-300, -200, 400, 450} {
		now := at.Add(time.Duration(ms) * time.Millisecond)
		p.note(last, now, at)
		last = now
	}
	if p.before != 100*time.Millisecond || p.after != 600*time.Millisecond {
		t.Errorf("before %v, after %v", p.before, p.after)
	}
}

func TestReportTimesAndTables(t *testing.T) {
	var out strings.Builder
	r := &report{out: &out}
	err := r.step("first", func(s *row) error {
		s.took, s.verified = 1500*time.Millisecond, "all"
		r.add("part", 12*time.Millisecond, "")
		return nil
	})
	bad := errors.New("bad")
	if failed := r.step("second", func(*row) error { return bad }); err != nil || !errors.Is(failed, bad) || !strings.Contains(failed.Error(), "second") {
		t.Errorf("%v, %v", err, failed)
	}
	out.Reset()
	r.print(&out)
	if !strings.Contains(out.String(), "first        1.5 s  all\n  part       12 ms") {
		t.Errorf("table:\n%s", out.String())
	}
}
