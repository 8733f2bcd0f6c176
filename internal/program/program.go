// Package program runs other programs for tools of this repository: the demo
// and the bench. What serves runs in the background with its output in a file;
// what answers runs to its end. It knows no room, and tests have package lab.
package program

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Process is a program in the background.
type Process struct {
	Name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // of Wait; valid after done
}

// Start runs a program in a session of its own, so that Ctrl-C reaches only the
// caller, which then ends it. Its output is appended to the file log. Unless keep
// is set the kernel kills it should the caller itself be killed.
func Start(name, log string, keep bool, path string, args ...string) (*Process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p := &Process{Name: name, cmd: exec.Command(path, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = f, f
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if !keep {
		p.cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() { // ends with the process, which Kill and Stop wait for
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// PID is the id of the process, which may have ended.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Check returns nil while the process runs, and a final error once it has ended.
func (p *Process) Check() error {
	select {
	case <-p.done:
		return Final{fmt.Errorf("%s ended: %v", p.Name, p.err)}
	default:
		return nil
	}
}

// Alive reports whether there is a process and it has not ended.
func (p *Process) Alive() bool { return p != nil && p.Check() == nil }

// Kill ends the process, if there is one, as a crash would, and waits for it.
func (p *Process) Kill() error {
	if !p.Alive() {
		return nil
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.Name, err)
	}
	<-p.done
	return nil
}

// stopLimit is how long a program may take to stop when it is told to.
const stopLimit = 20 * time.Second

// Stop ends the process with SIGTERM and waits until it is gone. One that does
// not stop is killed, and that is an error.
func (p *Process) Stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	select {
	case <-p.done:
		return nil
	case <-time.After(stopLimit):
		return errors.Join(fmt.Errorf("%s did not stop within %v and was killed", p.Name, stopLimit), p.Kill())
	}
}

// Ended wants the process to end by itself, without an error, within the limit.
func (p *Process) Ended(limit time.Duration) error {
	select {
	case <-p.done:
	case <-time.After(limit):
		return fmt.Errorf("%s (pid %d) has not ended within %v", p.Name, p.PID(), limit)
	}
	if p.err != nil {
		return fmt.Errorf("%s ended with %w", p.Name, p.err)
	}
	return nil
}

// socketLimit is how long a program may take until it listens.
const socketLimit = 10 * time.Second

// WaitSocket waits until something listens on a unix socket.
func (p *Process) WaitSocket(ctx context.Context, path string) error {
	return Eventually(ctx, socketLimit, p.Name+" listens", func() error {
		if err := p.Check(); err != nil {
			return err
		}
		c, err := net.Dial("unix", path)
		if err == nil {
			c.Close()
		}
		return err
	})
}

// Output runs a program to its end; what it says on stderr is in the error. The
// context bounds it.
func Output(ctx context.Context, path string, args ...string) (string, error) {
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", filepath.Base(path), strings.Join(args, " "), err, Tail(errs.Bytes(), 2000))
	}
	return out.String(), nil
}

// Tail is the end of b, at most n bytes.
func Tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }
