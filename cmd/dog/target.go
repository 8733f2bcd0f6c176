package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"sheepdog"
	"sheepdog/api"
)

// named lets the first argument of commands on existing VDIs be NAME, NAME@TAG,
// NAME@NUMBER, or an id as 0x and hex digits. It changes args and sets -s. A -s that is
// empty is refused.
func named(ctx context.Context, c *api.Client, cmd *cobra.Command, args []string) error {
	if f := cmd.Flags().Lookup("snapshot"); f != nil && f.Changed && f.Value.String() == "" && cmd.Name() != "snapshot" {
		// An empty variable in a script must not mean the VDI itself.
		return badArgument("The snapshot is empty")
	}
	if cmd.ValidArgsFunction == nil || len(args) == 0 {
		return nil
	}
	name, snapshot, found := cutLast(args[0], "@")
	if !found {
		if !strings.HasPrefix(args[0], "0x") {
			return nil
		}
		v, err := byID(ctx, c, args[0])
		if err != nil || v == nil {
			return err
		}
		if name, snapshot = v.Name, string(selectorOf(v)); snapshot == "" {
			args[0] = name
			return nil
		}
	}
	if snapshot == "" {
		return badArgument("The snapshot of '%s' is empty", args[0])
	}
	f := cmd.Flags().Lookup("snapshot")
	if f == nil || cmd.Name() == "snapshot" {
		return badArgument("Invalid VDI '%s': %s is about VDIs, not snapshots", args[0], cmd.CommandPath())
	}
	if f.Changed && f.Value.String() != snapshot {
		return badArgument("Two snapshots are given: '%s' and -s '%s'", args[0], f.Value)
	}
	args[0] = name
	return cmd.Flags().Set("snapshot", snapshot)
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// byID finds a VDI or snapshot by its id, unless a VDI has that as its name, or
// it is no id; then it is nil.
func byID(ctx context.Context, c *api.Client, arg string) (*api.VDI, error) {
	n, err := strconv.ParseUint(arg[2:], 16, 24)
	if err != nil {
		return nil, nil
	}
	vdis, err := c.VDIs(ctx, &api.VDIQuery{})
	if err != nil {
		return nil, failed(err, "look for VDI id %s", arg)
	}
	var found *api.VDI
	for i := range vdis {
		if vdis[i].Name == arg {
			return nil, nil
		}
		if vdis[i].ID == api.VID(n) {
			found = &vdis[i]
		}
	}
	if found == nil {
		return nil, fmt.Errorf("VDI with id %s %w", arg, sheepdog.ErrNotFound)
	}
	return found, nil
}
