package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"sheepdog/api"
)

func (d *dog) nodePlug() *cobra.Command {
	return d.diskCommand("plug", "Add empty disks to the node", "add %s to node %s", "What a disk of this node held before is removed.",
		(*api.Client).PlugDisks)
}

func (d *dog) nodeUnplug() *cobra.Command {
	return d.diskCommand("unplug", "Move what disks hold to the other disks of the node, and take them out", "empty %s and take it out of node %s",
		"What the disk holds moves to the other disks of the node first.", (*api.Client).UnplugDisks)
}

// diskCommand changes the disks of the connected node.
func (d *dog) diskCommand(name, short, does, question string, change func(*api.Client, context.Context, *api.DisksRequest) error) *cobra.Command {
	var force, dryRun bool
	cmd := &cobra.Command{Use: name + " <disk>[,<disk>...]", Short: short, Args: arguments(1, 1, "disks"),
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) error {
			paths, err := diskPaths(args[0])
			if err != nil {
				return err
			}
			what := fmt.Sprintf(does, strings.Join(paths, ", "), c.Addr())
			if dryRun {
				return d.would(what)
			}
			if !force {
				if err := d.confirm(question); err != nil {
					return err
				}
			}
			return failed(change(c, ctx, &api.DisksRequest{Paths: paths}), "%s", what)
		})}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be done")
	return cmd
}

// diskPaths makes the paths of a list absolute, as seen from here.
func diskPaths(list string) ([]string, error) {
	var out []string
	for p := range strings.SplitSeq(list, ",") {
		if p == "" {
			return nil, badArgument("Empty path in '%s'", list)
		}
		abs, err := filepath.Abs(p)
		if err != nil {
			return nil, err
		}
		out = append(out, abs)
	}
	return out, nil
}
