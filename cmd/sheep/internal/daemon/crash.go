package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
)

// crashName is the file in META to which the Go runtime writes how the process died, if
// that was by a panic or a fault; that of the latest such death is kept beside it.
const (
	crashName = "crash"
	lastCrash = "crash.last"
)

// noteCrashes tells how the process before this one died, and has the runtime write
// down how this one does.
//
// A page of a memory map that the disk does not give is SIGBUS. Where it hits a
// goroutine of a library nothing can catch it, and the process dies; started again it
// would die again, when that gets to the page. After such a death all in the mapped
// directories of meta is therefore read once, in the ordinary way, which has errors: the
// result is one that says what is broken and what to do.
func noteCrashes(meta string, mapped []string, log *slog.Logger) error {
	path := filepath.Join(meta, crashName)
	how, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read how the process before this one died: %w", err)
	}
	if len(how) > 0 {
		log.Error("the process before this one crashed", "why", brief(how), "details", filepath.Join(meta, lastCrash))
		if bytes.Contains(how, []byte("SIGBUS")) {
			if err := readable(meta, mapped); err != nil {
				return fmt.Errorf("the disk under META %s fails, of which sheep has died: %w; replace the disk and start this node with an empty META: the others have its data", meta, err)
			}
		}
		if err := os.Rename(path, filepath.Join(meta, lastCrash)); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(debug.SetCrashOutput(f, debug.CrashOptions{}), f.Close()) // the runtime has a copy
}

// brief is what a report of the runtime begins with.
func brief(report []byte) string {
	head, _, _ := strings.Cut(string(report), "\n\n")
	return strings.ReplaceAll(strings.TrimSpace(head), "\n", "; ")
}

// readable reads all files in directories of meta.
func readable(meta string, dirs []string) error {
	for _, dir := range dirs {
		err := filepath.WalkDir(filepath.Join(meta, dir), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || d.IsDir() {
				return err
			}
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.Copy(io.Discard, f)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
