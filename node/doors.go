package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"strconv"

	"sheepdog/nbd"
)

// serveNBD lets NBD clients in.
func (n *Node) serveNBD() error {
	files, err := openFiles()
	if err != nil {
		return err
	}
	clients, greetings := clientLimits(files)
	s, err := nbd.New(nbd.Config{Exports: exports{n}, Log: n.log.With("part", "nbd"), MaxConnections: clients, MaxHandshakes: greetings})
	if err != nil {
		return err
	}
	n.nbd = s
	if n.doors, err = n.openDoors(); err != nil {
		return err
	}
	ctx, cut := context.WithCancel(context.Background())
	n.onClose(cut)
	for _, l := range n.doors {
		n.spawn(func() { s.Serve(ctx, l) })
	}
	n.adoptAll(ctx)
	return nil
}

// openDoors listens for NBD clients, or takes over where another node listened.
func (n *Node) openDoors() (doors []net.Listener, err error) {
	if n.cfg.standIn != nil {
		doors = n.cfg.standIn.doors
	} else if doors, err = n.listenNBD(); err != nil {
		return nil, err
	}
	if len(doors) > 1 {
		n.nbdAddr = doors[1].Addr().String()
	}
	return doors, nil
}

// listenNBD listens at the unix socket and, unless it is turned off, at an address.
func (n *Node) listenNBD() ([]net.Listener, error) {
	unix, err := n.cfg.listenUnix()
	if err != nil || n.cfg.NBDAddr == "" {
		return []net.Listener{unix}, err
	}
	tcp, err := net.Listen("tcp", n.cfg.NBDAddr)
	if err != nil {
		unix.Close()
		return nil, fmt.Errorf("NBD: %w; choose another address with --nbd", err)
	}
	return []net.Listener{unix, tcp}, nil
}

// listenUnix makes the unix socket of NBD. Whoever can open it reads and writes
// every VDI: this user, or a group.
func (c *Config) listenUnix() (net.Listener, error) {
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
