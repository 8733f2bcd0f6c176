package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"sheepdog/api"
	"sheepdog/cmd/dog/internal/show"
)

func (d *dog) nodeCommands() *cobra.Command {
	return group("node", "Nodes of the cluster", d.nodeList(), d.nodeInfo(), d.nodeRecovery(), d.nodeKill(),
		d.nodeMD(), d.nodeStat(), d.nodeLog(), d.nodeVNodes(), d.nodeFormat())
}

func (d *dog) nodeList() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List nodes", Args: arguments(0, 0),
		RunE: d.with(func(ctx context.Context, c *api.Client, _ []string) error {
			nodes, err := c.Nodes(ctx)
			if err != nil {
				return failed(err, "get node list")
			}
			if d.json() {
				return d.document(api.NodeList{Version: api.Version, Nodes: nodes})
			}
			return d.print(show.Nodes(nodes, d.raw))
		})}
}

func (d *dog) nodeInfo() *cobra.Command {
	return &cobra.Command{Use: "info", Short: "Show the space of each node", Args: arguments(0, 0),
		RunE: d.with(func(ctx context.Context, c *api.Client, _ []string) error {
			space, err := c.Capacities(ctx)
			if err != nil {
				return failed(err, "get the space of the nodes")
			}
			for i, n := range space.Nodes {
				if n.Error != "" {
					d.talk("Cannot get information from node %d (%s): %s", i, n.Addr, n.Error)
				}
			}
			if d.json() {
				return d.document(space)
			}
			return d.print(show.Capacities(space, d.raw))
		})}
}

func (d *dog) nodeRecovery() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{Use: "recovery [info]", Short: "Show nodes that are recovering", ValidArgs: []string{"info"}, Args: arguments(0, 1),
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) error {
			if len(args) == 1 && args[0] != "info" {
				return badArgument("Invalid command 'node recovery %s'", args[0])
			}
			if follow {
				return d.followRecovery(ctx, c)
			}
			return d.showRecovery(ctx, c)
		})}
	cmd.Flags().BoolVarP(&follow, "progress", "P", false, "wait until the node has recovered, with a progress bar")
	cmd.AddCommand(d.throttleCommands()...)
	return cmd
}

func (d *dog) showRecovery(ctx context.Context, c *api.Client) error {
	behind, err := c.Recovery(ctx)
	if err != nil {
		return failed(err, "get recovery information")
	}
	if d.json() {
		return d.document(api.RecoveryList{Version: api.Version, Nodes: behind})
	}
	var nodes []api.Node
	if len(behind) > 0 {
		if nodes, err = c.Nodes(ctx); err != nil {
			return failed(err, "get node list")
		}
	}
	number := func(n *api.Node) int {
		return slices.IndexFunc(nodes, func(m api.Node) bool { return m.ID == n.ID })
	}
	return d.print(show.Recovery(behind, number, d.raw))
}

// pollEvery is how often a wait asks again.
const pollEvery = 200 * time.Millisecond

// followRecovery waits until the connected node is complete.
func (d *dog) followRecovery(ctx context.Context, c *api.Client) error {
	st, err := c.Status(ctx)
	if err != nil {
		return failed(err, "get the node's status")
	}
	bar := d.progress(func(n uint64) string { return strconv.FormatUint(n, 10) + " partitions" })
	defer bar.end()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		behind, err := c.Recovery(ctx)
		if err != nil {
			return failed(err, "get recovery information")
		}
		i := slices.IndexFunc(behind, func(n api.NodeRecovery) bool { return n.ID == st.Node.ID })
		if i < 0 {
			return nil
		}
		n := &behind[i]
		bar.draw(uint64(n.TotalPartitions-n.PartitionsLeft), uint64(max(n.TotalPartitions, 1)))
		select {
		case <-ctx.Done():
			return failed(context.Cause(ctx), "wait for recovery")
		case <-tick.C:
		}
	}
}

func (d *dog) nodeKill() *cobra.Command {
	var local, dryRun, force bool
	cmd := &cobra.Command{Use: "kill {<node id> | -l}", Short: "Make a node leave the cluster", Args: arguments(0, 1),
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) error {
			if local == (len(args) == 1) {
				return badArgument("please specify -l option or node id")
			}
			ref, name := api.NodeRef{Self: true}, c.Addr()
			if !local {
				n, err := numberedNode(ctx, c, args[0])
				if err != nil {
					return err
				}
				ref, name = api.NodeRef{ID: n.ID}, n.Addr
			}
			if dryRun {
				return d.would("stop node " + name)
			}
			ref.Force = force
			return failed(c.KillNode(ctx, ref), "stop node %s", name)
		})}
	cmd.Flags().BoolVarP(&local, "local", "l", false, "the node that dog is connected to")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also with the only complete replicas of data, which then wait until it is back")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be done")
	return cmd
}

// numberedNode is the node with that position in `dog node list`.
func numberedNode(ctx context.Context, c *api.Client, arg string) (*api.Node, error) {
	i, err := strconv.ParseUint(arg, 10, 31)
	if err != nil {
		return nil, badUsage(fmt.Errorf("Invalid node id '%s', please specify a numeric value", arg))
	}
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return nil, failed(err, "get node list")
	}
	if i >= uint64(len(nodes)) {
		return nil, badUsage(fmt.Errorf("Invalid node id '%s'", arg))
	}
	return &nodes[i], nil
}
