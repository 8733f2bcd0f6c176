package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// A daemon is this program run again, with the same arguments, in a session of
// its own. Its stderr and one more descriptor are the write end of a pipe: what
// it says before it is ready reaches whoever started it, and one zero byte says
// that it is ready.
const (
	readyEnv = "SHEEP_READY_FD"
	readyFD  = 3
)

// maxComplaint bounds what is taken from a daemon that does not start, in bytes.
const maxComplaint = 64 << 10

// detach starts the daemon and waits until it is ready. The error is what the
// daemon said.
func detach(ctx context.Context) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("pipe to the daemon: %w", err)
	}
	defer r.Close()
	cmd := &exec.Cmd{
		Path: exe, Args: os.Args, Env: append(os.Environ(), readyEnv+"="+strconv.Itoa(readyFD)),
		Stderr: w, ExtraFiles: []*os.File{w}, SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("start the daemon: %w", err)
	}
	stop := context.AfterFunc(ctx, func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
	})
	defer stop()
	said, ready := waitReady(r)
	if ready {
		return cmd.Process.Release()
	}
	state := cmd.Wait()
	if text := string(bytes.TrimSpace(said)); text != "" {
		return errors.New(text)
	}
	return fmt.Errorf("the daemon ended before it was ready: %v", state)
}

// waitReady reads until the zero byte or the end.
func waitReady(r io.Reader) (said []byte, ready bool) {
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		if i := bytes.IndexByte(buf[:n], 0); i >= 0 {
			return append(said, buf[:i]...), true
		}
		if room := maxComplaint - len(said); room > 0 {
			said = append(said, buf[:min(n, room)]...)
		}
		if err != nil {
			return said, false
		}
	}
}

// readiness is the daemon's end of the pipe; nil in the foreground.
type readiness struct{ pipe *os.File }

// inherited finds the pipe of a daemon. The variable does not reach children.
func inherited() (*readiness, error) {
	s := os.Getenv(readyEnv)
	if s == "" {
		return nil, nil
	}
	if err := os.Unsetenv(readyEnv); err != nil {
		return nil, err
	}
	fd, err := strconv.Atoi(s)
	if err != nil || fd != readyFD {
		return nil, fmt.Errorf("%s=%q is for use by sheep itself only", readyEnv, s)
	}
	unix.CloseOnExec(fd)
	return &readiness{os.NewFile(uintptr(fd), "readiness")}, nil
}

// ready tells whoever started the daemon, and lets go of the pipe.
func (r *readiness) ready(log *logFile) error {
	if r == nil {
		return nil
	}
	// The starter may be gone; the daemon serves nevertheless.
	_, _ = r.pipe.Write([]byte{0})
	return errors.Join(r.pipe.Close(), log.takeStderr())
}
