package cluster

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/hashicorp/raft"

	"sheepdog"
	"sheepdog/cluster/state"
)

// scratch is a state machine that nobody watches.
func scratch(m Machine) *fsm {
	return &fsm{state: state.New(), machine: m, requests: newRequests(), pub: newPublished(),
		onGeneration: func(uint64) error { return nil }, failed: func(error) {}, log: slog.New(slog.DiscardHandler)}
}

// Replay runs this node's whole log, committed or not, on a machine that is
// empty, and returns the view at its end: what the cluster would be if it were
// founded anew from here. Nil: it was never formatted.
func (c *Cluster) Replay(m Machine) (*sheepdog.View, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := scratch(m)
	last, err := f.restoreNewest(c.storage.snaps)
	if err != nil {
		return nil, err
	}
	end, err := c.storage.logs.LastIndex()
	if err != nil {
		return nil, err
	}
	for i := last + 1; i <= end; i++ {
		var l raft.Log
		if err := c.storage.logs.GetLog(i, &l); err != nil {
			return nil, fmt.Errorf("replay: %w", err)
		}
		if l.Type == raft.LogCommand {
			f.Apply(&l)
		}
	}
	if f.broken != nil {
		return nil, f.broken
	}
	return f.pub.view(), nil
}

// restoreNewest reads the newest snapshot that can be read and returns its
// index.
func (f *fsm) restoreNewest(snaps raft.SnapshotStore) (uint64, error) {
	list, err := snaps.List()
	if err != nil {
		return 0, fmt.Errorf("list snapshots: %w", err)
	}
	var errs []error
	for _, meta := range list {
		_, r, err := snaps.Open(meta.ID)
		if err == nil {
			err = f.Restore(r)
		}
		if err == nil {
			return meta.Index, nil
		}
		errs = append(errs, err)
	}
	return 0, errors.Join(errs...)
}
