package node

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"strconv"
)

// listenNBD makes the unix socket of NBD. Whoever can open it reads and writes
// every VDI: this user, or a group.
func (c *Config) listenNBD() (net.Listener, error) {
	path, gid, mode := c.socket(), -1, os.FileMode(0o600)
	if c.NBDGroup != "" {
		g, err := user.LookupGroup(c.NBDGroup)
		if err != nil {
			return nil, fmt.Errorf("group of the NBD socket: %w", err)
		}
		if gid, err = strconv.Atoi(g.Gid); err != nil {
			return nil, fmt.Errorf("group %s of the NBD socket has no number: %w", c.NBDGroup, err)
		}
		mode = 0o660
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() != os.ModeSocket {
		return nil, fmt.Errorf("NBD socket: %s exists and is no socket", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("stale NBD socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("NBD socket: %w", err)
	}
	if gid >= 0 {
		err = os.Chown(path, -1, gid)
	}
	if err = errors.Join(err, os.Chmod(path, mode)); err != nil {
		l.Close()
		return nil, fmt.Errorf("group and mode of the NBD socket: %w", err)
	}
	return l, nil
}
