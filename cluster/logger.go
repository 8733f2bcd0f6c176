package cluster

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// raftLogger lets the Raft library log through slog.
type raftLogger struct {
	log  *slog.Logger
	name string
	args []any
}

var _ hclog.Logger = (*raftLogger)(nil)

func (l *raftLogger) Log(level hclog.Level, msg string, args ...any) {
	at := slogLevel(level)
	for _, often := range repeated {
		if strings.HasPrefix(msg, often) {
			at = slog.LevelDebug
		}
	}
	if !l.log.Enabled(context.Background(), at) {
		return
	}
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			if format, ok := f[0].(string); ok {
				args[i] = fmt.Sprintf(format, f[1:]...)
			}
		}
	}
	l.log.Log(context.Background(), at, "raft: "+msg, args...)
}

// repeated begin messages that Raft logs several times a second for as long as
// another node is down.
var repeated = [...]string{
	"failed to heartbeat to", "failed to appendEntries to", "failed to contact",
	"failed to make requestVote RPC", "failed to make requestPreVote RPC", "failed to decode incoming command",
	"failed to pipeline appendEntries", "failed to start pipeline replication", "Election timeout reached",
	"rejecting vote request", "rejecting pre-vote request", "failed to flush response",
	"failed to get previous log", // a notice that came before the entry
}

func slogLevel(level hclog.Level) slog.Level {
	switch level {
	case hclog.Error:
		return slog.LevelError
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Info:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

func (l *raftLogger) Trace(string, ...any)          {}
func (l *raftLogger) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }
func (l *raftLogger) Info(msg string, args ...any)  { l.Log(hclog.Info, msg, args...) }
func (l *raftLogger) Warn(msg string, args ...any)  { l.Log(hclog.Warn, msg, args...) }
func (l *raftLogger) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }
func (l *raftLogger) IsTrace() bool                 { return false }
func (l *raftLogger) IsDebug() bool                 { return l.enabled(slog.LevelDebug) }
func (l *raftLogger) IsInfo() bool                  { return l.enabled(slog.LevelInfo) }
func (l *raftLogger) IsWarn() bool                  { return l.enabled(slog.LevelWarn) }
func (l *raftLogger) IsError() bool                 { return l.enabled(slog.LevelError) }
func (l *raftLogger) ImpliedArgs() []any            { return l.args }
func (l *raftLogger) Name() string                  { return l.name }
func (l *raftLogger) SetLevel(hclog.Level)          {}
func (l *raftLogger) GetLevel() hclog.Level         { return hclog.Debug }
func (l *raftLogger) ResetNamed(name string) hclog.Logger {
	return l.Named(name)
}

func (l *raftLogger) enabled(level slog.Level) bool {
	return l.log.Enabled(context.Background(), level)
}

func (l *raftLogger) With(args ...any) hclog.Logger {
	return &raftLogger{log: l.log.With(args...), name: l.name, args: append(l.args[:len(l.args):len(l.args)], args...)}
}

func (l *raftLogger) Named(name string) hclog.Logger {
	return &raftLogger{log: l.log, name: name, args: l.args}
}

func (l *raftLogger) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return log.New(l.StandardWriter(nil), "", 0)
}

func (l *raftLogger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer {
	return &lineLogger{log: l.log, prefix: "raft: "}
}

// lineLogger turns lines of the form "[LEVEL] package: text" into records.
// What a library calls an error of one probe is daily life of a cluster, so
// nothing is logged above lowered.
type lineLogger struct {
	log    *slog.Logger
	prefix string
	cut    string // prefix of the text that is dropped
}

func (w *lineLogger) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	level := slog.LevelDebug
	if name, rest, ok := strings.Cut(strings.TrimPrefix(text, "["), "] "); ok && strings.HasPrefix(text, "[") {
		text = rest
		switch name {
		case "WARN", "ERR", "ERROR":
			level = slog.LevelInfo
		}
	}
	w.log.Log(context.Background(), level, w.prefix+strings.TrimPrefix(text, w.cut))
	return len(line), nil
}
