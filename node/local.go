package node

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// localFile lists the sheep of one host for `-c local`: one host:port a line.
// An entry is a hint: whoever reads it dials and finds out. A lock on the file
// orders the writers.
type localFile string

// DefaultLocalFile is where the sheep of one user on one host find each other.
func DefaultLocalFile() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("sheepdog-%d.local", os.Getuid()))
}

// maxLocal bounds what is read, in bytes.
const maxLocal = 1 << 20

// add puts addr at the end of the file, and tells who was there earlier: of any two
// sheep that start at a time one is.
func (f localFile) add(addr string) (earlier []string, err error) {
	err = f.change(func(list []string) []string {
		earlier = slices.DeleteFunc(list, func(a string) bool { return a == addr })
		return append(slices.Clone(earlier), addr)
	})
	return earlier, err
}

// remove takes addr out of the file.
func (f localFile) remove(addr string) error {
	return f.change(func(list []string) []string {
		return slices.DeleteFunc(list, func(a string) bool { return a == addr })
	})
}

// list reads the file; an unreadable one is empty.
func (f localFile) list() []string {
	b, err := os.ReadFile(string(f))
	if err != nil {
		return nil
	}
	return strings.Fields(string(b))
}

func (f localFile) change(edit func([]string) []string) error {
	file, err := os.OpenFile(string(f), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("file of local sheep: %w; name another with -c local:FILE", err)
	}
	defer file.Close()
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", f, err)
	}
	b, err := io.ReadAll(io.LimitReader(file, maxLocal))
	if err != nil {
		return err
	}
	var out bytes.Buffer
	for _, a := range edit(strings.Fields(string(b))) {
		fmt.Fprintln(&out, a)
	}
	_, err = file.WriteAt(out.Bytes(), 0)
	return errors.Join(err, file.Truncate(int64(out.Len())))
}
