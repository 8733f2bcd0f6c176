// Package kvsync makes durable what was committed to a Badger database whose values are
// all in its tables. Badger can do that itself (SyncWrites), but syncs its value log with
// each commit as well: a flush of the disk's cache for a file in which there is nothing.
//
// Main function: Commits.
package kvsync

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Commits makes every commit that has returned durable. The database in dir is open,
// and writes through memory maps, which share their pages with the files. A commit is in
// the log of a table in memory (*.mem) or, when Badger has removed that, in a table that
// it has synced. As a rule there is one such log.
func Commits(dir string) error {
	logs, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	if err != nil {
		return err
	}
	for _, log := range logs {
		if err := syncFile(log); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("sync %s: %w", log, err)
		}
	}
	return nil
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return err
		}
	}
}
