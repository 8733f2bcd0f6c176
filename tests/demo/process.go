package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// process is a program that the demo started. Its output goes to a log file.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // of Wait; valid after done
}

// spawn starts a program in a session of its own, so that Ctrl-C reaches only
// the demo, which then ends it. Unless keep is set the kernel kills it should
// the demo itself be killed.
func spawn(name, log string, keep bool, program string, args ...string) (*process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p := &process{name: name, cmd: exec.Command(program, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = f, f
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if !keep {
		p.cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() { // ends with the process, which end() waits for
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *process) alive() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// kill ends the process as a crash would, and waits for it.
func (p *process) kill() error {
	if !p.alive() {
		return nil
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.name, err)
	}
	<-p.done
	return nil
}

// ended wants the process to end by itself, without an error, within the limit.
func (p *process) ended(limit time.Duration) error {
	select {
	case <-p.done:
	case <-time.After(limit):
		return fmt.Errorf("%s (pid %d) has not ended within %v", p.name, p.cmd.Process.Pid, limit)
	}
	if p.err != nil {
		return fmt.Errorf("%s ended with %w", p.name, p.err)
	}
	return nil
}
