package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"sheepdog/api"
	"sheepdog/cmd/dog/internal/backup"
)

func (d *dog) clusterSnapshot() *cobra.Command {
	return d.subgroup("snapshot", "Snapshots of the whole cluster, in a directory", d.snapshotSave(), d.snapshotList(), d.snapshotShow(), d.snapshotLoad())
}

// manyArguments wants at least some arguments.
func manyArguments(least int, names ...string) cobra.PositionalArgs {
	return arguments(least, 1<<20, names...)
}

func (d *dog) snapshotSave() *cobra.Command {
	cmd := &cobra.Command{Use: "save <tag> <path> [<vdiname>...]", Short: "Keep all snapshots, or those of some VDIs, in a directory", Args: manyArguments(2, "tag", "path"),
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) error {
			tag, path, names := args[0], args[1], args[2:]
			if tag == "" || tag[0] >= '0' && tag[0] <= '9' {
				return badArgument("Tag should not start with number.")
			}
			if err := d.saveCluster(ctx, c, tag, path, names); err != nil {
				return &failure{code: exitSystem, err: fmt.Errorf("%w\nFail to save snapshot to path: %s.", err, path)}
			}
			return nil
		})}
	cmd.Flags().BoolP("multithread", "m", false, "ignored")
	return cmd
}

func (d *dog) saveCluster(ctx context.Context, c *api.Client, tag, path string, names []string) error {
	cl, err := c.Cluster(ctx)
	if err != nil {
		return err
	}
	vdis, err := c.VDIs(ctx, &api.VDIQuery{})
	if err != nil {
		return err
	}
	vdis = slices.DeleteFunc(vdis, func(v api.VDI) bool { return !v.Snapshot || len(names) > 0 && !slices.Contains(names, v.Name) })
	if len(vdis) == 0 {
		return fmt.Errorf("Cannot execute. It may be caused by:\n1: there is no snapshot in the cluster (working VDIs are not saved)\n2: the VDIs that were named have no snapshot")
	}
	store, err := backup.Open(path, d.getenv)
	if err != nil {
		return err
	}
	sets, err := store.Sets()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(sets, func(s *backup.Set) bool { return s.Tag == tag }) {
		return fmt.Errorf("Snapshot tag has already been used for another snapshot, please, use another one.")
	}
	slices.SortStableFunc(vdis, func(a, b api.VDI) int {
		if n := strings.Compare(a.Name, b.Name); n != 0 {
			return n
		}
		return int(int64(a.SnapshotID) - int64(b.SnapshotID))
	})
	set := &backup.Set{Tag: tag, Time: d.now(), Copies: cl.Config.Policy.String()}
	for i := range vdis {
		r, err := d.saveSnapshot(ctx, c, store, cl.ID.String(), &vdis[i])
		if err != nil {
			return fmt.Errorf("save snapshot %d of VDI %s: %w", vdis[i].SnapshotID, vdis[i].Name, err)
		}
		set.Backups = append(set.Backups, r.ID)
	}
	return store.SaveSet(set)
}

func (d *dog) snapshotList() *cobra.Command {
	return &cobra.Command{Use: "list <path>", Short: "List what was saved in a directory", Args: arguments(1, 1, "path"),
		RunE: func(_ *cobra.Command, args []string) error {
			store, err := backup.Existing(args[0], d.getenv)
			if err != nil {
				return failed(err, "list snapshots")
			}
			sets, err := store.Sets()
			if err != nil {
				return failed(err, "list snapshots")
			}
			if d.json() {
				return d.document(map[string]any{"version": api.Version, "sets": append([]*backup.Set{}, sets...)})
			}
			out := "Index\t\tTag\t\tSnapshot Time\n"
			for _, s := range sets {
				out += fmt.Sprintf("%d\t\t%s\t\t%s\n", s.Index, s.Tag, s.Time.In(d.zone).Format("Mon Jan _2 15:04:05 2006"))
			}
			return d.print(out)
		}}
}

func (d *dog) snapshotShow() *cobra.Command {
	return &cobra.Command{Use: "show <tag or index> <path>", Short: "List the snapshots of VDIs in what was saved", Args: arguments(2, 2, "tag or index", "path"),
		RunE: func(_ *cobra.Command, args []string) error {
			_, list, err := d.savedSet(args[1], args[0])
			if err != nil {
				return failed(err, "show snapshot %s", args[0])
			}
			if d.json() {
				for _, m := range list {
					m.Chunks = []backup.Chunk{}
				}
				return d.document(map[string]any{"version": api.Version, "backups": list})
			}
			for i, m := range list {
				if err := d.print(fmt.Sprintf("%d. VDI id: %d, name: %s, tag: %s\n", i+1, m.SnapshotID, m.Name, m.Tag)); err != nil {
					return err
				}
			}
			return nil
		}}
}

// savedSet finds a set and loads its manifests.
func (d *dog) savedSet(path, ref string) (*backup.Store, []*backup.Manifest, error) {
	store, err := backup.Existing(path, d.getenv)
	if err != nil {
		return nil, nil, err
	}
	set, err := store.Set(ref)
	if err != nil {
		return nil, nil, err
	}
	var list []*backup.Manifest
	for _, id := range set.Backups {
		m, err := store.Load(id)
		if err != nil {
			return nil, nil, err
		}
		list = append(list, m)
	}
	return store, list, nil
}

func (d *dog) snapshotLoad() *cobra.Command {
	o := &formatOptions{store: "plain", sync: "flush"}
	cmd := &cobra.Command{Use: "load <tag or index> <path> [<vdiname>...]", Short: "Format the cluster and make the saved VDIs and snapshots", Args: manyArguments(2, "tag or index", "path"),
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) error {
			if err := d.loadCluster(ctx, c, o, args); err != nil {
				var f *failure
				if errors.As(err, &f) {
					return err
				}
				return &failure{code: exitSystem, err: failed(err, "load snapshot %s", args[0])}
			}
			return nil
		})}
	cmd.Flags().StringVarP(&o.copies, "copies", "c", "", "default redundancy of the new cluster (default: as it was)")
	cmd.Flags().BoolVarP(&o.force, "force", "f", false, "do not ask before deleting data")
	cmd.Flags().BoolP("multithread", "m", false, "ignored")
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "only say what would be done, and check the backup")
	return cmd
}

// loadCluster first reads and checks all that it will write: nothing is
// formatted for a damaged backup.
func (d *dog) loadCluster(ctx context.Context, c *api.Client, o *formatOptions, args []string) error {
	store, list, err := d.savedSet(args[1], args[0])
	if err != nil {
		return err
	}
	if names := args[2:]; len(names) > 0 {
		list = slices.DeleteFunc(list, func(m *backup.Manifest) bool { return !slices.Contains(names, m.Name) })
	}
	if len(list) == 0 {
		return fmt.Errorf("nothing was saved of these VDIs")
	}
	for _, m := range list {
		if err := store.Verify(m); err != nil {
			return err
		}
	}
	if o.copies == "" {
		set, err := store.Set(args[0])
		if err != nil {
			return err
		}
		o.copies = set.Copies
	}
	o.shift = int(list[0].BlockSizeShift)
	if err := d.format(ctx, c, o); err != nil || o.dryRun {
		return err
	}
	return d.loadAll(ctx, c, store, list)
}

// loadAll makes VDIs of manifests that are in order of names and snapshots; a
// snapshot shares with the one before what did not change.
func (d *dog) loadAll(ctx context.Context, c *api.Client, store *backup.Store, list []*backup.Manifest) error {
	var last *backup.Manifest
	for _, m := range list {
		var err error
		if last != nil && last.Name != m.Name {
			last = nil
		}
		switch {
		case last == nil:
			req := &api.CreateRequest{Name: m.Name, SizeBytes: m.SizeBytes, BlockSizeShift: m.BlockSizeShift}
			_, err = c.CreateVDI(ctx, req)
		case m.SizeBytes > last.SizeBytes:
			_, err = c.ResizeVDI(ctx, &api.ResizeRequest{Name: m.Name, SizeBytes: m.SizeBytes})
		}
		if err == nil {
			err = d.writeManifest(ctx, c, store, m.Name, last, m)
		}
		if err == nil {
			_, err = c.SnapshotVDI(ctx, &api.SnapshotRequest{Name: m.Name, Tag: m.Tag, Description: m.Description})
		}
		if err != nil {
			return fmt.Errorf("snapshot %s of VDI %s: %w", strconv.Itoa(int(m.SnapshotID)), m.Name, err)
		}
		last = m
	}
	return nil
}
