package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/cmd/dog/internal/show"
)

func (d *dog) vdiSetAttr() *cobra.Command {
	req := &api.SetAttributeRequest{}
	cmd := &cobra.Command{Use: "setattr [-x] [-d] <vdiname> <key> [<value>]", Short: "Set an attribute of a VDI; without a value it comes from stdin",
		Args: arguments(1, 3, "VDI name"), ValidArgsFunction: d.completeVDI,
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) error {
			if len(args) < 2 || args[1] == "" {
				return badArgument("Please specify the attribute key")
			}
			req.Name, req.Key = args[0], args[1]
			if err := d.attributeValue(req, args[2:]); err != nil {
				return err
			}
			return attributeFailure(ctx, c, req.Name, req.Snapshot, req.Key, c.SetAttribute(ctx, req))
		})}
	snapshotFlag(cmd, &req.Snapshot)
	cmd.Flags().BoolVarP(&req.Exclusive, "exclusive", "x", false, "fail if the attribute exists; of several at a time one wins, so it can be a lock")
	cmd.Flags().BoolVarP(&req.Delete, "delete", "d", false, "delete the attribute")
	return cmd
}

// attributeValue takes the value from the command line, else from stdin.
func (d *dog) attributeValue(req *api.SetAttributeRequest, args []string) error {
	switch {
	case req.Delete && (req.Exclusive || len(args) > 0):
		return badArgument("Deleting an attribute takes neither -x nor a value")
	case req.Delete:
		return nil
	case len(args) > 0:
		req.Value = []byte(args[0])
		return nil
	}
	value, err := io.ReadAll(io.LimitReader(d.stdin, api.MaxAttributeValue+1))
	if err != nil {
		return fmt.Errorf("Failed to read the value from stdin: %w", err)
	}
	if len(value) > api.MaxAttributeValue {
		return fmt.Errorf("The value is longer than %d bytes", api.MaxAttributeValue)
	}
	req.Value = value
	return nil
}

func (d *dog) vdiGetAttr() *cobra.Command {
	var snapshot api.Selector
	cmd := &cobra.Command{Use: "getattr <vdiname> [<key>]", Short: "Print the value of an attribute of a VDI, or with -o json and no key all keys",
		Args: arguments(1, 2, "VDI name"), ValidArgsFunction: d.completeVDI,
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) error {
			if len(args) == 1 && d.json() {
				keys, err := c.Attributes(ctx, args[0], snapshot)
				if err != nil {
					return attributeFailure(ctx, c, args[0], snapshot, "", err)
				}
				return d.document(keys)
			}
			if len(args) < 2 || args[1] == "" {
				return badArgument("Please specify the attribute key")
			}
			value, err := c.Attribute(ctx, args[0], snapshot, args[1])
			if err != nil {
				return attributeFailure(ctx, c, args[0], snapshot, args[1], err)
			}
			if d.json() {
				return d.document(api.Attribute{Version: api.Version, Name: args[0], Key: args[1], Value: value})
			}
			return d.print(string(value))
		})}
	snapshotFlag(cmd, &snapshot)
	return cmd
}

// attributeFailure has the exit codes that scripts use as locks.
func attributeFailure(ctx context.Context, c *api.Client, name string, snapshot api.Selector, key string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sheepdog.ErrExists):
		return &failure{code: exitExists, err: fmt.Errorf("The attribute '%s' already exists", key)}
	case !errors.Is(err, sheepdog.ErrNotFound):
		return failed(err, "access attribute '%s' of VDI %s", key, name)
	}
	if _, verr := findVDI(ctx, c, name, snapshot); errors.Is(verr, sheepdog.ErrNotFound) {
		return &failure{code: exitMissing, err: fmt.Errorf("VDI not found: %s", name)}
	}
	return &failure{code: exitMissing, err: fmt.Errorf("Attribute '%s' not found", key)}
}

func (d *dog) vdiRename() *cobra.Command {
	return &cobra.Command{Use: "rename <vdiname> <new name>", Short: "Give a VDI and its snapshots another name", Args: arguments(2, 2, "VDI name", "new name"), ValidArgsFunction: d.completeVDI,
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) error {
			return failed(c.RenameVDI(ctx, &api.RenameRequest{Name: args[0], NewName: args[1]}), "rename VDI %s to %s", args[0], args[1])
		})}
}

func (d *dog) vdiLock() *cobra.Command {
	return d.subgroup("lock", "Who has VDIs open", d.lockList(), d.lockUnlock())
}

func (d *dog) lockList() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List locked VDIs; with -v those in use in a cluster without locks too", Args: arguments(0, 0),
		RunE: d.with(func(ctx context.Context, c *api.Client, _ []string) error {
			locks, err := c.Locks(ctx)
			if err != nil {
				return failed(err, "list locks")
			}
			if d.json() {
				return d.document(locks)
			}
			if !locks.Exclusive && !d.verbose {
				locks.Locks = nil
			}
			return d.print(show.Locks(locks.Locks, d.raw))
		})}
}

func (d *dog) lockUnlock() *cobra.Command {
	var snapshot api.Selector
	cmd := &cobra.Command{Use: "unlock <vdiname>", Short: "Have the gateway that uses a VDI flush it and give it back", Args: arguments(1, 1, "VDI name"), ValidArgsFunction: d.completeVDI,
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) error {
			if snapshot != "" {
				return fmt.Errorf("Snapshot %s of VDI %s is not locked: snapshots never are", snapshot, args[0])
			}
			return failed(c.Unlock(ctx, &api.UnlockRequest{Name: args[0]}), "unlock VDI %s", args[0])
		})}
	snapshotFlag(cmd, &snapshot)
	return cmd
}
