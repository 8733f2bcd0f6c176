// Package kvsync makes durable what was committed to a Badger database whose values are
// all in its tables. Badger can do that itself (SyncWrites), but syncs its value log with
// each commit as well: a flush of the disk's cache for a file in which there is nothing.
//
// Main type: Syncer.
package kvsync

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// Syncer syncs the database in a directory. It is safe for concurrent use.
type Syncer struct {
	dir  string
	mu   sync.Mutex
	lost error // why a sync failed
}

// New is for the database in dir, of which there is to be one Syncer.
func New(dir string) *Syncer { return &Syncer{dir: dir} }

// Commits makes every commit that has returned durable. The database is open,
// and writes through memory maps, which share their pages with the files. A commit is in
// the log of a table in memory (*.mem) or, when Badger has removed that, in a table that
// it has synced. As a rule there is one such log. The host tells of what it could not write
// once, to one of those who sync a file: so one does at a time, and after a failure all fail.
func (s *Syncer) Commits() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost == nil {
		s.lost = syncLogs(s.dir)
	}
	return s.lost
}

func syncLogs(dir string) error {
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
