package backup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// space is where a store keeps its files. Names are paths with slashes; files
// appear whole and durable, or not at all. A missing file is fs.ErrNotExist.
type space interface {
	// stat is the size of a file in bytes.
	stat(name string) (int64, error)
	// read reads a file of at most limit bytes; a longer one is ErrCorrupted.
	read(name string, limit int64) ([]byte, error)
	write(name string, data []byte) error
	// list names the files directly below a directory, in order.
	list(dir string) ([]string, error)
	String() string
}

// directory is a space in a file system.
type directory string

func (d directory) String() string { return string(d) }

func (d directory) path(name string) string {
	return filepath.Join(string(d), filepath.FromSlash(name))
}

func (d directory) stat(name string) (int64, error) {
	info, err := os.Stat(d.path(name))
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (d directory) read(name string, limit int64) ([]byte, error) {
	size, err := d.stat(name)
	if err != nil {
		return nil, fmt.Errorf("read backup: %w", err)
	}
	if size > limit {
		return nil, corrupted("%s has %d bytes, at most %d are possible", name, size, limit)
	}
	return os.ReadFile(d.path(name))
}

// write makes a file appear complete and durable, or not at all.
func (d directory) write(name string, data []byte) error {
	path := d.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return fmt.Errorf("backup directory: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write backup: %w", err), os.Remove(f.Name()))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (d directory) list(dir string) ([]string, error) {
	entries, err := os.ReadDir(d.path(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list backups: %w", err)
	}
	var out []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			out = append(out, dir+"/"+e.Name())
		}
	}
	slices.Sort(out)
	return out, nil
}
