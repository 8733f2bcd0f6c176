package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/cmd/dog/internal/show"
)

// alterCopies parses -c of the alter-copy commands.
func (d *dog) alterCopies(noun, copies string) (sheepdog.Policy, error) {
	if copies == "" {
		text := fmt.Sprintf("The %s's redundancy level is not specified, use 3 as default.", noun)
		if d.json() {
			d.talk("%s", text)
		} else if err := d.print(text + "\n"); err != nil {
			return sheepdog.Policy{}, err
		}
		copies = "3"
	}
	var p sheepdog.Policy
	if err := parseCopies(copies, &p); err != nil {
		return p, err
	}
	return p, nil
}

func (d *dog) clusterAlterCopy() *cobra.Command {
	var copies string
	var force bool
	cmd := &cobra.Command{Use: "alter-copy -c <copies>", Short: "Change the default redundancy of VDIs created later", Args: arguments(0, 0),
		RunE: d.with(func(ctx context.Context, c *api.Client, _ []string) error {
			p, err := d.alterCopies("cluster", copies)
			if err != nil {
				return err
			}
			cl, err := c.Cluster(ctx)
			if err != nil {
				return failed(err, "get cluster information")
			}
			old := cl.Config.Policy
			if old == p {
				return fmt.Errorf("The cluster's redundancy level is already set to %s, nothing changed.", p)
			}
			if err := d.confirmCopies(ctx, c, p, force, fmt.Sprintf("VDIs created from now on have %s copies instead of %s.", p, old)); err != nil {
				return err
			}
			if err := c.SetCopies(ctx, &api.CopiesRequest{Copies: p}); err != nil {
				return failed(err, "change the cluster's redundancy level")
			}
			d.talk("The cluster's redundancy level is set to %s, the old one was %s.", p, old)
			return nil
		})}
	cmd.Flags().StringVarP(&copies, "copies", "c", "", "number of copies")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	return cmd
}

// confirmCopies asks before the redundancy changes, and says when there are too
// few zones for it.
func (d *dog) confirmCopies(ctx context.Context, c *api.Client, p sheepdog.Policy, force bool, what string) error {
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return failed(err, "get node list")
	}
	if p.Zones() > len(nodes) {
		what = fmt.Sprintf("Number of copies (%d) is larger than number of nodes (%d).\n%s", p.Zones(), len(nodes), what)
	}
	if force {
		return nil
	}
	return d.confirm(what)
}

// vdiAlterCopy changes the redundancy of a VDI, or has a snapshot erasure coded.
func (d *dog) vdiAlterCopy() *cobra.Command {
	var copies string
	var snapshot api.Selector
	var force, dryRun bool
	cmd := &cobra.Command{Use: "alter-copy -c <copies> <vdiname>[@<snapshot>]", Short: "Change the redundancy of a VDI, or have a snapshot erasure coded", Args: arguments(1, 1, "VDI name"), ValidArgsFunction: d.completeVDI,
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) error {
			p, err := d.alterCopies("vdi", copies)
			if err != nil {
				return err
			}
			if snapshot != "" {
				return d.encodeSnapshot(ctx, c, args[0], snapshot, p, dryRun)
			}
			old, err := alterable(ctx, c, args[0], p)
			if err != nil {
				return err
			}
			if dryRun {
				return d.would(fmt.Sprintf("change the redundancy level of %s from %s to %s", args[0], old.Copies, p))
			}
			if err := d.confirmCopies(ctx, c, p, force, fmt.Sprintf("VDI %s gets %s copies instead of %s; its data are copied.", args[0], p, old.Copies)); err != nil {
				return err
			}
			bar := d.progress(show.Size)
			v, err := c.AlterVDI(ctx, &api.AlterRequest{Name: args[0], Copies: p}, func(p api.CopyProgress) { bar.draw(p.DoneBytes, p.TotalBytes) })
			bar.end()
			if err != nil {
				return failed(err, "change the redundancy level of VDI %s", args[0])
			}
			d.talk("%s's redundancy level is set to %s, the old one was %s.", args[0], p, old.Copies)
			if d.json() {
				return d.made(v, "")
			}
			return nil
		})}
	snapshotFlag(cmd, &snapshot)
	cmd.Flags().StringVarP(&copies, "copies", "c", "", "number of copies, or D:P")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be done")
	return cmd
}

// encodeSnapshot has the data of a snapshot erasure coded in the background.
func (d *dog) encodeSnapshot(ctx context.Context, c *api.Client, name string, tag api.Selector, p sheepdog.Policy, dryRun bool) error {
	if p.Parity == 0 {
		return badArgument("The number of copies of a snapshot cannot change; with -c D:P it is erasure coded")
	}
	if dryRun {
		return d.would(fmt.Sprintf("encode %s@%s as %s", name, tag, p))
	}
	err := c.SetVDICopies(ctx, &api.VDICopiesRequest{Name: name, Snapshot: tag, Copies: p})
	if err != nil {
		return failed(err, "change the redundancy level of snapshot %s@%s", name, tag)
	}
	d.talk("%s@%s is encoded as %s in the background.", name, tag, p)
	return nil
}

// alterable finds a VDI whose redundancy can become p, or says why it cannot. A
// change that was broken off can go on.
func alterable(ctx context.Context, c *api.Client, name string, p sheepdog.Policy) (*api.VDI, error) {
	v, err := findVDI(ctx, c, name, "")
	switch {
	case err != nil:
		return nil, failed(err, "change the redundancy level of VDI %s", name)
	case v.Copies == p && !v.Moving:
		return nil, fmt.Errorf("%s's redundancy level is already set to %s, nothing changed.", name, p)
	case v.ParentID != 0 || v.Clone:
		return nil, fmt.Errorf("Only standalone vdi supports changing redundancy level.\nPlease clone %s with -n (--no-share) option first.", name)
	}
	return v, nil
}

func (d *dog) clusterReweight() *cobra.Command {
	return &cobra.Command{Use: "reweight", Short: "Set the weight of every node to its share of the space", Args: arguments(0, 0),
		RunE: d.with(func(ctx context.Context, c *api.Client, _ []string) error {
			return failed(c.Reweight(ctx), "reweight the cluster")
		})}
}
