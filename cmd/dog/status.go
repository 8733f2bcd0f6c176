package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"sheepdog/api"
	"sheepdog/cmd/dog/internal/show"
)

func (d *dog) status() *cobra.Command {
	var watch bool
	cmd := &cobra.Command{Use: "status [-w]", Short: "Show the health of the cluster, and what to do next", Args: arguments(0, 0),
		RunE: d.with(func(ctx context.Context, c *api.Client, _ []string) error {
			s, err := overallStatus(ctx, c, nil)
			if err != nil {
				return err
			}
			if !watch {
				return d.printStatus(s)
			}
			return d.watchStatus(ctx, c, s)
		})}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "repeat every two seconds, with the time that recovery will take")
	return cmd
}

func (d *dog) printStatus(s *show.Overall) error {
	if d.json() {
		return d.document(s)
	}
	return d.print(show.Status(s))
}

// watchEvery is how often `dog status -w` looks.
const watchEvery = 2 * time.Second

func (d *dog) watchStatus(ctx context.Context, c *api.Client, s *show.Overall) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		if isTerminal(d.stdout) {
			if err := d.print("\x1b[H\x1b[2J"); err != nil {
				return err
			}
		}
		if err := d.printStatus(s); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			if context.Cause(ctx) == errTimeout {
				return nil // asked for so long
			}
			return failed(context.Cause(ctx), "watch")
		case <-tick.C:
		}
		next, err := overallStatus(ctx, c, s)
		if err != nil {
			return err
		}
		s = next
	}
}

// overallStatus asks for everything that a screen has; last is the one before.
func overallStatus(ctx context.Context, c *api.Client, last *show.Overall) (*show.Overall, error) {
	cl, err := c.Cluster(ctx)
	if err != nil {
		return nil, failed(err, "get cluster information")
	}
	s := &show.Overall{Version: api.Version, At: time.Now(), Cluster: *cl}
	s.Cluster.History = nil
	if s.Nodes, err = c.Nodes(ctx); err != nil {
		return nil, failed(err, "get node list")
	}
	if cl.State != api.StateRunning && cl.State != api.StateHalted {
		return s.Judged(nil), nil
	}
	if s.Space, err = c.Capacities(ctx); err != nil {
		return nil, failed(err, "get the space of the nodes")
	}
	if s.Recovering, err = c.Recovery(ctx); err != nil {
		return nil, failed(err, "get recovery information")
	}
	vdis, err := c.VDIs(ctx, &api.VDIQuery{})
	if err != nil {
		return nil, failed(err, "list VDIs")
	}
	s.Count(vdis)
	locks, err := c.Locks(ctx)
	if err != nil {
		return nil, failed(err, "list VDIs in use")
	}
	s.InUse = locks.Locks
	return s.Judged(last), nil
}

func (d *dog) df() *cobra.Command {
	return &cobra.Command{Use: "df", Short: "Show space: raw, usable, provisioned and used", Args: arguments(0, 0),
		RunE: d.with(func(ctx context.Context, c *api.Client, _ []string) error {
			cl, err := c.Cluster(ctx)
			if err != nil {
				return failed(err, "get cluster information")
			}
			space, err := c.Capacities(ctx)
			if err != nil {
				return failed(err, "get the space of the nodes")
			}
			vdis, err := c.VDIs(ctx, &api.VDIQuery{Physical: true})
			if err != nil {
				return failed(err, "list VDIs")
			}
			for _, n := range space.Nodes {
				if n.Error != "" {
					d.talk("Cannot get the space of node %s: %s", n.Addr, n.Error)
				}
			}
			f := show.Filesystem(cl, space, vdis)
			if d.json() {
				return d.document(f)
			}
			return d.print(f.Text(d.raw))
		})}
}

// man writes the pages of all commands, or one to stdout.
func (d *dog) man() *cobra.Command {
	var dir string
	cmd := &cobra.Command{Use: "man --dir <directory>", Short: "Write man pages of all commands", Hidden: true, Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				return badArgument("Please specify --dir")
			}
			if err := writePages(cmd.Root(), dir); err != nil {
				return fmt.Errorf("Failed to write man pages: %w", err)
			}
			return nil
		}}
	cmd.Flags().StringVar(&dir, "dir", "", "where to write the pages; it must exist")
	return cmd
}
