package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// listen makes a unix socket that nobody can open before it has its mode and
// group.
func listen(path, mode, group string) (net.Listener, error) {
	bits, err := strconv.ParseUint(mode, 8, 9)
	if err != nil {
		return nil, fmt.Errorf("mode %q of the socket: want octal digits such as 0660", mode)
	}
	gid := -1
	if group != "" {
		g, err := user.LookupGroup(group)
		if err != nil {
			return nil, fmt.Errorf("group of the socket: %w", err)
		}
		if gid, err = strconv.Atoi(g.Gid); err != nil {
			return nil, fmt.Errorf("group %s of the socket has no number: %w", group, err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of the socket: %w", err)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	old := unix.Umask(0o777) // for the moment between bind and chmod; nothing else runs yet
	l, err := net.Listen("unix", path)
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if gid >= 0 {
		err = os.Chown(path, -1, gid)
	}
	if err = errors.Join(err, os.Chmod(path, fs.FileMode(bits))); err != nil {
		l.Close()
		return nil, fmt.Errorf("set mode and group of the socket: %w", err)
	}
	return l, nil
}

// removeStale removes a socket that a process left behind; one that answers, or
// any other file, stays.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the socket's path: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists and is no socket; remove it or give another --listen", path)
	}
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return fmt.Errorf("%s is served by another process; stop it or give another --listen", path)
	}
	return os.Remove(path)
}
