package main

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/spf13/cobra"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/cmd/dog/internal/show"
)

func (d *dog) vdiCommands() *cobra.Command {
	return group("vdi", "Virtual disks and snapshots", d.vdiCheck(), d.vdiCreate(), d.vdiSnapshot(), d.vdiClone(), d.vdiDelete(),
		d.vdiRollback(), d.vdiList(), d.vdiTree(), d.vdiResize(), d.vdiRead(), d.vdiWrite(), d.vdiImport(),
		d.vdiGraph(), d.vdiObject(), d.vdiTrack(), d.vdiSetAttr(), d.vdiGetAttr(), d.vdiLimit(), d.vdiLock(), d.vdiRename(), d.vdiAlterCopy(),
		d.vdiBackup(), d.vdiRestore(), d.vdiFlatten(), d.vdiTrash())
}

func (d *dog) vdiList() *cobra.Command {
	var object string
	cmd := &cobra.Command{Use: "list [-o <object id>] [<vdiname>]", Short: "List VDIs and snapshots, perhaps only those that read an object", Args: arguments(0, 1), ValidArgsFunction: d.completeVDI}
	run := d.with(func(ctx context.Context, c *api.Client, args []string) error {
		q := &api.VDIQuery{Physical: d.verbose || d.json()}
		if object != "" {
			q.Object = &api.ObjectID{}
			if err := q.Object.UnmarshalText([]byte(object)); err != nil {
				return badUsage(fmt.Errorf("Invalid output format or object id '%s': want text, json or 16 hex digits", object))
			}
		}
		if len(args) == 1 {
			if args[0] == "" {
				return badArgument("The VDI name is empty")
			}
			q.Name = args[0]
		}
		vdis, err := c.VDIs(ctx, q)
		if err != nil {
			return failed(err, "list VDIs")
		}
		if d.json() {
			return d.document(api.VDIList{Version: api.Version, VDIs: vdis})
		}
		return d.print(show.VDIs(vdis, show.ListStyle{Raw: d.raw, Physical: d.verbose, Zone: d.zone}))
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		object = d.takeObject()
		return run(cmd, args)
	}
	return cmd
}

func (d *dog) vdiGraph() *cobra.Command {
	return d.drawing("graph", "Print VDIs and snapshots as a graph for Graphviz", func(vdis []api.VDI) string { return show.Graph(vdis, d.zone) })
}

func (d *dog) vdiTree() *cobra.Command {
	return d.drawing("tree", "Show VDIs and snapshots as a tree", func(vdis []api.VDI) string {
		return show.Tree(vdis, show.TreeStyle{Bold: isTerminal(d.stdout), Zone: d.zone})
	})
}

// drawing is a command that draws how all VDIs and snapshots hang together.
func (d *dog) drawing(use, short string, draw func([]api.VDI) string) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: arguments(0, 0),
		RunE: d.with(func(ctx context.Context, c *api.Client, _ []string) error {
			vdis, err := c.VDIs(ctx, &api.VDIQuery{})
			if err != nil {
				return failed(err, "list VDIs")
			}
			if d.json() {
				return d.document(api.VDIList{Version: api.Version, VDIs: vdis})
			}
			return d.print(draw(vdis))
		})}
}

func (d *dog) vdiCheck() *cobra.Command {
	req := &api.CheckRequest{}
	var exist bool
	cmd := &cobra.Command{Use: "check <vdiname>", Short: "Compare the replicas of a VDI and heal what differs",
		Args: arguments(1, 1, "VDI name"), ValidArgsFunction: d.completeVDI,
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) error {
			if req.VDI = args[0]; req.VDI == "" {
				return badArgument("The VDI name is empty")
			}
			if exist {
				return d.existence(ctx, c, req.VDI, req.Snapshot)
			}
			return d.check(ctx, c, req)
		})}
	snapshotFlag(cmd, &req.Snapshot)
	cmd.Flags().BoolVar(&req.DryRun, "dry-run", false, "change nothing; fail on any difference")
	cmd.Flags().BoolVarP(&exist, "exist", "e", false, "only look whether all replicas exist; changes nothing")
	return cmd
}

// snapshotFlag adds -s, a snapshot's number or tag.
func snapshotFlag(cmd *cobra.Command, s *api.Selector) {
	cmd.Flags().StringVarP((*string)(s), "snapshot", "s", "", "number or tag of a snapshot")
}

// completeVDI offers the names of VDIs to the shell.
func (d *dog) completeVDI(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	err := d.with(func(ctx context.Context, c *api.Client, _ []string) error {
		vdis, err := c.VDIs(ctx, &api.VDIQuery{})
		for _, v := range vdis {
			if !v.Snapshot {
				names = append(names, v.Name)
			}
		}
		return err
	})(cmd, nil)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// parseCopies reads -c; the long explanation is for people who meet it first.
func parseCopies(s string, p *sheepdog.Policy) error {
	err := p.UnmarshalText([]byte(s))
	if err == nil && p.Parity > 0 && (p.IsStrips() || !slices.Contains([]uint8{2, 4, 8, 12, 16}, p.Copies)) {
		err = fmt.Errorf("data strips")
	}
	if err == nil {
		return nil
	}
	return &failure{code: exitFailed, err: fmt.Errorf(`Invalid parameter %s
To create replicated vdi, set -c x
  x(1 to 31)   - number of replicated copies
To create erasure coded vdi, set -c x:y
  x(2,4,8,12,16) - number of data strips
  y(1 to 15)     - number of parity strips`, s)}
}

func checkShift(shift int) error {
	if shift < sheepdog.MinBlockSizeShift || shift > sheepdog.MaxBlockSizeShift {
		return &failure{code: exitFailed, err: fmt.Errorf("Invalid block size shift %d: object sizes are 2^%d to 2^%d bytes", shift, sheepdog.MinBlockSizeShift, sheepdog.MaxBlockSizeShift)}
	}
	return nil
}

// parseVDISize reads the size of a VDI with objects of 2^shift bytes.
func parseVDISize(s string, shift int) (uint64, error) {
	n, err := show.ParseSize(s)
	if err != nil {
		return 0, badArgument("%s", upper(err.Error()))
	}
	if n == 0 {
		return 0, badArgument("The VDI size is zero")
	}
	limit := uint64(sheepdog.MaxVDISize)
	if shift > 0 {
		limit = min(limit, (math.MaxUint32+1)<<shift)
	}
	if n > limit {
		return 0, badArgument("VDI size is too large: at most %s", show.Size(limit))
	}
	return n, nil
}
