package main

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

// process is a program that serves while it is measured. Its output goes to a
// log file.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // of Wait; valid after done
}

// spawn starts a program in a session of its own, so that Ctrl-C reaches only the
// bench, which then ends it. The kernel ends it should the bench be killed.
func spawn(name, log, program string, args ...string) (*process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p := &process{name: name, cmd: exec.Command(program, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = f, f
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() { // ends with the process, which end() waits for
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// endLimit is how long a program may take to stop when it is told to.
const endLimit = 20 * time.Second

// end stops the process and waits until it is gone.
func (p *process) end() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	select {
	case <-p.done:
		return nil
	case <-time.After(endLimit):
	}
	_ = p.cmd.Process.Kill()
	<-p.done
	return fmt.Errorf("%s did not stop within %v and was killed", p.name, endLimit)
}

// waitSocket waits until something listens on a unix socket.
func (p *process) waitSocket(ctx context.Context, path string) error {
	return eventually(ctx, 10*time.Second, p.name+" listens", func() error {
		select {
		case <-p.done:
			return final{fmt.Errorf("it ended: %v", p.err)}
		default:
		}
		c, err := net.Dial("unix", path)
		if err == nil {
			c.Close()
		}
		return err
	})
}

// final is an error that waiting cannot mend.
type final struct{ error }

// eventually polls until check returns nil. It is for conditions of other
// processes that have no event to wait for.
func eventually(ctx context.Context, limit time.Duration, what string, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	for {
		err := check()
		var f final
		if err == nil {
			return nil
		} else if errors.As(err, &f) {
			return fmt.Errorf("%s: %w", what, err)
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return fmt.Errorf("not within %v: %s: %w", limit, what, err)
		}
	}
}

// output runs a program to its end; what it says on stderr is in the error.
func output(ctx context.Context, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %.1000s", filepath.Base(program), strings.Join(args, " "), err, errs.Bytes())
	}
	return out.String(), nil
}

// freePort finds a port that is free for TCP and UDP on loopback.
func freePort() (int, error) {
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, err
		}
		addr := l.Addr().(*net.TCPAddr)
		u, err := net.ListenPacket("udp", addr.String())
		l.Close()
		if err == nil {
			u.Close()
			return addr.Port, nil
		}
	}
	return 0, errors.New("no port is free for TCP and UDP")
}
