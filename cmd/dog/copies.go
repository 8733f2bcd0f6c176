package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"sheepdog"
	"sheepdog/api"
)

// alterCopies parses -c of the alter-copy commands.
func (d *dog) alterCopies(copies string) (sheepdog.Policy, error) {
	if copies == "" {
		d.talk("The redundancy level is not specified, use 3 as default.")
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
			p, err := d.alterCopies(copies)
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

// vdiAlterCopy has a snapshot erasure coded, and says how the redundancy of a VDI
// changes: by a copy.
func (d *dog) vdiAlterCopy() *cobra.Command {
	var copies string
	cmd := &cobra.Command{Use: "alter-copy -c <copies> <vdiname>[@<snapshot>]", Short: "Have the data of a snapshot erasure coded", Args: arguments(1, 1, "VDI name"), ValidArgsFunction: d.completeVDI,
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) error {
			p, err := d.alterCopies(copies)
			if err != nil {
				return err
			}
			if name, tag, ok := strings.Cut(args[0], "@"); ok && p.Parity > 0 {
				err := c.SetVDICopies(ctx, &api.VDICopiesRequest{Name: name, Snapshot: api.Selector(tag), Copies: p})
				if err != nil {
					return failed(err, "change the redundancy level of VDI %s", args[0])
				}
				d.talk("%s is encoded as %s in the background.", args[0], p)
				return nil
			}
			v, err := findVDI(ctx, c, args[0], "")
			if err != nil {
				return failed(err, "change the redundancy level of VDI %s", args[0])
			}
			if v.Copies == p {
				return fmt.Errorf("%s's redundancy level is already set to %s, nothing changed.", args[0], p)
			}
			return fmt.Errorf("The redundancy level of a VDI cannot change in place; %s keeps %s. Create another with -c %s and copy the data: dog vdi read %s | dog vdi write NEW", args[0], v.Copies, p, args[0])
		})}
	cmd.Flags().StringVarP(&copies, "copies", "c", "", "number of copies, or D:P for a snapshot")
	cmd.Flags().BoolP("force", "f", false, "do not ask")
	return cmd
}

func (d *dog) clusterReweight() *cobra.Command {
	return &cobra.Command{Use: "reweight", Short: "Set the weight of every node to its share of the space", Args: arguments(0, 0),
		RunE: d.with(func(ctx context.Context, c *api.Client, _ []string) error {
			return failed(c.Reweight(ctx), "reweight the cluster")
		})}
}
