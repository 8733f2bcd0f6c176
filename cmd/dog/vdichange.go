package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/cmd/dog/internal/show"
)

// made reports a VDI that a command made: a document with -o json, its id with
// -v, else nothing.
func (d *dog) made(v *api.VDI, words string) error {
	switch {
	case d.json():
		return d.document(api.VDIReply{Version: api.Version, VDI: *v})
	case !d.verbose:
		return nil
	case d.raw:
		return d.print(v.ID.String() + "\n")
	}
	return d.print(words + ": " + v.ID.String() + "\n")
}

// unallocated says that -P was accepted and allocates nothing.
func (d *dog) unallocated(asked bool, v *api.VDI) {
	if asked && v.Copies.Parity > 0 {
		fmt.Fprintf(d.stderr, "-P allocates nothing with redundancy %s: zeros take no space once they are encoded\n", v.Copies)
	}
}

func (d *dog) vdiCreate() *cobra.Command {
	var copies string
	var shift int
	var hyper, tolerant bool
	req := &api.CreateRequest{}
	cmd := &cobra.Command{Use: "create <vdiname> <size>", Short: "Create a VDI", Args: arguments(2, 2, "VDI name", "VDI size"),
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) error {
			if copies != "" {
				req.Copies = &sheepdog.Policy{}
				if err := parseCopies(copies, req.Copies); err != nil {
					return err
				}
			}
			if shift != 0 {
				if hyper {
					return fmt.Errorf("-y and -z exclude each other; every VDI may be large now, so -y is not needed")
				}
				if err := checkShift(shift); err != nil {
					return err
				}
			}
			size, err := parseVDISize(args[1], shift)
			if err != nil {
				return err
			}
			req.Name, req.SizeBytes, req.BlockSizeShift = args[0], size, uint8(shift)
			v, err := c.CreateVDI(ctx, req)
			if tolerant && errors.Is(err, sheepdog.ErrExists) {
				v, err = sameVDI(ctx, c, req)
			}
			if err != nil {
				return failed(err, "create VDI %s", args[0])
			}
			d.unallocated(req.Preallocate, v)
			return d.made(v, "VDI ID of newly created VDI")
		})}
	f := cmd.Flags()
	f.StringVarP(&copies, "copies", "c", "", "redundancy: copies, or D:P for erasure coding (default: the cluster's)")
	f.IntVarP(&shift, "block-size-shift", "z", 0, "object size as a power of two (default: the cluster's)")
	f.BoolVarP(&req.Preallocate, "prealloc", "P", false, "allocate all objects")
	f.BoolVarP(&hyper, "hyper", "y", false, "ignored: every VDI may have up to 16 PB")
	f.BoolVar(&tolerant, "if-not-exists", false, "succeed if a VDI of that name and size exists already")
	return cmd
}

// sameVDI is the VDI that exists already, if it is of the size that was asked for.
func sameVDI(ctx context.Context, c *api.Client, req *api.CreateRequest) (*api.VDI, error) {
	v, err := findVDI(ctx, c, req.Name, "")
	if err == nil && v.SizeBytes != req.SizeBytes {
		return nil, fmt.Errorf("it exists already with %d bytes instead of %d: %w", v.SizeBytes, req.SizeBytes, sheepdog.ErrExists)
	}
	return v, err
}

func (d *dog) vdiClone() *cobra.Command {
	var size string
	var tolerant bool
	req := &api.CloneRequest{}
	cmd := &cobra.Command{Use: "clone -s <snapshot> <source vdi> <new vdi>", Short: "Make a VDI on a snapshot", Args: arguments(2, 2, "source VDI", "name of the new VDI"), ValidArgsFunction: d.completeVDI,
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) error {
			if req.Snapshot == "" {
				return badArgument("Only snapshot VDIs can be cloned\nPlease specify the '-s' option")
			}
			req.Source, req.Name = args[0], args[1]
			if size != "" {
				n, err := parseVDISize(size, 0)
				if err != nil {
					return err
				}
				req.SizeBytes = n
			}
			v, err := d.clone(ctx, c, req)
			if tolerant && errors.Is(err, sheepdog.ErrExists) {
				v, err = findVDI(ctx, c, req.Name, "")
			}
			if err != nil {
				return failed(err, "clone VDI %s (snapshot %s) to %s", req.Source, req.Snapshot, req.Name)
			}
			d.unallocated(req.Preallocate, v)
			return d.made(v, "VDI ID of newly created clone")
		})}
	snapshotFlag(cmd, &req.Snapshot)
	cmd.Flags().BoolVarP(&req.Preallocate, "prealloc", "P", false, "copy all data and allocate all objects")
	cmd.Flags().BoolVarP(&req.NoShare, "no-share", "n", false, "copy all data; the clone has no parent")
	cmd.Flags().StringVar(&size, "size", "", "size of the clone, at least that of the snapshot")
	cmd.Flags().BoolVar(&tolerant, "if-not-exists", false, "succeed if a VDI of that name exists already")
	return cmd
}

// clone shares the data, or copies them with a progress bar.
func (d *dog) clone(ctx context.Context, c *api.Client, req *api.CloneRequest) (*api.VDI, error) {
	if !req.NoShare && !req.Preallocate {
		return c.CloneVDI(ctx, req)
	}
	bar := d.progress(show.Size)
	defer bar.end()
	return c.CopyVDI(ctx, req, func(p api.CopyProgress) { bar.draw(p.DoneBytes, p.TotalBytes) })
}

// batchFlags accepts what paced the original's deletion, which is now done by
// the nodes.
func batchFlags(cmd *cobra.Command) {
	cmd.Flags().UintP("reduce-batch", "B", 0, "ignored")
	cmd.Flags().UintP("interval", "I", 0, "ignored")
	for _, name := range []string{"reduce-batch", "interval"} {
		if err := cmd.Flags().MarkHidden(name); err != nil {
			panic(err)
		}
	}
}

func (d *dog) vdiDelete() *cobra.Command {
	var dryRun, tolerant bool
	req := &api.DeleteRequest{}
	cmd := &cobra.Command{Use: "delete [-s <snapshot>] <vdiname>", Short: "Delete a VDI or a snapshot", Args: arguments(1, 1, "VDI name"), ValidArgsFunction: d.completeVDI}
	cmd.RunE = d.with(func(ctx context.Context, c *api.Client, args []string) error {
		req.Name = args[0]
		what := "VDI " + req.Name
		if cmd.Flags().Changed("snapshot") {
			what = fmt.Sprintf("snapshot %s of VDI %s", req.Snapshot, req.Name)
		}
		if !dryRun {
			err := c.DeleteVDI(ctx, req)
			if tolerant && errors.Is(err, sheepdog.ErrNotFound) {
				err = nil
			}
			return failed(err, "delete %s", what)
		}
		v, err := findVDI(ctx, c, req.Name, req.Snapshot)
		if err != nil {
			return failed(err, "delete %s", what)
		}
		return d.would(fmt.Sprintf("delete %s (id %s)", what, v.ID))
	})
	snapshotFlag(cmd, &req.Snapshot)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be done")
	cmd.Flags().BoolVar(&tolerant, "if-exists", false, "succeed if there is no such VDI or snapshot")
	cmd.Flags().BoolVar(&req.Purge, "purge", false, "delete for good, also while the trash is on")
	batchFlags(cmd)
	return cmd
}

// findVDI is the one VDI or snapshot of that name.
func findVDI(ctx context.Context, c *api.Client, name string, snapshot api.Selector) (*api.VDI, error) {
	if err := api.CheckName(name); err != nil {
		return nil, err
	}
	vdis, err := c.VDIs(ctx, &api.VDIQuery{Name: name})
	if err != nil {
		return nil, err
	}
	for i := range vdis {
		if snapshot.Matches(&vdis[i]) {
			return &vdis[i], nil
		}
	}
	if snapshot != "" {
		return nil, fmt.Errorf("snapshot %s of VDI %s %w", snapshot, name, sheepdog.ErrNotFound)
	}
	return nil, fmt.Errorf("VDI %s %w", name, sheepdog.ErrNotFound)
}

func (d *dog) vdiRollback() *cobra.Command {
	var force, dryRun bool
	var safety string
	req := &api.RollbackRequest{}
	cmd := &cobra.Command{Use: "rollback -s <snapshot> <vdiname>", Short: "Put a VDI back to a snapshot", Args: arguments(1, 1, "VDI name"), ValidArgsFunction: d.completeVDI,
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) error {
			switch safety {
			case "auto", "on", "off":
			default:
				return badArgument("Invalid --safety-snapshot '%s': want on, off or auto", safety)
			}
			switch req.Name = args[0]; {
			case req.Snapshot == "":
				return badArgument("Please specify the '-s' option")
			case strings.Trim(string(req.Snapshot), "0") == "":
				return fmt.Errorf("The snapshot id must be larger than zero")
			}
			what := fmt.Sprintf("roll VDI %s back to snapshot %s", req.Name, req.Snapshot)
			if safety == "on" || safety == "auto" && !force && !d.yes && isTerminal(d.stdin) {
				req.SaveTag = "before-rollback-" + d.now().UTC().Format(api.NameTime)
			}
			if dryRun {
				if _, err := findVDI(ctx, c, req.Name, req.Snapshot); err != nil {
					return failed(err, "%s", what)
				}
				return d.would(what)
			}
			if !force {
				if err := d.confirm(rollbackQuestion(req)); err != nil {
					return err
				}
			}
			v, err := c.RollbackVDI(ctx, req)
			if err != nil {
				return failed(err, "%s", what)
			}
			return d.made(v, "New VDI ID of rollbacked VDI")
		})}
	snapshotFlag(cmd, &req.Snapshot)
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be done")
	cmd.Flags().StringVar(&safety, "safety-snapshot", "auto", "first take a snapshot of what is thrown away: on, off, or auto, which is on if the question is answered at a terminal")
	batchFlags(cmd)
	return cmd
}

func rollbackQuestion(req *api.RollbackRequest) string {
	if req.SaveTag != "" {
		return fmt.Sprintf("VDI %s becomes snapshot %s; its present state is kept as snapshot %s.", req.Name, req.Snapshot, req.SaveTag)
	}
	return fmt.Sprintf("This operation dumps any changes that are not snapshotted: VDI %s becomes snapshot %s.", req.Name, req.Snapshot)
}

func (d *dog) vdiResize() *cobra.Command {
	return &cobra.Command{Use: "resize <vdiname> <new size>", Short: "Grow a VDI", Args: arguments(2, 2, "VDI name", "VDI size"), ValidArgsFunction: d.completeVDI,
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) error {
			if _, err := parseVDISize(args[1], 0); err != nil {
				return err
			}
			old, err := findVDI(ctx, c, args[0], "")
			if err != nil {
				return failed(err, "resize VDI %s", args[0])
			}
			size, err := parseVDISize(args[1], int(old.BlockSizeShift))
			if err != nil {
				return err
			}
			if size < old.SizeBytes {
				return badArgument("Shrinking VDIs is not implemented: %s has %d bytes", args[0], old.SizeBytes)
			}
			v, err := c.ResizeVDI(ctx, &api.ResizeRequest{Name: args[0], SizeBytes: size})
			if err != nil {
				return failed(err, "resize VDI %s", args[0])
			}
			if d.json() {
				return d.made(v, "")
			}
			return nil
		})}
}
