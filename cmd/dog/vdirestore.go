package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/cmd/dog/internal/backup"
	"sheepdog/cmd/dog/internal/show"
)

// restoreOptions are those of `vdi restore`.
type restoreOptions struct {
	snapshot api.Selector
	dir      string
	source   string // name in the directory
}

func (d *dog) vdiRestore() *cobra.Command {
	o := &restoreOptions{}
	cmd := &cobra.Command{Use: "restore -s <snapshot> [--dir <directory> [--from <name>]] <vdiname>",
		Short: "Apply a backup from stdin to a snapshot as a new one, or make a VDI of a backup in a directory", Args: arguments(1, 1, "VDI name"), ValidArgsFunction: d.completeVDI,
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) error {
			switch {
			case o.snapshot == "":
				return badArgument("Please specify the '-s' option")
			case o.dir != "":
				return failed(d.restoreFrom(ctx, c, o, args[0]), "restore VDI %s", args[0])
			case isTerminal(d.stdin):
				return badUsage(fmt.Errorf("stdin must be pipe"))
			}
			return failed(d.restoreStream(ctx, c, o, args[0]), "restore VDI %s", args[0])
		})}
	snapshotFlag(cmd, &o.snapshot)
	cmd.Flags().StringVar(&o.dir, "dir", "", "directory or bucket (s3://BUCKET/PREFIX) of backups; a VDI that exists already gets what differs, and a snapshot of what it was")
	cmd.Flags().StringVar(&o.source, "from", "", "name of the VDI in the directory (default: that of the new one)")
	batchFlags(cmd)
	return cmd
}

// restoreStream makes a snapshot of an older one and a stream. What the working
// VDI has is kept: as it is if nothing was written since its last snapshot, else
// in a snapshot, and it goes on from there.
func (d *dog) restoreStream(ctx context.Context, c *api.Client, o *restoreOptions, name string) error {
	base, err := findVDI(ctx, c, name, o.snapshot)
	if err != nil {
		return err
	}
	back, err := d.setAside(ctx, c, name)
	if err != nil {
		return err
	}
	if _, err := c.RollbackVDI(ctx, &api.RollbackRequest{Name: name, Snapshot: o.snapshot}); err != nil {
		return err
	}
	err = d.applyStream(ctx, c, base)
	if err == nil {
		_, err = c.SnapshotVDI(ctx, &api.SnapshotRequest{Name: name, Description: fmt.Sprintf("restored on snapshot %s", o.snapshot)})
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	return errors.Join(err, back(undo))
}

// setAside makes sure that the working VDI's data are in a snapshot, and returns
// what puts it back.
func (d *dog) setAside(ctx context.Context, c *api.Client, name string) (back func(context.Context) error, err error) {
	if _, err := findVDI(ctx, c, name, ""); err != nil {
		if !errors.Is(err, sheepdog.ErrNotFound) {
			return nil, err
		}
		return func(ctx context.Context) error { return c.DeleteVDI(ctx, &api.DeleteRequest{Name: name, Purge: true}) }, nil // only snapshots are left
	}
	tag := "before-restore-" + d.now().UTC().Format(api.NameTime)
	if _, err := c.SnapshotVDI(ctx, &api.SnapshotRequest{Name: name, Tag: tag, OnlyIfChanged: true, Description: "taken before a restore"}); err != nil {
		return nil, err
	}
	vdis, err := c.VDIs(ctx, &api.VDIQuery{Name: name})
	if err != nil {
		return nil, err
	}
	var work, parent *api.VDI
	for i := range vdis {
		if !vdis[i].Snapshot {
			work = &vdis[i]
		}
	}
	for i := range vdis {
		if work != nil && vdis[i].Snapshot && vdis[i].ID == work.ParentID {
			parent = &vdis[i]
		}
	}
	if parent == nil { // nothing was written, but its parent was deleted
		res, err := c.SnapshotVDI(ctx, &api.SnapshotRequest{Name: name, Tag: tag, Description: "taken before a restore"})
		if err != nil {
			return nil, err
		}
		parent = res.Snapshot
	}
	ref := selectorOf(parent)
	return func(ctx context.Context) error {
		_, err := c.RollbackVDI(ctx, &api.RollbackRequest{Name: name, Snapshot: ref})
		return err
	}, nil
}

func (d *dog) applyStream(ctx context.Context, c *api.Client, v *api.VDI) error {
	r := backup.NewReader(d.stdin, 1<<v.BlockSizeShift)
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if errors.Is(err, backup.ErrCorrupted) {
			return fmt.Errorf("The backup file is corrupted: %w", err)
		}
		if err != nil {
			return err
		}
		at := uint64(rec.Index)<<v.BlockSizeShift + uint64(rec.Offset)
		if at > v.SizeBytes || uint64(len(rec.Data)) > v.SizeBytes-at {
			return fmt.Errorf("The backup file is corrupted, or of a larger VDI: it has %d bytes at %d of %d", len(rec.Data), at, v.SizeBytes)
		}
		if _, err := c.WriteVDI(ctx, &api.WriteRequest{Name: v.Name, Offset: at, Length: int64(len(rec.Data))}, bytes.NewReader(rec.Data)); err != nil {
			return err
		}
	}
}

// restoreFrom makes a VDI of a backup; every piece is checked before it is
// written.
func (d *dog) restoreFrom(ctx context.Context, c *api.Client, o *restoreOptions, name string) error {
	store, err := backup.Existing(o.dir, d.getenv)
	if err != nil {
		return err
	}
	source := o.source
	if source == "" {
		source = name
	}
	cl, err := c.Cluster(ctx)
	if err != nil {
		return err
	}
	m, err := findManifest(store, cl.ID.String(), source, o.snapshot)
	if err != nil {
		return err
	}
	switch v, err := findVDI(ctx, c, name, ""); {
	case err == nil:
		return d.restoreOnto(ctx, c, store, m, v)
	case !errors.Is(err, sheepdog.ErrNotFound):
		return err
	}
	options := &importOptions{create: api.CreateRequest{Name: name, SizeBytes: m.SizeBytes, BlockSizeShift: m.BlockSizeShift}}
	return d.filled(ctx, c, options, func(name string) error { return d.writeManifest(ctx, c, store, name, nil, m) })
}

// findManifest finds a backup by its id, or by the tag or number of its snapshot: of
// several, as after a VDI was deleted and made again, this cluster's before those of
// others, and of these the last one.
func findManifest(store *backup.Store, cluster, name string, s api.Selector) (*backup.Manifest, error) {
	list, bad, err := store.List()
	if err != nil {
		return nil, err
	}
	var found *backup.Manifest
	for _, m := range list {
		if m.Name != name {
			continue
		}
		if m.ID() == string(s) {
			return m, nil
		}
		if s.Matches(&api.VDI{Snapshot: true, SnapshotID: m.SnapshotID, Tag: m.Tag}) && (found == nil || m.Cluster == cluster || found.Cluster != cluster) {
			found = m
		}
	}
	if found == nil {
		return nil, errors.Join(fmt.Errorf("the directory has no backup of snapshot %s of VDI %s that can be read", s, name), bad)
	}
	return found, nil
}

// writeManifest makes the VDI what m says; it is what old says now, nil: zeros.
func (d *dog) writeManifest(ctx context.Context, c *api.Client, store *backup.Store, name string, old, m *backup.Manifest) error {
	have := make(map[uint64]backup.Chunk)
	if old != nil {
		for _, ch := range old.Chunks {
			have[ch.Offset] = ch
		}
	}
	bar := d.progress(show.Size)
	defer bar.end()
	for _, ch := range m.Chunks {
		was, ok := have[ch.Offset]
		delete(have, ch.Offset)
		if ok && was == ch {
			continue
		}
		data, err := store.Get(ch)
		if err != nil {
			return err
		}
		// A piece of before the VDI grew is shorter than the one that was there.
		data = append(data, make([]byte, max(0, int(was.Length)-len(data)))...)
		if _, err := c.WriteVDI(ctx, &api.WriteRequest{Name: name, Offset: ch.Offset, Length: int64(len(data))}, bytes.NewReader(data)); err != nil {
			return err
		}
		bar.draw(ch.Offset, m.SizeBytes)
	}
	for _, ch := range have { // was there and is not any more
		if _, err := c.WriteVDI(ctx, &api.WriteRequest{Name: name, Offset: ch.Offset, Length: int64(ch.Length)}, io.LimitReader(zeros{}, int64(ch.Length))); err != nil {
			return err
		}
	}
	return nil
}
