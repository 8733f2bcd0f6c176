package daemon

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"log/syslog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// logSettings is -l understood.
type logSettings struct {
	level slog.Level
	path  string // of the file, when dst is default
	json  bool
	dst   string // default, syslog or stdout
}

// parseLog reads `key=value,...`; a word alone is a level.
func parseLog(s, meta string) (logSettings, error) {
	out := logSettings{dst: "default"}
	dir := meta
	for item := range strings.SplitSeq(s, ",") {
		key, value, ok := strings.Cut(item, "=")
		if !ok {
			key, value = "level", item
		}
		var err error
		switch {
		case item == "":
		case key == "level":
			out.level, err = parseLevel(value)
		case key == "dir" && value != "":
			dir, err = filepath.Abs(value)
		case key == "format" && (value == "default" || value == "server" || value == "json"):
			out.json = value == "json"
		case key == "dst" && (value == "default" || value == "syslog" || value == "stdout"):
			out.dst = value
		default:
			err = fmt.Errorf("Invalid log option '%s': want level=LEVEL, dir=DIR, format={default|server|json} or dst={default|syslog|stdout}", item)
		}
		if err != nil {
			return out, err
		}
	}
	out.path = filepath.Join(dir, "sheep.log")
	return out, nil
}

// parseLevel maps the eight levels of syslog, by name or number, to levels of
// slog: those between its four hide what is less urgent.
func parseLevel(s string) (slog.Level, error) {
	switch s {
	case "emerg", "0":
		return slog.LevelError + 3, nil
	case "alert", "1":
		return slog.LevelError + 2, nil
	case "crit", "2":
		return slog.LevelError + 1, nil
	case "err", "3":
		return slog.LevelError, nil
	case "warning", "4":
		return slog.LevelWarn, nil
	case "notice", "5":
		return slog.LevelInfo + 2, nil
	case "info", "6":
		return slog.LevelInfo, nil
	case "debug", "7":
		return slog.LevelDebug, nil
	}
	return 0, fmt.Errorf("Invalid log level '%s': want emerg, alert, crit, err, warning, notice, info or debug", s)
}

// openLog opens the destination. The level can be changed later.
func openLog(s logSettings, level *slog.LevelVar) (*slog.Logger, *logFile, error) {
	level.Set(s.level)
	var w io.Writer = os.Stdout
	file := &logFile{}
	switch s.dst {
	case "syslog":
		sys, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_INFO, "sheep")
		if err != nil {
			return nil, nil, fmt.Errorf("log to syslog: %w; choose a file with -l dst=default", err)
		}
		w = sys
	case "default":
		if err := os.MkdirAll(filepath.Dir(s.path), 0o750); err != nil {
			return nil, nil, fmt.Errorf("log directory: %w", err)
		}
		file.path = s.path
		if err := file.reopen(); err != nil {
			return nil, nil, err
		}
		w = file
	}
	opts := &slog.HandlerOptions{Level: level}
	if s.json {
		return slog.New(slog.NewJSONHandler(w, opts)), file, nil
	}
	return slog.New(slog.NewTextHandler(w, opts)), file, nil
}

// logFile is a log in a file that can be reopened after it was moved away. With
// an empty path it does nothing.
type logFile struct {
	path string

	mu     sync.Mutex
	file   *os.File // guarded by mu
	stderr bool     // guarded by mu: the process's stderr goes here too
}

func (l *logFile) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Write(b)
}

// reopen goes on in a new file of the same name; if that fails, in the old one.
func (l *logFile) reopen() error {
	if l.path == "" {
		return nil
	}
	f, err := os.OpenFile(l.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.file
	l.file = f
	if l.stderr {
		err = unix.Dup3(int(f.Fd()), int(os.Stderr.Fd()), 0)
	}
	if old != nil {
		err = errors.Join(err, old.Close())
	}
	return err
}

// takeStderr sends what the Go runtime says when the process dies to the log.
func (l *logFile) takeStderr() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	target := l.file
	if target == nil {
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer null.Close()
		target = null
	}
	l.stderr = l.file != nil
	return unix.Dup3(int(target.Fd()), int(os.Stderr.Fd()), 0)
}
