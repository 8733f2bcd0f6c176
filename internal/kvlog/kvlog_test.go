package kvlog

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"syscall"
	"testing"
)

func TestErrorsOfTheDiskAreReported(t *testing.T) {
	var got []error
	var text strings.Builder
	l := Logger{Log: slog.New(slog.NewTextHandler(&text, nil)), Failed: func(err error) { got = append(got, err) }}
	eio := &fs.PathError{Op: "write", Path: "000001.sst", Err: syscall.EIO}
	l.Errorf("Failure while flushing memtable to disk: %v. Retrying...\n", fmt.Errorf("build table: %w", eio))
	l.Warningf("While running doCompact: %v", syscall.EROFS)
	l.Errorf("no room: %v", syscall.ENOSPC)
	l.Errorf("%s %d", "no error at all", 7)
	l.Infof("routine %v", syscall.EIO)
	if len(got) != 2 || !errors.Is(got[0], syscall.EIO) || !errors.Is(got[1], syscall.EROFS) {
		t.Errorf("reported %v, want EIO and EROFS", got)
	}
	if n := strings.Count(text.String(), "badger: "); n != 4 || strings.Contains(text.String(), "routine") {
		t.Errorf("%d lines were logged, want 4 without the routine:\n%s", n, text.String())
	}
	Logger{Failed: func(error) {}}.Errorf("nobody listens: %v", syscall.EIO)
}
