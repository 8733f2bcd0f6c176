package cluster

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
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
	opts   *Options
	dir    string // empty in memory
	logs   raft.LogStore
	stable raft.StableStore
	snaps  raft.SnapshotStore
	closer io.Closer // nil in memory
}

const snapshotsKept = 2

// Names in the stable store.
const (
	clusterKey  = "cluster"  // the cluster id
	formerKey   = "former"   // ids that the cluster had before, newest first
	pendingKey  = "pending"  // a foundation, see refound.go: its id, then the former ones
	givenUpKey  = "given up" // the id of the cluster that went on without this node
	nextSuffix  = ".next"    // of the directory that takes the place of another
	priorSuffix = ".former"  // of the one whose place was taken
)

func openStorage(o *Options) (*storage, error) {
	if o.Dir == "" {
		return &storage{opts: o, logs: o.Memory.log, stable: o.Memory.log, snaps: o.Memory.snaps}, nil
	}
	if err := finishRenewal(o.Dir); err != nil {
		return nil, fmt.Errorf("raft directory: %w", err)
	}
	return openFiles(o, o.Dir)
}

// openFiles opens what is kept in a directory.
func openFiles(o *Options, at string) (*storage, error) {
	dir := filepath.Join(at, "log")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make raft directory: %w", err)
	}
	snaps, err := raft.NewFileSnapshotStoreWithLogger(at, snapshotsKept, &raftLogger{log: o.Logger})
	if err != nil {
		return nil, fmt.Errorf("open snapshots in %s: %w", at, err)
	}
	log, err := openRaftLog(dir, o.OnFailed)
	if err != nil {
		return nil, err
	}
	s := &storage{opts: o, dir: at, logs: log, stable: log, snaps: snaps, closer: log}
	if err := s.checkMember(); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// startAnew is what to do with a node whose log is not what it was: what it voted for
// and acknowledged is unknown, so it must not be the node that it was.
const startAnew = "start the node with an empty META and empty disks: it comes back as a new one, and recovers from the others"

// memberFile is beside the log of a node that has been in a cluster, which the log
// knows as well. An empty log without it is that of a new node.
const memberFile = "member"

// checkMember refuses a log that has been emptied.
func (s *storage) checkMember() error {
	id, err := s.cluster()
	if err != nil {
		return err
	}
	path := filepath.Join(s.dir, memberFile)
	if !id.IsZero() {
		_ = s.noteMember() // a release that did not know the file made the log; on a full disk it stays as it is
		return nil
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fmt.Errorf("the Raft log in %s was that of a member of a cluster, and is empty; %s: %w", s.dir, startAnew, sheepdog.ErrIO), err)
	}
	return nil
}

// noteMember makes the file durable.
func (s *storage) noteMember() error {
	if s.dir == "" {
		return nil
	}
	path := filepath.Join(s.dir, memberFile)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	d, err := os.Open(s.dir)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	return errors.Join(f.Close(), d.Sync(), d.Close())
}

func (s *storage) close() error {
	if s.closer == nil {
		return nil
	}
	return s.closer.Close()
}

// cluster reads the cluster id; zero if the node was never part of one.
func (s *storage) cluster() (id sheepdog.ClusterID, err error) { return s.id(clusterKey) }

func (s *storage) setCluster(id sheepdog.ClusterID) error {
	if err := s.set(clusterKey, id[:]); err != nil {
		return err
	}
	return s.noteMember()
}

// get reads a named fact; nil if there is none.
func (s *storage) get(key string) ([]byte, error) {
	b, err := s.stable.Get([]byte(key))
	if err != nil && err.Error() != "not found" { // what Raft's own store in memory says
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return b, nil
}

func (s *storage) set(key string, value []byte) error {
	if err := s.stable.Set([]byte(key), value); err != nil {
		return fmt.Errorf("store %s: %w", key, err)
	}
	return nil
}

func (s *storage) id(key string) (id sheepdog.ClusterID, err error) {
	b, err := s.get(key)
	if err == nil && len(b) != 0 && len(b) != len(id) {
		err = fmt.Errorf("the stored %s is damaged", key)
	}
	copy(id[:], b)
	return id, err
}

// size is how many nodes Raft's newest configuration on disk has; 0: there is none.
// Until a leader is found nothing else tells how large the cluster is.
func (s *storage) size() (int, error) {
	n, taken := 0, uint64(0)
	snaps, err := s.snaps.List()
	if err != nil {
		return 0, fmt.Errorf("list snapshots: %w", err)
	}
	if len(snaps) > 0 { // the newest is the first
		n, taken = len(snaps[0].Configuration.Servers), snaps[0].Index
	}
	last, err := s.logs.LastIndex()
	if err != nil {
		return 0, fmt.Errorf("read the end of the log: %w", err)
	}
	for ; last > taken; last-- {
		var l raft.Log
		if err := s.logs.GetLog(last, &l); err != nil {
			return 0, fmt.Errorf("read entry %d of the log: %w", last, err)
		}
		if l.Type == raft.LogConfiguration {
			return len(raft.DecodeConfiguration(l.Data).Servers), nil
		}
	}
	return n, nil
}
