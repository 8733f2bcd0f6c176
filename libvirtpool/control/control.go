// Package control reaches the cluster for libvirt's pools through the control
// API of a node: VDIs as package storage wants them, and the definitions of
// pools, which live in the cluster's directory of VDIs.
//
// Main types: Store, Definitions.
package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"sync"
	"time"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/libvirtpool/storage"
)

// Client is what is used of the control API; *api.Client is one.
type Client interface {
	VDIs(ctx context.Context, q *api.VDIQuery) ([]api.VDI, error)
	CreateVDI(ctx context.Context, req *api.CreateRequest) (*api.VDI, error)
	SnapshotVDI(ctx context.Context, req *api.SnapshotRequest) (*api.SnapshotResult, error)
	CloneVDI(ctx context.Context, req *api.CloneRequest) (*api.VDI, error)
	DeleteVDI(ctx context.Context, req *api.DeleteRequest) error
	RollbackVDI(ctx context.Context, req *api.RollbackRequest) (*api.VDI, error)
	RenameVDI(ctx context.Context, req *api.RenameRequest) error
	ResizeVDI(ctx context.Context, req *api.ResizeRequest) (*api.VDI, error)
	ReadVDI(ctx context.Context, r *api.ReadRequest, w io.Writer) (int64, error)
	WriteVDI(ctx context.Context, w *api.WriteRequest, r io.Reader) (int64, error)
	Capacities(ctx context.Context) (*api.Capacities, error)
	Cluster(ctx context.Context) (*api.Cluster, error)
}

// Store is the VDIs of a cluster. It is safe for concurrent use.
type Store struct {
	c Client

	mu       sync.Mutex
	capacity storage.Capacity // as asked last
	asked    time.Time
}

var _ storage.Store = (*Store)(nil)

// NewStore makes a store of the cluster that c speaks to.
func NewStore(c Client) *Store { return &Store{c: c} }

// List is all working VDIs.
func (s *Store) List(ctx context.Context) ([]storage.VDI, error) {
	return s.list(ctx, "")
}

// Find is one working VDI.
func (s *Store) Find(ctx context.Context, name string) (storage.VDI, error) {
	list, err := s.list(ctx, name)
	if err != nil {
		return storage.VDI{}, err
	}
	if len(list) == 0 {
		return storage.VDI{}, fmt.Errorf("VDI %q: %w", name, sheepdog.ErrNotFound)
	}
	return list[0], nil
}

func (s *Store) list(ctx context.Context, name string) ([]storage.VDI, error) {
	ctx, cancel := patient(ctx)
	defer cancel()
	all, err := s.c.VDIs(ctx, &api.VDIQuery{Name: name, Brief: true})
	if err != nil {
		return nil, err
	}
	snaps := map[string][]string{}
	for i := range all {
		if v := &all[i]; v.Snapshot {
			snaps[v.Name] = append(snaps[v.Name], selector(v))
		}
	}
	var out []storage.VDI
	for i := range all {
		if v := &all[i]; !v.Snapshot {
			out = append(out, storage.VDI{Name: v.Name, Size: v.SizeBytes, Snapshots: snaps[v.Name]})
		}
	}
	return out, nil
}

// Allocated is what a VDI holds: all nodes are asked.
func (s *Store) Allocated(ctx context.Context, name string) (uint64, error) {
	ctx, cancel := patient(ctx)
	defer cancel()
	all, err := s.c.VDIs(ctx, &api.VDIQuery{Name: name})
	if err != nil {
		return 0, err
	}
	for i := range all {
		if v := &all[i]; !v.Snapshot {
			return min(v.HeldBytes, v.SizeBytes), nil
		}
	}
	return 0, fmt.Errorf("VDI %q: %w", name, sheepdog.ErrNotFound)
}

// selector is what names a snapshot in requests.
func selector(v *api.VDI) string {
	if v.Tag != "" {
		return v.Tag
	}
	return strconv.FormatUint(uint64(v.SnapshotID), 10)
}

// Create makes an empty VDI.
func (s *Store) Create(ctx context.Context, name string, size uint64) error {
	ctx, cancel := decisive(ctx)
	defer cancel()
	_, err := s.c.CreateVDI(ctx, &api.CreateRequest{Name: name, SizeBytes: size})
	return err
}

// Clone makes a VDI of what the source holds now, in one commit. The time does not
// depend on the size.
func (s *Store) Clone(ctx context.Context, source, name string, size uint64) (uint64, error) {
	ctx, cancel := decisive(ctx)
	defer cancel()
	v, err := s.c.CloneVDI(ctx, &api.CloneRequest{Source: source, Name: name, SizeBytes: size})
	if err != nil {
		return 0, err
	}
	return v.SizeBytes, nil
}

// PlaceFor is the name under which a VDI is to be filled.
func (s *Store) PlaceFor(ctx context.Context, name string) (string, error) {
	ctx, cancel := patient(ctx)
	defer cancel()
	return api.PlaceFor(ctx, s.c, name, time.Now())
}

// Rename gives a VDI another name.
func (s *Store) Rename(ctx context.Context, name, newName string) error {
	ctx, cancel := decisive(ctx)
	defer cancel()
	return s.c.RenameVDI(ctx, &api.RenameRequest{Name: name, NewName: newName})
}

// Delete removes a VDI and its snapshots; the working VDI goes first, so that
// nothing can be attached any more.
func (s *Store) Delete(ctx context.Context, name string) error {
	v, err := s.Find(ctx, name)
	if err != nil {
		return err
	}
	if err := erase(ctx, s.c, &api.DeleteRequest{Name: name}); err != nil {
		return err
	}
	for _, snapshot := range v.Snapshots {
		err := s.DeleteSnapshot(ctx, name, snapshot)
		if err != nil && !errors.Is(err, sheepdog.ErrNotFound) {
			return fmt.Errorf("the VDI is deleted, but not its snapshot %q (dog vdi delete -s does it): %w", snapshot, err)
		}
	}
	return nil
}

// erase deletes a VDI or snapshot.
func erase(ctx context.Context, c Client, req *api.DeleteRequest) error {
	ctx, cancel := decisive(ctx)
	defer cancel()
	return c.DeleteVDI(ctx, req)
}

// Resize makes a VDI larger.
func (s *Store) Resize(ctx context.Context, name string, size uint64) error {
	ctx, cancel := decisive(ctx)
	defer cancel()
	_, err := s.c.ResizeVDI(ctx, &api.ResizeRequest{Name: name, SizeBytes: size})
	return err
}

// Snapshot freezes what a VDI holds now under a tag.
func (s *Store) Snapshot(ctx context.Context, name, tag string) error {
	ctx, cancel := decisive(ctx)
	defer cancel()
	_, err := s.c.SnapshotVDI(ctx, &api.SnapshotRequest{Name: name, Tag: tag})
	return err
}

// DeleteSnapshot deletes a snapshot by tag or number.
func (s *Store) DeleteSnapshot(ctx context.Context, name, snapshot string) error {
	return erase(ctx, s.c, &api.DeleteRequest{Name: name, Snapshot: api.Selector(snapshot)})
}

// Rollback puts a VDI back to a snapshot.
func (s *Store) Rollback(ctx context.Context, name, snapshot string) error {
	ctx, cancel := decisive(ctx)
	defer cancel()
	_, err := s.c.RollbackVDI(ctx, &api.RollbackRequest{Name: name, Snapshot: api.Selector(snapshot)})
	return err
}

// Read writes n bytes of a VDI to w.
func (s *Store) Read(ctx context.Context, name string, off, n uint64, w io.Writer) error {
	if n > math.MaxInt64 {
		return fmt.Errorf("a read of %d bytes: %w", n, sheepdog.ErrInvalid)
	}
	ctx, d := watch(ctx)
	defer d.stop()
	_, err := s.c.ReadVDI(ctx, &api.ReadRequest{Name: name, Offset: off, Length: int64(n)}, watchedWriter{d, w})
	return err
}

// Write writes all of r to a VDI.
func (s *Store) Write(ctx context.Context, name string, off uint64, r io.Reader) error {
	ctx, d := watch(ctx)
	defer d.stop()
	_, err := s.c.WriteVDI(ctx, &api.WriteRequest{Name: name, Offset: off, Length: -1}, watchedReader{d, r})
	return err
}
