package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"sheepdog/api"
	"sheepdog/cmd/dog/internal/show"
)

func (d *dog) vdiSnapshot() *cobra.Command {
	var expires string
	req := &api.SnapshotRequest{}
	cmd := &cobra.Command{Use: "snapshot [-s <tag>] <vdiname>...", Short: "Freeze the state of a VDI, or of several in one moment", Args: arguments(1, api.MaxGroup, "VDI name"), ValidArgsFunction: d.completeVDI,
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) (err error) {
			if req.Tag != "" && strings.Trim(req.Tag, "0123456789") == "" {
				return badArgument("Please specify a non-integer value for a snapshot tag name")
			}
			if req.Expires, err = d.parseExpiry(expires); err != nil {
				return err
			}
			if len(args) > 1 {
				return d.snapshotGroup(ctx, c, req, args)
			}
			req.Name = args[0]
			res, err := c.SnapshotVDI(ctx, req)
			if err != nil {
				return failed(err, "create snapshot for %s", args[0])
			}
			return d.madeSnapshot(res)
		})}
	cmd.Flags().StringVarP(&req.Tag, "snapshot", "s", "", "tag of the new snapshot")
	cmd.Flags().StringVar(&req.Description, "description", "", "what the snapshot is for")
	cmd.Flags().StringVar(&expires, "expires", "", "when the snapshot is deleted: a time from now, as 12h or 7d, or a moment, as 2030-01-02T15:04:05Z")
	cmd.Flags().BoolVarP(&req.OnlyIfChanged, "reduce-identical-snapshots", "R", false, "make none if nothing was written since the last one")
	return cmd
}

// snapshotGroup snapshots several VDIs in one moment: all or none.
func (d *dog) snapshotGroup(ctx context.Context, c *api.Client, req *api.SnapshotRequest, names []string) error {
	if req.OnlyIfChanged {
		return badArgument("-R is for one VDI: a group has a snapshot of each")
	}
	res, err := c.SnapshotGroup(ctx, &api.GroupRequest{Names: names, Tag: req.Tag, Description: req.Description, Expires: req.Expires})
	if err != nil {
		return failed(err, "create snapshots for %s", strings.Join(names, ", "))
	}
	if d.json() {
		return d.document(res)
	}
	for i := range res.Snapshots {
		if err := d.madeSnapshot(&res.Snapshots[i]); err != nil {
			return err
		}
	}
	return nil
}

func (d *dog) madeSnapshot(res *api.SnapshotResult) error {
	switch {
	case d.json():
		return d.document(res)
	case !d.verbose || !res.Created || res.Snapshot == nil || res.Working == nil:
		return nil
	case d.raw:
		return d.print(fmt.Sprintf("%s %s\n", res.Working.ID, res.Snapshot.ID))
	}
	return d.print(fmt.Sprintf("new VID of original VDI: %s, VDI ID of newly created snapshot: %s\n", res.Working.ID, res.Snapshot.ID))
}

func (d *dog) vdiFlatten() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{Use: "flatten <vdiname>", Short: "Copy what a clone reads from its base, so that it needs none", Args: arguments(1, 1, "VDI name"), ValidArgsFunction: d.completeVDI,
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) error {
			if dryRun {
				v, err := findVDI(ctx, c, args[0], "")
				if err != nil {
					return failed(err, "flatten VDI %s", args[0])
				}
				return d.would(fmt.Sprintf("copy up to %s into VDI %s", show.Size(v.SharedBytes), args[0]))
			}
			bar := d.progress(show.Size)
			v, err := c.FlattenVDI(ctx, &api.FlattenRequest{Name: args[0]}, func(p api.CopyProgress) { bar.draw(p.DoneBytes, p.TotalBytes) })
			bar.end()
			if err != nil {
				return failed(err, "flatten VDI %s", args[0])
			}
			if d.json() {
				return d.made(v, "")
			}
			return nil
		})}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be done")
	return cmd
}
