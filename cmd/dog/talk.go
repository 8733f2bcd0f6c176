package main

import (
	"bufio"
	"fmt"
	"io"
	"log/syslog"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sheepdog/cmd/dog/internal/show"
)

// confirm asks on stderr and reads a line from stdin; only what begins with
// yes goes on. A refusal is a failure, so that scripts notice.
func (d *dog) confirm(question string) error {
	if d.yes {
		return nil
	}
	d.talk("%s", question)
	fmt.Fprint(d.stderr, "Are you sure you want to continue? [yes/no]: ")
	// At most one line: a prompt must not eat data that follow.
	line, _ := bufio.NewReader(io.LimitReader(d.stdin, 1024)).ReadString('\n')
	if strings.HasPrefix(strings.ToLower(line), "yes") {
		return nil
	}
	return &failure{code: exitFailed, err: fmt.Errorf("\nNothing was done. Answer yes, or give --yes.")}
}

// isTerminal reports whether a stream is one.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// progress draws a bar on stderr when that is a terminal.
type progress struct {
	out  io.Writer // nil: draw nothing
	unit func(uint64) string
	last time.Time
}

func (d *dog) progress(unit func(uint64) string) *progress {
	p := &progress{unit: unit}
	if isTerminal(d.stderr) {
		p.out = d.stderr
	}
	return p
}

// drawEvery limits how often a bar is drawn.
const drawEvery = 100 * time.Millisecond

func (p *progress) draw(done, total uint64) {
	if p.out == nil || time.Since(p.last) < drawEvery {
		return
	}
	p.last = time.Now()
	fmt.Fprintf(p.out, "%s %s / %s ", show.Bar(done, total), p.unit(done), p.unit(total))
}

// end leaves the line of the bar.
func (p *progress) end() {
	if p.out != nil && !p.last.IsZero() {
		fmt.Fprintln(p.out)
	}
}

// logCommand writes the command line to syslog, or to the file that
// SHEEPDOG_DOG_LOG_PATH names, if SHEEPDOG_DOG_LOG is set.
func (d *dog) logCommand(args []string) {
	if d.getenv("SHEEPDOG_DOG_LOG") == "" {
		return
	}
	line := "dog " + strings.Join(args, " ")
	if err := writeLog(d.getenv("SHEEPDOG_DOG_LOG_PATH"), line); err != nil {
		d.talk("Cannot log the command line (SHEEPDOG_DOG_LOG): %v", err)
	}
}

func writeLog(path, line string) error {
	if path == "" {
		w, err := syslog.New(syslog.LOG_INFO|syslog.LOG_USER, "dog")
		if err != nil {
			return err
		}
		defer w.Close()
		return w.Info(line)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%s %s\n", time.Now().Format(time.RFC3339), line)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
