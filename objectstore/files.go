package objectstore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"sheepdog"
	"sheepdog/internal/rawio"
)

// fileSystem is the seam between the engine and the host's files: tests put
// faults, crashes and full disks behind it.
type fileSystem interface {
	MkdirAll(dir string) error
	// Open opens a file for reading and writing, creating it if it is missing.
	Open(name string) (file, error)
	// ReadDir lists names of files in dir, ascending.
	ReadDir(dir string) ([]string, error)
	Remove(name string) error
	// SyncDir makes created and removed names of dir durable.
	SyncDir(dir string) error
	// Space tells the size of the file system of dir and what is free in it.
	Space(dir string) (total, free uint64, err error)
}

// file is an open file. ReadAt and WriteAt are complete or return an error.
type file interface {
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	// Sync makes the data, and a size that grew, durable.
	Sync() error
	// PunchHole gives the space of a range back; it reads as zeros.
	PunchHole(off, n int64) error
	Size() (int64, error)
	Close() error
}

// hostFiles is the file system of the host. Without a queue direct writes take a thread.
type hostFiles struct{ direct *directQueue }

// waits implements waitingFiles.
func (h hostFiles) waits() bool { return h.direct.get() != nil }

func (h hostFiles) Close() error { return h.direct.close() }

func (hostFiles) MkdirAll(dir string) error { return os.MkdirAll(dir, 0o750) }

func (h hostFiles) Open(name string) (file, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, err
	}
	return hostFile{File: f, fd: f.Fd(), twin: &directTwin{queue: h.direct}}, nil
}

func (hostFiles) ReadDir(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func (hostFiles) Remove(name string) error { return os.Remove(name) }

func (hostFiles) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (hostFiles) Space(dir string) (total, free uint64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("space of %s: %w", dir, err)
	}
	return st.Blocks * uint64(st.Bsize), st.Bavail * uint64(st.Bsize), nil
}

// hostFile keeps its descriptor, which is valid while the file is open.
type hostFile struct {
	*os.File
	fd   uintptr
	twin *directTwin
}

// TryReadAt implements promptFile.
func (f hostFile) TryReadAt(p []byte, off int64) bool { return rawio.TryReadAt(f.fd, p, off) }

// TryGatherAt implements promptFile.
func (f hostFile) TryGatherAt(pieces [][]byte, off int64) bool {
	return rawio.TryGatherAt(f.fd, pieces, off)
}

// maxPieces bounds what gatherAt writes and scatterAt reads in one call; Linux takes 1024.
const maxPieces = 1024

// gatherAt implements gatherFile.
func (f hostFile) gatherAt(pieces [][]byte, off int64) int {
	if len(pieces) > maxPieces {
		return 0
	}
	n, _ := unix.Pwritev(int(f.fd), pieces, off)
	return max(n, 0)
}

// scatterAt implements scatterFile.
func (f hostFile) scatterAt(pieces [][]byte, off int64) bool {
	if len(pieces) > maxPieces {
		return false
	}
	want := 0
	for _, p := range pieces {
		want += len(p)
	}
	n, err := unix.Preadv(int(f.fd), pieces, off)
	return err == nil && n == want
}

// writeDirect implements directFile.
func (f hostFile) writeDirect(p []byte, off int64) int { return f.twin.write(f.Name(), p, off) }

func (f hostFile) Close() error { return errors.Join(f.twin.close(), f.File.Close()) }

// Lengthen implements lengthener.
func (f hostFile) Lengthen(n int64) error { return f.Truncate(n) }

// Reserve implements reserver.
func (f hostFile) Reserve(n int64) (bool, error) {
	for {
		switch err := unix.Fallocate(int(f.fd), 0, 0, n); err {
		case unix.EINTR:
		case unix.EOPNOTSUPP:
			return false, nil
		default:
			return err == nil, err
		}
	}
}

// beginWrite implements eagerFile. A call that waits for no write takes no error away
// from the next Sync. It may come after Close, of an unplugged disk; then it does
// nothing, or hurries a file that was opened since.
func (f hostFile) beginWrite(off, n int64) {
	_ = unix.SyncFileRange(int(f.fd), off, n, unix.SYNC_FILE_RANGE_WRITE)
}

func (f hostFile) Sync() error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if err != unix.EINTR {
			return err
		}
	}
}

func (f hostFile) PunchHole(off, n int64) error {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil // the space is used again by later writes
	}
	return err
}

func (f hostFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// diskError wraps an error of a file operation in the sentinel on which
// callers act: ErrNoSpace for a full file system, ErrIO for all else.
func diskError(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sheepdog.ErrNoSpace), errors.Is(err, sheepdog.ErrIO):
		return fmt.Errorf("%s: %w", what, err)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EFBIG):
		return fmt.Errorf("%s: %w: %w", what, sheepdog.ErrNoSpace, err)
	}
	return fmt.Errorf("%s: %w: %w", what, sheepdog.ErrIO, err)
}

// readFull reads all of p or fails; bytes past the end of the file are zeros,
// because extent files are as long as the last write made them.
func readFull(f file, p []byte, off int64) error {
	n, err := f.ReadAt(p, off)
	if err == io.EOF {
		clear(p[n:])
		return nil
	}
	return err
}

// lockDir takes the store's directory for this process alone.
func lockDir(dir string) (*os.File, error) {
	name := filepath.Join(dir, "lock")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("%w: another process runs on it", sheepdog.ErrBusy)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}
