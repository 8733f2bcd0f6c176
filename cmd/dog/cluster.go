package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/cmd/dog/internal/show"
)

func (d *dog) clusterCommands() *cobra.Command {
	return group("cluster", "The cluster as a whole", d.clusterInfo(), d.clusterFormat(), d.clusterShutdown(), d.clusterRecover(), d.clusterCheck(),
		d.clusterReweight(), d.clusterAlterCopy(), d.clusterSnapshot())
}

func (d *dog) clusterInfo() *cobra.Command {
	var diff bool
	cmd := &cobra.Command{Use: "info", Short: "Show the state and the epochs of the cluster", Args: arguments(0, 0),
		RunE: d.with(func(ctx context.Context, c *api.Client, _ []string) error {
			cl, err := c.Cluster(ctx)
			if err != nil {
				return failed(err, "get cluster information")
			}
			for _, w := range cl.Warnings {
				d.talk("Warning: %s", w)
			}
			if d.json() {
				return d.document(cl)
			}
			return d.print(show.Cluster(cl, show.ClusterStyle{Raw: d.raw, Verbose: d.verbose, Diff: diff, Zone: d.zone}))
		})}
	cmd.Flags().BoolVarP(&diff, "diff", "d", false, "show changes between epochs")
	return cmd
}

func (d *dog) clusterShutdown() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{Use: "shutdown", Short: "Stop all nodes", Args: arguments(0, 0),
		RunE: d.with(func(ctx context.Context, c *api.Client, _ []string) error {
			if !dryRun {
				return failed(c.Shutdown(ctx), "shut the cluster down")
			}
			nodes, err := c.Nodes(ctx)
			if err != nil {
				return failed(err, "get node list")
			}
			return d.would(fmt.Sprintf("stop all %d nodes", len(nodes)))
		})}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be done")
	return cmd
}

func (d *dog) clusterRecover() *cobra.Command {
	var force, dryRun bool
	cmd := &cobra.Command{Use: "recover {enable|disable|force}", Short: "Let recovery run, pause it, or go on without nodes that are lost for ever", ValidArgs: []string{"enable", "disable", "force"},
		Args: arguments(1, 1, "action: enable, disable or force"),
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) error {
			switch args[0] {
			case "force":
				return d.forceRecovery(ctx, c, force, dryRun)
			case "enable", "disable":
			default:
				return badArgument("Invalid command 'cluster recover %s'", args[0])
			}
			if dryRun {
				return d.would(args[0] + " recovery")
			}
			if err := c.SetRecovery(ctx, args[0] == "enable"); err != nil {
				return failed(err, "%s recovery", args[0])
			}
			if d.json() {
				return nil
			}
			return d.print("Cluster recovery: " + args[0] + "\n")
		})}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be done, and lost")
	return cmd
}

// forceRecovery shows what is lost, asks, and has the cluster go on without the
// nodes that are not here.
func (d *dog) forceRecovery(ctx context.Context, c *api.Client, force, dryRun bool) error {
	r, err := c.Force(ctx, &api.ForceRequest{DryRun: true})
	if err != nil {
		return forceFailed(ctx, c, err)
	}
	if !dryRun {
		// The report before is talk; the one after is the result.
		fmt.Fprint(d.stderr, show.Force(r))
		if !force {
			if err := d.confirm("The nodes that are lost can never come back into this cluster with their data."); err != nil {
				return err
			}
		}
		req := &api.ForceRequest{}
		for _, n := range r.Lost {
			req.GiveUp = append(req.GiveUp, n.ID)
		}
		if r, err = c.Force(ctx, req); err != nil {
			return forceFailed(ctx, c, err)
		}
	}
	if d.json() {
		return d.document(r)
	}
	return d.print(show.Force(r))
}

// forceFailed keeps the words that scripts know for a cluster that runs.
func forceFailed(ctx context.Context, c *api.Client, err error) error {
	if errors.Is(err, sheepdog.ErrBusy) {
		if cl, cerr := c.Cluster(ctx); cerr == nil && (cl.State == api.StateRunning || cl.State == api.StateHalted) {
			return errors.New("failed to execute request, Cluster is running/halted and cannot be force recovered")
		}
	}
	return failed(err, "force recovery")
}

func (d *dog) clusterCheck() *cobra.Command {
	req := &api.CheckRequest{}
	cmd := &cobra.Command{Use: "check", Short: "Compare all replicas and heal what differs", Args: arguments(0, 0),
		RunE: d.with(func(ctx context.Context, c *api.Client, _ []string) error { return d.check(ctx, c, req) })}
	cmd.Flags().BoolVar(&req.DryRun, "dry-run", false, "change nothing; fail on any difference")
	return cmd
}

// checkReport is what a check prints with -o json.
type checkReport struct {
	Version  int               `json:"version"`
	Findings []api.Finding     `json:"findings"`
	Summary  *api.CheckSummary `json:"summary"`
}

// check runs a check; it fails if anything is lost or unrepaired, and with
// DryRun on any difference.
func (d *dog) check(ctx context.Context, c *api.Client, req *api.CheckRequest) error {
	bar := d.progress(func(n uint64) string { return fmt.Sprintf("%d objects", n) })
	report := checkReport{Version: api.Version, Findings: []api.Finding{}}
	sum, err := c.Check(ctx, req, func(e *api.CheckEvent) error {
		if e.Progress != nil {
			bar.draw(e.Progress.FinishedObjects, e.Progress.TotalObjects)
		}
		if e.Finding != nil {
			report.Findings = append(report.Findings, *e.Finding)
		}
		line, good := show.CheckLine(e, show.CheckStyle{DryRun: req.DryRun, Single: req.VDI != "", Verbose: d.verbose})
		switch {
		case d.json() || line == "":
			return nil
		case good:
			return d.print(line)
		}
		fmt.Fprint(d.stderr, line)
		return nil
	})
	bar.end()
	if err != nil {
		return failed(err, "check")
	}
	if report.Summary = sum; d.json() {
		if err := d.document(report); err != nil {
			return err
		}
	}
	return checkOutcome(sum, req.DryRun)
}

func checkOutcome(sum *api.CheckSummary, dryRun bool) error {
	switch {
	case dryRun && sum.Found > 0:
		return fmt.Errorf("%d differences in %d objects; nothing was changed. Run the check without --dry-run to heal them.", sum.Found, sum.Objects)
	case sum.Lost > 0:
		return fmt.Errorf("%d objects are lost, %d of %d differences were repaired.", sum.Lost, sum.Repaired, sum.Found)
	case sum.Repaired < sum.Found:
		return fmt.Errorf("%d of %d differences were not repaired. See the logs of the nodes.", sum.Found-sum.Repaired, sum.Found)
	}
	return nil
}

// formatOptions are those of `cluster format`.
type formatOptions struct {
	copies, store string
	shift         int
	sync          string
	force, dryRun bool
	req           api.FormatRequest
}

func (d *dog) clusterFormat() *cobra.Command {
	o := &formatOptions{}
	cmd := &cobra.Command{Use: "format", Short: "Make a new cluster, deleting all data", Args: arguments(0, 0),
		RunE: d.with(func(ctx context.Context, c *api.Client, _ []string) error { return d.format(ctx, c, o) })}
	f := cmd.Flags()
	f.StringVarP(&o.copies, "copies", "c", "3", "default redundancy of VDIs: copies, or D:P for erasure coding")
	f.StringVarP(&o.store, "store", "b", "plain", "name of the store; plain and tree are the same")
	f.IntVarP(&o.shift, "block-size-shift", "z", sheepdog.DefaultObjectShift, "object size of VDIs as a power of two")
	f.Uint8Var(&o.req.MinCopies, "min-copies", 0, "replicas that a write needs (default: half of the copies, rounded up)")
	f.StringVar(&o.sync, "sync", "flush", "when writes are made durable: flush, or always before they are acknowledged")
	f.BoolVarP(&o.req.Locking, "lock", "l", false, "VDIs are exclusive to one gateway")
	f.BoolVarP(&o.req.Strict, "strict", "t", false, "writes need as many zones as copies")
	f.BoolVarP(&o.req.FixedVNodes, "fixedvnodes", "V", false, "weights of nodes are set by hand")
	f.BoolVarP(&o.req.RecycleVIDs, "recyclevid", "R", false, "use the ids of deleted VDIs again")
	f.BoolVarP(&o.req.SkipFullDisks, "avoiddiskfull", "F", false, "recovery does not fill disks up")
	f.BoolVarP(&o.force, "force", "f", false, "do not ask before deleting data")
	f.BoolVar(&o.dryRun, "dry-run", false, "only say what would be done")
	return cmd
}

func (d *dog) format(ctx context.Context, c *api.Client, o *formatOptions) error {
	if err := d.parseFormat(o); err != nil {
		return err
	}
	vdis, zones, err := formatted(ctx, c)
	if err != nil {
		return err
	}
	if o.dryRun {
		return d.would(fmt.Sprintf("delete %d VDIs and snapshots and format with copies %s", vdis, o.req.Copies))
	}
	if !d.json() {
		if err := d.print("using backend " + o.store + " store\n"); err != nil {
			return err
		}
	}
	if vdis > 0 && !o.force {
		if err := d.confirm(fmt.Sprintf("The cluster has %d VDIs and snapshots. Formatting deletes the data of all of them on all nodes.", vdis)); err != nil {
			return err
		}
	}
	if w := o.req.Copies.Zones(); w > zones {
		if err := d.confirm(fmt.Sprintf("Number of copies (%d) is larger than number of zones (%d).", w, zones)); err != nil {
			return err
		}
	}
	o.req.Discard = vdis > 0
	cl, err := c.Format(ctx, &o.req)
	if err != nil {
		return failed(err, "format the cluster")
	}
	if d.json() {
		return d.document(cl)
	}
	return nil
}

func (d *dog) parseFormat(o *formatOptions) error {
	if o.store != "plain" && o.store != "tree" {
		d.talk("Format failed: there is no store '%s'\nAvailable stores:\n---------------------------------------\ntree plain ", o.store)
		return &failure{code: exitSystem}
	}
	if err := parseCopies(o.copies, &o.req.Copies); err != nil {
		return err
	}
	if err := checkShift(o.shift); err != nil {
		return err
	}
	o.req.BlockSizeShift = uint8(o.shift)
	if o.sync != "flush" && o.sync != "always" {
		return badArgument("Invalid sync '%s': want flush or always", o.sync)
	}
	o.req.SyncAlways = o.sync == "always"
	return nil
}

// formatted counts the VDIs that a format would delete, also in the trash, and the zones that can
// store. A cluster that waits for nodes cannot be asked for VDIs; its format
// is refused by the node if that matters.
func formatted(ctx context.Context, c *api.Client) (vdis, zones int, err error) {
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return 0, 0, failed(err, "get node list")
	}
	seen := make(map[sheepdog.Zone]bool)
	for _, n := range nodes {
		if n.VNodes > 0 {
			seen[n.Zone] = true
		}
	}
	list, err := c.VDIs(ctx, &api.VDIQuery{})
	if errors.Is(err, sheepdog.ErrNotFormatted) {
		return 0, len(seen), nil
	}
	if err != nil {
		return 0, 0, failed(err, "list the VDIs that formatting would delete")
	}
	trash, err := c.Trash(ctx)
	if err != nil {
		return 0, 0, failed(err, "list the trash, which formatting would delete")
	}
	return len(list) + len(trash.VDIs), len(seen), nil
}
