package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sheepdog/api"
	"sheepdog/cmd/dog/internal/show"
)

func (d *dog) throttleCommands() []*cobra.Command {
	set := &cobra.Command{Use: "set-throttle <max> <interval>", Short: "Recover at most max objects per interval of milliseconds; both 0: no bound",
		Args: arguments(2, 2, "max", "interval"),
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) error {
			t, err := parseThrottle(args[0], args[1])
			if err != nil {
				return err
			}
			return failed(c.SetThrottle(ctx, t), "set the throttle of node %s", c.Addr())
		})}
	get := &cobra.Command{Use: "get-throttle", Short: "Show the bound of recovery", Args: arguments(0, 0),
		RunE: d.with(func(ctx context.Context, c *api.Client, _ []string) error {
			t, err := c.Throttle(ctx)
			if err != nil {
				return failed(err, "get the throttle of node %s", c.Addr())
			}
			if d.json() {
				return d.document(t)
			}
			d.talk("max (%d), interval (%d)", t.MaxObjects, t.IntervalMilliseconds)
			return nil
		})}
	return []*cobra.Command{set, get}
}

func parseThrottle(most, interval string) (*api.Throttle, error) {
	n, err := strconv.ParseUint(most, 10, 32)
	if err != nil {
		return nil, badUsage(fmt.Errorf("Invalid max (%s)", most))
	}
	ms, err := strconv.ParseUint(interval, 10, 63)
	if err != nil {
		return nil, badUsage(fmt.Errorf("Invalid interval (%s)", interval))
	}
	if (n == 0) != (ms == 0) {
		return nil, badUsage(fmt.Errorf("Invalid interval max (%d), interval (%d)", n, ms))
	}
	return &api.Throttle{MaxObjects: uint32(n), IntervalMilliseconds: ms}, nil
}

func (d *dog) nodeMD() *cobra.Command {
	var all bool
	info := &cobra.Command{Use: "info", Short: "Show the disks of the node, or of all nodes", Args: arguments(0, 0),
		RunE: d.with(func(ctx context.Context, c *api.Client, _ []string) error {
			disks, err := c.Disks(ctx, all)
			if err != nil {
				return failed(err, "list disks")
			}
			for _, n := range disks.Nodes {
				if n.Error != "" {
					d.talk("Cannot get the disks of node %s: %s", n.Addr, n.Error)
				}
			}
			if d.json() {
				return d.document(disks)
			}
			return d.print(show.Disks(disks, all, d.raw))
		})}
	info.Flags().BoolVarP(&all, "all", "A", false, "of all nodes")
	return d.subgroup("md", "Disks of nodes", info, d.nodePlug(), d.nodeUnplug())
}

func (d *dog) nodeLog() *cobra.Command {
	get := &cobra.Command{Use: "get", Short: "Show how much the node logs", Args: arguments(0, 0),
		RunE: d.with(func(ctx context.Context, c *api.Client, _ []string) error {
			l, err := c.LogLevel(ctx)
			if err != nil {
				return failed(err, "get the log level of node %s", c.Addr())
			}
			if d.json() {
				return d.document(l)
			}
			d.talk("%s (%d)", l.Level, slices.Index(api.LogLevels(), l.Level))
			return nil
		})}
	set := &cobra.Command{Use: "set <level>", Short: "Change how much the node logs, until it ends", Args: arguments(1, 1, "level"), ValidArgs: api.LogLevels(),
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) error {
			if !slices.Contains(api.LogLevels(), args[0]) {
				return &failure{code: exitRefused, err: fmt.Errorf("invalid loglevel: %s\navailable loglevels:\n%s", args[0], levelList())}
			}
			return failed(c.SetLogLevel(ctx, &api.LogLevel{Level: args[0]}), "set the log level of node %s", c.Addr())
		})}
	list := &cobra.Command{Use: "list", Short: "List the levels", Args: arguments(0, 0),
		RunE: func(*cobra.Command, []string) error {
			if d.json() {
				return d.document(levels{Version: api.Version, Levels: api.LogLevels()})
			}
			d.talk("%s", levelList())
			return nil
		}}
	return d.subgroup("log", "The log of the node", d.subgroup("level", "How much the node logs", get, set, list))
}

// levels is what `node log level list` prints with -o json, the most urgent first.
type levels struct {
	Version int      `json:"version"`
	Levels  []string `json:"levels"`
}

func levelList() string {
	var lines []string
	for i, name := range api.LogLevels() {
		lines = append(lines, fmt.Sprintf("%s\t(%d)", name, i))
	}
	return strings.Join(lines, "\n")
}

func (d *dog) nodeStat() *cobra.Command {
	var watch bool
	cmd := &cobra.Command{Use: "stat [-w]", Short: "Show what the node has served since its start", Args: arguments(0, 0),
		RunE: d.with(func(ctx context.Context, c *api.Client, _ []string) error {
			if watch {
				return d.watchStats(ctx, c, time.Second)
			}
			s, err := c.Stats(ctx)
			if err != nil {
				return failed(err, "get the counters of node %s", c.Addr())
			}
			if d.json() {
				return d.document(s)
			}
			return d.print(show.Stats(s, nil, 0, d.raw))
		})}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "repeat every second, with rates")
	return cmd
}

// watchStats repeats until it is interrupted.
func (d *dog) watchStats(ctx context.Context, c *api.Client, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var last *api.Stats
	var at time.Time
	for {
		s, err := c.Stats(ctx)
		if err != nil {
			return failed(err, "get the counters of node %s", c.Addr())
		}
		now := time.Now()
		if last == nil {
			last, at = s, now.Add(-every)
		}
		if d.json() {
			err = d.document(s)
		} else {
			err = d.print(show.Stats(s, last, now.Sub(at), d.raw))
		}
		if err != nil {
			return err
		}
		last, at = s, now
		select {
		case <-ctx.Done():
			if context.Cause(ctx) == errTimeout {
				return nil // asked for so long
			}
			return failed(context.Cause(ctx), "watch")
		case <-tick.C:
		}
	}
}

func (d *dog) nodeVNodes() *cobra.Command {
	set := &cobra.Command{Use: "set <number>", Short: "Set the weight of the node, in a cluster formatted with -V", Args: arguments(1, 1, "number of vnodes"),
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) error {
			n, err := strconv.ParseUint(args[0], 10, 16)
			if err != nil || n == 0 {
				return badUsage(fmt.Errorf("Invalid number of vnodes '%s': must be an integer between 1 and %d", args[0], math.MaxUint16))
			}
			if err := c.SetVNodes(ctx, &api.VNodesRequest{VNodes: uint16(n)}); err != nil {
				return &failure{code: exitRefused, err: failed(err, "set the weight of node %s", c.Addr())}
			}
			return nil
		})}
	return d.subgroup("vnodes", "The weight of the node", set)
}
