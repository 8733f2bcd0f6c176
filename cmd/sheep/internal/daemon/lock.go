package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lockMeta makes the metadata directory if need be and takes it for this
// process alone, until the file is closed.
func lockMeta(meta string) (*os.File, error) {
	if err := os.MkdirAll(meta, 0o750); err != nil {
		return nil, fmt.Errorf("metadata directory: %w", err)
	}
	f, err := lockFile(filepath.Join(meta, "sheep.lock"))
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("another sheep daemon is using %s; stop it, or choose another directory", meta)
	}
	return f, err
}

// lockFile opens and locks a file; unix.EWOULDBLOCK if somebody has it.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// writePID writes the process id, whole, to a file that stays locked; remove
// takes it away. With an empty path it does nothing.
func writePID(path string) (remove func(), err error) {
	if path == "" {
		return func() {}, nil
	}
	f, err := lockFile(path)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("pid file %s belongs to a running process; choose another with -P", path)
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = fmt.Fprintf(f, "%d\n", os.Getpid())
	}
	if err != nil {
		if f != nil {
			f.Close()
		}
		return nil, fmt.Errorf("pid file: %w", err)
	}
	return func() {
		// First the name, then the lock: nobody may lock a file that is gone.
		os.Remove(path)
		f.Close()
	}, nil
}
