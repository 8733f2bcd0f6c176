package cluster

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"

	"sheepdog"
)

// Memory stands for the directory of a node in tests and simulations: it
// outlives the Cluster that uses it. Use it for one Cluster at a time.
type Memory struct {
	log   *raft.InmemStore
	snaps *raft.InmemSnapshotStore
}

// NewMemory makes an empty one.
func NewMemory() *Memory {
	return &Memory{log: raft.NewInmemStore(), snaps: raft.NewInmemSnapshotStore()}
}

// storage is what a node remembers of the cluster over restarts.
type storage struct {
	logs   raft.LogStore
	stable raft.StableStore
	snaps  raft.SnapshotStore
	closer io.Closer // nil in memory
}

const snapshotsKept = 2

// clusterKey names the cluster id in the stable store.
const clusterKey = "cluster"

func openStorage(o *Options) (*storage, error) {
	if o.Dir == "" {
		return &storage{logs: o.Memory.log, stable: o.Memory.log, snaps: o.Memory.snaps}, nil
	}
	dir := filepath.Join(o.Dir, "log")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make raft directory: %w", err)
	}
	snaps, err := raft.NewFileSnapshotStoreWithLogger(o.Dir, snapshotsKept, &raftLogger{log: o.Logger})
	if err != nil {
		return nil, fmt.Errorf("open snapshots in %s: %w", o.Dir, err)
	}
	log, err := openRaftLog(dir)
	if err != nil {
		return nil, err
	}
	return &storage{logs: log, stable: log, snaps: snaps, closer: log}, nil
}

func (s *storage) close() error {
	if s.closer == nil {
		return nil
	}
	return s.closer.Close()
}

// cluster reads the cluster id; zero if the node was never part of one.
func (s *storage) cluster() (id sheepdog.ClusterID, err error) {
	b, err := s.stable.Get([]byte(clusterKey))
	switch {
	case err != nil && err.Error() == "not found": // what Raft's own store in memory says
		return id, nil
	case err != nil:
		return id, fmt.Errorf("read cluster id: %w", err)
	case len(b) == 0:
		return id, nil
	case len(b) != len(id):
		return id, errors.New("the stored cluster id is damaged")
	}
	copy(id[:], b)
	return id, nil
}

func (s *storage) setCluster(id sheepdog.ClusterID) error {
	if err := s.stable.Set([]byte(clusterKey), id[:]); err != nil {
		return fmt.Errorf("store cluster id: %w", err)
	}
	return nil
}
