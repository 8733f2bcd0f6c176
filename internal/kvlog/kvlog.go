// Package kvlog is the logger that Badger gets. Beside passing warnings on it
// hears what Badger tells nobody else: that its own goroutines meet errors of the
// disk. Badger then tries again for ever, and commits wait for it.
//
// Main type: Logger.
package kvlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"syscall"
)

// Logger implements Badger's logger.
type Logger struct {
	Log *slog.Logger // hears warnings and errors; nil: nobody
	// Failed is told of every error of the disk that Badger logs. It is called from
	// Badger's goroutines and must not block, nor call Badger.
	Failed func(error)
}

// Errorf logs an error, and reports it if it is one of the disk.
func (l Logger) Errorf(format string, args ...any) {
	l.say(slog.LevelError, format, args)
	l.report(args)
}

// Warningf is Errorf of things that Badger thinks less of.
func (l Logger) Warningf(format string, args ...any) {
	l.say(slog.LevelWarn, format, args)
	l.report(args)
}

// Infof logs what Badger tells of its routine, for debugging.
func (l Logger) Infof(format string, args ...any) { l.say(slog.LevelDebug, format, args) }

// Debugf logs nothing.
func (l Logger) Debugf(format string, args ...any) {}

func (l Logger) say(level slog.Level, format string, args []any) {
	if l.Log != nil && l.Log.Enabled(context.Background(), level) {
		l.Log.Log(context.Background(), level, "badger: "+strings.TrimSpace(fmt.Sprintf(format, args...)))
	}
}

func (l Logger) report(args []any) {
	for _, a := range args {
		if err, ok := a.(error); ok && OfDisk(err) {
			l.Failed(err)
			return
		}
	}
}

// OfDisk reports whether an error says that a disk does not work: it fails, it is
// gone, or its file system has shut down or has become read-only.
func OfDisk(err error) bool {
	for _, e := range []error{syscall.EIO, syscall.EROFS, syscall.ENODEV, syscall.ENXIO, syscall.EUCLEAN} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
