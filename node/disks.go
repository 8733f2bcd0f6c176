package node

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/objectstore"
)

// diskFailed is told by the store of a disk that failed to keep data.
func (n *Node) diskFailed(dir string, _ error) {
	n.doubt()
	select {
	case n.badDisks <- dir:
	default: // as many failures wait: the node has no disks left to speak of
	}
}

// doubt has nobody count on what this node holds, until it is demoted.
func (n *Node) doubt() {
	if c := n.joined.Load(); c != nil && c.View() != nil {
		c.Doubt()
	}
}

// storeFailed is told by the store, or by the Raft log, that it is out of service
// for good: the node leaves, and the others go on without it.
func (n *Node) storeFailed(err error) {
	n.log.Error("META failed; this node leaves", "meta", n.cfg.Meta, "err", err)
	n.stop(fmt.Errorf("%w: %w", errStore, err))
}

// Bounds of dealing with a failed disk.
const (
	loseRetry   = time.Second
	demoteLimit = 30 * time.Second
)

// loseDisks deals with disks that failed, one after the other.
func (n *Node) loseDisks() {
	for {
		var dir string
		select {
		case dir = <-n.badDisks:
		case <-n.ctx.Done():
			return
		}
		for n.ctx.Err() == nil {
			err := n.loseDisk(dir)
			if err == nil {
				break
			}
			n.log.Error("failed disk is not dealt with yet; flushes wait", "disk", dir, "err", err)
			select {
			case <-time.After(loseRetry):
			case <-n.ctx.Done():
			}
		}
	}
}

// loseDisk gives a failed disk up. First what it held gets older than anything;
// then this node stops acting, so that recovery fills it again on its other
// disks; only then flushes do without the disk, for what they would have made
// durable counts on this node no more.
func (n *Node) loseDisk(dir string) error {
	if err := n.store.LoseDisk(dir); err != nil {
		return err
	}
	if err := n.demote(); err != nil {
		return err
	}
	if err := n.store.RetireDisk(dir); err != nil {
		return err
	}
	n.log.Warn("failed disk was given up; its objects are fetched from other nodes", "disk", dir)
	n.cluster.RefreshHints()
	return nil
}

// demote has this node stop acting where others do.
func (n *Node) demote() error {
	if n.cluster.View() == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(n.ctx, demoteLimit)
	defer cancel()
	return n.cluster.Demote(ctx)
}

// failedDisks counts the disks of this node that failed or are missing.
func (n *Node) failedDisks() uint8 {
	if n.cfg.standIn != nil {
		return 1
	}
	if n.store == nil {
		return 0
	}
	disks, err := n.store.Disks()
	if err != nil {
		return 0
	}
	count := uint8(0)
	for _, d := range disks {
		if (d.State == objectstore.DiskFailed || d.State == objectstore.DiskMissing) && count < 255 {
			count++
		}
	}
	return count
}

// disks lists the disks of this node. The log and the metadata count where there
// is one disk.
func (n *Node) disks() ([]api.Disk, error) {
	if n.store == nil {
		u, err := n.engine.Usage()
		return []api.Disk{{Path: filepath.Join(n.cfg.Meta, "obj"), UsedBytes: u.Used, FreeBytes: u.Free, State: string(objectstore.DiskOK)}}, err
	}
	disks, err := n.store.Disks()
	if err != nil {
		return nil, err
	}
	out := make([]api.Disk, len(disks))
	for i, d := range disks {
		out[i] = api.Disk{Path: d.Dir, UsedBytes: d.Used, FreeBytes: d.Free, State: string(d.State)}
	}
	if len(out) == 1 && disks[0].State == objectstore.DiskOK {
		u, err := n.engine.Usage()
		if err != nil {
			return nil, err
		}
		out[0].UsedBytes, out[0].FreeBytes = u.Used, u.Free
	}
	return out, nil
}

// handleDisks answers methodDisks.
func (n *Node) handleDisks([]byte) ([]byte, error) {
	disks, err := n.disks()
	if err != nil {
		return nil, err
	}
	return json.Marshal(disks)
}

// PlugDisks adds disks to this node.
func (b backend) PlugDisks(ctx context.Context, req *api.DisksRequest) error {
	return b.n.changeDisks(ctx, req, (*objectstore.Disk).Plug)
}

// UnplugDisks takes disks out of this node, after what they hold was moved to
// its other disks.
func (b backend) UnplugDisks(ctx context.Context, req *api.DisksRequest) error {
	return b.n.changeDisks(ctx, req, (*objectstore.Disk).Unplug)
}

// changeDisks goes on when the client leaves: half a change helps nobody.
func (n *Node) changeDisks(ctx context.Context, req *api.DisksRequest, change func(*objectstore.Disk, string) error) error {
	if n.store == nil || n.self.VNodes == 0 {
		return fmt.Errorf("node %s stores nothing: %w", n.self.Addr, sheepdog.ErrInvalid)
	}
	done := make(chan error, 1)
	n.spawn(func() {
		for _, dir := range req.Paths {
			if err := change(n.store, dir); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// raftDir is the directory in META with the Raft log.
const raftDir = "raft"

// MappedDirs are the directories in META that Badger reads through memory maps.
func MappedDirs() []string { return []string{objectstore.MetaDir, raftDir} }
