package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"sheepdog"
	"sheepdog/cluster"
	"sheepdog/nbd"
	"sheepdog/objectstore"
)

// standIn is what a node inherits from one in the same process whose META failed.
// Without META a node has neither the maps of its data nor a log to follow the
// others by, so it leaves. Its guests need nothing of that: their data are on
// other nodes too. A new node takes its place, at its addresses, that stores
// nothing and remembers nothing, and serves them as a gateway until the process
// ends. It has an id of its own, because what the other promised in its name is
// gone with its log.
type standIn struct {
	cause error          // why the other node ended
	doors []net.Listener // see Node.doors
}

func (s *standIn) warning(n *Node) string {
	return fmt.Sprintf("node %s lost %s and goes on as a gateway that stores nothing: %v; mend the disk or give it an empty one, then restart the node", n.self.Addr, n.cfg.Meta, s.cause)
}

// Run starts a node, calls ready once it serves its API, and stops it when ctx
// ends or it is told to. If its META fails, a gateway stands in for it.
func Run(ctx context.Context, cfg Config, ready func()) error {
	n, err := Start(cfg)
	if err != nil {
		return err
	}
	ready()
	for {
		select {
		case <-ctx.Done():
		case <-n.Done():
		}
		if ctx.Err() != nil || !n.replaceable() {
			return n.Close(context.Background())
		}
		if n, err = n.substitute(); err != nil {
			return err
		}
	}
}

// replaceable reports whether this node ended for want of META while other nodes
// are there that serve its guests' data.
func (n *Node) replaceable() bool {
	v := n.cluster.View()
	return errors.Is(context.Cause(n.ctx), errStore) && n.nbd != nil && v != nil && len(v.Members) > 1
}

// substitute closes the node and starts one that stands in for it. NBD clients
// whose requests end within a second stay connected; others connect again, if
// they are told to: nobody knows any more what became of their requests.
func (n *Node) substitute() (*Node, error) {
	cause := context.Cause(n.ctx)
	heir := &standIn{cause: cause}
	cfg := n.cfg
	for _, m := range n.cluster.View().Members {
		if m.ID != n.self.ID {
			cfg.Seeds = append(cfg.Seeds, m.Addr)
		}
	}
	var err error
	if heir.doors, err = dupListeners(n.doors); err != nil {
		return nil, errors.Join(err, n.Close(context.Background()))
	}
	var kept []nbd.Transfer
	n.cfg.Keep = func(all []nbd.Transfer) (err error) {
		kept, err = dupTransfers(all)
		return err
	}
	_ = n.Close(context.Background()) // that is the cause
	cfg.standIn, cfg.Adopted, cfg.Gateway, cfg.VNodes = heir, kept, true, 0
	cfg.Engine, cfg.RaftMemory, cfg.Identity = objectstore.NewMemory(), cluster.NewMemory(), sheepdog.NodeID(random())
	next, err := Start(cfg)
	if err != nil {
		closeDoors(heir.doors)
		for _, t := range kept {
			t.Conn.Close()
		}
		return nil, errors.Join(cause, fmt.Errorf("start a gateway in its place: %w", err))
	}
	next.log.Warn("this node goes on as a gateway that stores nothing", "clients", len(kept), "err", cause)
	return next, nil
}

// filer is what sockets of package net have.
type filer interface{ File() (*os.File, error) }

// dupListeners makes listeners of the same sockets that outlive the others, and
// has those leave the paths of unix sockets alone.
func dupListeners(doors []net.Listener) (out []net.Listener, err error) {
	for _, l := range doors {
		f, ferr := l.(filer).File()
		if ferr != nil {
			closeDoors(out)
			return nil, fmt.Errorf("take %v over: %w", l.Addr(), ferr)
		}
		d, derr := net.FileListener(f)
		f.Close()
		if derr != nil {
			closeDoors(out)
			return nil, fmt.Errorf("take %v over: %w", l.Addr(), derr)
		}
		out = append(out, d)
		if u, ok := l.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false)
		}
	}
	return out, nil
}

func closeDoors(doors []net.Listener) {
	for _, l := range doors {
		l.Close()
	}
}

// dupTransfers makes copies of connections; those of which it cannot are lost.
func dupTransfers(all []nbd.Transfer) (out []nbd.Transfer, err error) {
	for _, t := range all {
		conn, cerr := dupConn(t.Conn)
		if cerr != nil {
			err = errors.Join(err, fmt.Errorf("keep the connection to %s: %w", t.State.Export, cerr))
			continue
		}
		out = append(out, nbd.Transfer{Conn: conn, State: t.State})
	}
	return out, err
}

func dupConn(c net.Conn) (net.Conn, error) {
	has, ok := c.(filer)
	if !ok {
		return nil, errors.New("it has no descriptor")
	}
	f, err := has.File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return net.FileConn(f)
}
