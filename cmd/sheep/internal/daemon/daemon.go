// Package daemon is the part of sheep that every daemon has: the command line,
// the log, the pid file, the lock on the directory, signals, and going into the
// background. What the daemon does is a Runner; nothing here knows of it.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// Runner is the daemon's body: it serves until ctx ends, leaves the cluster,
// and calls ready once the control API answers.
type Runner func(ctx context.Context, s *Settings, log *slog.Logger, ready func()) error

// stopLimit is how long the body may take to stop; a node that cannot leave by
// then counts as crashed, which the cluster survives.
const stopLimit = 15 * time.Second

// errStopLimit is returned when stopLimit was not kept.
var errStopLimit = errors.New("did not stop in time")

// Execute is the whole program but for the exit: it returns when a daemon runs
// in the background, or, in the foreground, when it has ended. mapped are the
// directories in META that the body reads through memory maps: of a disk that does not
// give a page of them the process dies.
func Execute(args []string, version string, mapped []string, run Runner) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	pipe, err := inherited()
	if err != nil {
		return err
	}
	o := &options{}
	var cmd *cobra.Command
	cmd = command(o, version, func() error {
		s, err := o.settings(cmd.Flags().Changed("vnodes"))
		if err != nil {
			return err
		}
		if pipe == nil {
			for _, name := range o.obsolete {
				fmt.Fprintf(os.Stderr, "Option %s no longer means anything and is ignored.\n", name)
			}
			if !s.foreground {
				return detach(ctx)
			}
		}
		return serve(ctx, s, pipe, version, mapped, run)
	})
	cmd.SetArgs(args)
	return cmd.ExecuteContext(ctx)
}

// serve runs the node in this process until ctx ends.
func serve(ctx context.Context, s *Settings, pipe *readiness, version string, mapped []string, run Runner) error {
	lock, err := lockMeta(s.Meta)
	if err != nil {
		return err
	}
	defer lock.Close()
	s.LogLevel = new(slog.LevelVar)
	log, file, err := openLog(s.log, s.LogLevel)
	if err != nil {
		return err
	}
	if err := noteCrashes(s.Meta, mapped, log); err != nil {
		log.Error("sheep ends", "err", err)
		return err
	}
	removePID, err := writePID(s.pidFile)
	if err != nil {
		return err
	}
	defer removePID()
	defer reopenOnHangup(log, file)()
	if s.Store, s.Kept, err = openStore(); err != nil {
		return fmt.Errorf("descriptors that systemd keeps: %w", err)
	}
	log.Info("sheep starts", "version", version, "pid", os.Getpid(), "meta", s.Meta)
	err = bounded(ctx, func() error {
		return run(ctx, s, log, func() {
			if err := pipe.ready(file); err != nil {
				log.Warn("cannot let go of the starter", "err", err)
			}
			if err := notify("READY=1"); err != nil {
				log.Warn("systemd waits for this node", "err", err)
			}
		})
	})
	if err != nil {
		log.Error("sheep ends", "err", err)
		return err
	}
	log.Info("sheep ends")
	return nil
}

// bounded runs the body, which must end soon after ctx does.
func bounded(ctx context.Context, body func() error) error {
	done := make(chan error, 1)
	go func() { done <- body() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	limit := time.NewTimer(stopLimit)
	defer limit.Stop()
	select {
	case err := <-done:
		return err
	case <-limit.C:
		// The process ends with this error, and the goroutine with it.
		return errStopLimit
	}
}

// reopenOnHangup reopens the log at every SIGHUP until stop is called.
func reopenOnHangup(log *slog.Logger, file *logFile) (stop func()) {
	hangup := make(chan os.Signal, 1)
	quit, gone := make(chan struct{}), make(chan struct{})
	signal.Notify(hangup, syscall.SIGHUP)
	go func() {
		defer close(gone)
		for {
			select {
			case <-quit:
				return
			case <-hangup:
				if err := file.reopen(); err != nil {
					log.Error("cannot reopen the log", "err", err)
				}
			}
		}
	}()
	return func() {
		signal.Stop(hangup)
		close(quit)
		<-gone
	}
}
