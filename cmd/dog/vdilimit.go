package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"sheepdog/api"
	"sheepdog/cmd/dog/internal/show"
)

// limitOptions are the flags of `dog vdi limit`.
type limitOptions struct {
	iops      uint64
	bandwidth string
	burst     float64
	clear     bool
}

func (d *dog) vdiLimit() *cobra.Command {
	o := &limitOptions{}
	cmd := &cobra.Command{Use: "limit [--iops N] [--bandwidth SIZE] [--burst SECONDS] [--clear] <vdiname>",
		Short: "Print or set the limits of a VDI's I/O, which every node keeps that serves it", Args: arguments(1, 1, "VDI name"), ValidArgsFunction: d.completeVDI}
	f := cmd.Flags()
	f.Uint64Var(&o.iops, "iops", 0, "reads, writes and discards per second; 0: no limit")
	f.StringVar(&o.bandwidth, "bandwidth", "0", "bytes per second, as 100M; 0: no limit")
	f.Float64Var(&o.burst, "burst", 0, "seconds of the limits that an idle VDI may use at once; 0: one")
	f.BoolVar(&o.clear, "clear", false, "remove all limits")
	cmd.RunE = d.with(func(ctx context.Context, c *api.Client, args []string) error {
		set := f.Changed("iops") || f.Changed("bandwidth") || f.Changed("burst")
		if !set && !o.clear {
			return d.printLimits(ctx, c, args[0])
		}
		if set && o.clear {
			return badArgument("--clear takes no limits")
		}
		l, err := c.Limits(ctx, args[0])
		if err != nil {
			return failed(err, "read the limits of VDI %s", args[0])
		}
		if err := o.change(l, f.Changed); err != nil {
			return err
		}
		return failed(c.SetLimits(ctx, l), "limit VDI %s", args[0])
	})
	return cmd
}

// change puts what was given into the limits; the others stay.
func (o *limitOptions) change(l *api.Limits, given func(flag string) bool) error {
	if o.clear {
		*l = api.Limits{Name: l.Name}
		return nil
	}
	if given("iops") {
		l.IOPS = o.iops
	}
	if given("bandwidth") {
		n, err := show.ParseSize(o.bandwidth)
		if err != nil {
			return badArgument("Invalid bandwidth '%s': want bytes per second, as 100M", o.bandwidth)
		}
		l.BytesPerSecond = n
	}
	if given("burst") {
		l.BurstSeconds = o.burst
	}
	return nil
}

func (d *dog) printLimits(ctx context.Context, c *api.Client, name string) error {
	l, err := c.Limits(ctx, name)
	if err != nil {
		return failed(err, "read the limits of VDI %s", name)
	}
	if d.json() {
		return d.document(l)
	}
	iops, bandwidth, burst := "none", "none", l.BurstSeconds
	if l.IOPS > 0 {
		iops = strconv.FormatUint(l.IOPS, 10)
	}
	if l.BytesPerSecond > 0 {
		bandwidth = show.Size(l.BytesPerSecond) + "/s"
	}
	if burst == 0 {
		burst = 1
	}
	return d.print(fmt.Sprintf("iops %s\nbandwidth %s\nburst %v s\n", iops, bandwidth, burst))
}
