package main

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"sheepdog/tests/internal/vm"
	"sheepdog/tests/internal/vm/fakeshell"
)

// console is that of a guest whose shell answers so.
func console(t *testing.T, answer func(typed string) string) *vm.Console {
	t.Helper()
	c := vm.NewConsole(fakeshell.Start(t, answer))
	t.Cleanup(c.Close)
	return c
}

// loop is a guest's writer as the console shows it; the second answer is to
// "stop".
func loop(t *testing.T, reports string) *writer {
	c := console(t, func(typed string) string {
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
	c := vm.NewConsole(near)
	t.Cleanup(func() {
		c.Close()
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
		c := console(t, func(typed string) string {
			return found + "<<" + fakeshell.RunID(typed) + ":0>>\r\n"
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
