package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/hashicorp/raft"

	"sheepdog"
)

// renew gives up the log and starts an empty one for a cluster of another id.
// On disk the former one is kept aside, with a name of its own, until the next
// time. A crash leaves the one or the other.
func (s *storage) renew(id sheepdog.ClusterID, former formerIDs) error {
	if s.closer == nil {
		m := s.opts.Memory
		m.log, m.snaps = raft.NewInmemStore(), raft.NewInmemSnapshotStore()
		s.logs, s.stable, s.snaps = m.log, m.log, m.snaps
		return s.found(id, former)
	}
	next := s.opts.Dir + nextSuffix
	if err := os.RemoveAll(next); err != nil {
		return err
	}
	if err := os.Mkdir(next, 0o700); err != nil {
		return err
	}
	fresh, err := openFiles(s.opts, next)
	if err != nil {
		return err
	}
	if err := errors.Join(fresh.found(id, former), fresh.close(), s.close()); err != nil {
		return err
	}
	s.closer = nil // until the new one is open, there is nothing to close
	if err := os.RemoveAll(s.opts.Dir + priorSuffix); err != nil {
		return err
	}
	if err := os.Rename(s.opts.Dir, s.opts.Dir+priorSuffix); err != nil {
		return err
	}
	opened, err := openStorage(s.opts)
	if err != nil {
		return err
	}
	*s = *opened
	return nil
}

// finishRenewal puts the new directory into the place of the old one once that
// has been moved aside; before, the new one may be incomplete and goes.
func finishRenewal(dir string) error {
	next := dir + nextSuffix
	_, err := os.Stat(dir)
	switch {
	case err == nil:
		return os.RemoveAll(next)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := os.Rename(next, dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// found notes the id of the cluster that this log is of from now on.
func (s *storage) found(id sheepdog.ClusterID, former formerIDs) error {
	if err := s.set(formerKey, former.encode()); err != nil {
		return err
	}
	if err := s.setCluster(id); err != nil {
		return err
	}
	return s.set(pendingKey, nil)
}

// position is where the log ends.
func (s *storage) position() (p Position, err error) {
	last, err := s.logs.LastIndex()
	if err != nil {
		return p, fmt.Errorf("read the end of the log: %w", err)
	}
	if last > 0 {
		var l raft.Log
		if err := s.logs.GetLog(last, &l); err != nil {
			return p, fmt.Errorf("read the end of the log: %w", err)
		}
		p = Position{Index: l.Index, Term: l.Term, Time: l.AppendedAt}
	}
	snaps, err := s.snaps.List()
	if err != nil {
		return p, fmt.Errorf("list snapshots: %w", err)
	}
	for _, m := range snaps {
		if at := (Position{Index: m.Index, Term: m.Term}); p.before(at) {
			p = at
		}
	}
	return p, nil
}
