package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/cmd/dog/internal/show"
)

func (d *dog) vdiTrash() *cobra.Command {
	return d.subgroup("trash", "Deleted VDIs that can still be restored", d.trashList(), d.trashRestore(), d.trashPurge(), d.trashEnable(), d.trashDisable())
}

func (d *dog) trashList() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List what is in the trash, and how long VDIs are kept", Args: arguments(0, 0),
		RunE: d.with(func(ctx context.Context, c *api.Client, _ []string) error {
			t, err := c.Trash(ctx)
			if err != nil {
				return failed(err, "list the trash")
			}
			if d.json() {
				return d.document(t)
			}
			if !d.raw {
				d.talk("%s", keeping(t.KeepSeconds))
			}
			return d.print(show.Trash(t, d.raw, d.zone))
		})}
}

func keeping(seconds uint64) string {
	if seconds == 0 {
		return "The trash is off: VDIs are deleted for good. Turn it on with dog vdi trash enable."
	}
	return fmt.Sprintf("Deleted VDIs are kept for %v.", time.Duration(seconds)*time.Second)
}

// inTrash finds one VDI in the trash, by the name that it had or by its id.
func inTrash(ctx context.Context, c *api.Client, arg string) (*api.TrashedVDI, error) {
	t, err := c.Trash(ctx)
	if err != nil {
		return nil, failed(err, "list the trash")
	}
	var found *api.TrashedVDI
	var ids []string
	for i := range t.VDIs {
		v := &t.VDIs[i]
		if "0x"+v.ID.String() == arg {
			return v, nil
		}
		if v.Name == arg {
			found, ids = v, append(ids, "0x"+v.ID.String())
		}
	}
	switch {
	case found == nil:
		return nil, fmt.Errorf("VDI %s is not in the trash: %w", arg, sheepdog.ErrNotFound)
	case len(ids) > 1:
		return nil, fmt.Errorf("The trash has several VDIs that were named %s; give an id: %s", arg, strings.Join(ids, ", "))
	}
	return found, nil
}

func (d *dog) trashRestore() *cobra.Command {
	return &cobra.Command{Use: "restore <vdiname or 0xid> [<new name>]", Short: "Take a VDI out of the trash", Args: arguments(1, 2, "VDI name or id"),
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) error {
			t, err := inTrash(ctx, c, args[0])
			if err != nil {
				return err
			}
			req := &api.RestoreRequest{ID: t.ID}
			if len(args) == 2 {
				if req.Name = args[1]; req.Name == "" {
					return badArgument("The new name is empty")
				}
			}
			v, err := c.RestoreTrash(ctx, req)
			if err != nil {
				return failed(err, "restore VDI %s", args[0])
			}
			return d.made(v, "VDI ID of restored VDI")
		})}
}

func (d *dog) trashPurge() *cobra.Command {
	var all, force, dryRun bool
	cmd := &cobra.Command{Use: "purge {--all | <vdiname or 0xid>}", Short: "Delete VDIs in the trash for good", Args: arguments(0, 1)}
	cmd.RunE = d.with(func(ctx context.Context, c *api.Client, args []string) error {
		if all == (len(args) == 1) {
			return badArgument("Please specify the VDI, or --all")
		}
		t, err := c.Trash(ctx)
		if err != nil {
			return failed(err, "list the trash")
		}
		list := t.VDIs
		if !all {
			one, err := inTrash(ctx, c, args[0])
			if err != nil {
				return err
			}
			list = []api.TrashedVDI{*one}
		}
		if dryRun {
			return d.would(fmt.Sprintf("delete %d VDIs in the trash for good", len(list)))
		}
		if !force {
			if err := d.confirm(fmt.Sprintf("%d VDIs in the trash are deleted for good.", len(list))); err != nil {
				return err
			}
		}
		for i := range list {
			if err := c.PurgeTrash(ctx, list[i].ID); err != nil {
				return failed(err, "purge VDI %s (id %s)", list[i].Name, list[i].ID)
			}
		}
		return nil
	})
	cmd.Flags().BoolVar(&all, "all", false, "everything that is in the trash")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be done")
	return cmd
}

func (d *dog) trashEnable() *cobra.Command {
	var keep string
	cmd := &cobra.Command{Use: "enable", Short: "Keep VDIs that are deleted from now on", Args: arguments(0, 0),
		RunE: d.with(func(ctx context.Context, c *api.Client, _ []string) error {
			span, err := parseSpan(keep)
			if err != nil || span < time.Second || span/time.Second > api.MaxTrashSeconds {
				return badArgument("Invalid --keep '%s': want a time of 1s to 36500d, as 12h or 7d", keep)
			}
			if err := c.SetTrash(ctx, &api.TrashSetting{KeepSeconds: uint64(span / time.Second)}); err != nil {
				return failed(err, "turn the trash on")
			}
			d.talk("%s", keeping(uint64(span/time.Second)))
			return nil
		})}
	cmd.Flags().StringVar(&keep, "keep", "7d", "how long, as 12h or 7d")
	return cmd
}

func (d *dog) trashDisable() *cobra.Command {
	return &cobra.Command{Use: "disable", Short: "Delete VDIs for good from now on; what is in the trash stays until it expires", Args: arguments(0, 0),
		RunE: d.with(func(ctx context.Context, c *api.Client, _ []string) error {
			return failed(c.SetTrash(ctx, &api.TrashSetting{}), "turn the trash off")
		})}
}

// parseSpan reads a time such as 90s, 12h or 7d.
func parseSpan(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		h, err := time.ParseDuration(days + "h")
		if err != nil || h > (1<<62)/24 || h < 0 {
			return 0, fmt.Errorf("invalid time '%s'", s)
		}
		return 24 * h, nil
	}
	return time.ParseDuration(s)
}

// parseExpiry reads when a snapshot is deleted: a time from now, or a moment.
func (d *dog) parseExpiry(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	now := d.now()
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		var span time.Duration
		span, err = parseSpan(s)
		at = now.Add(span)
	}
	if err != nil || !at.After(now) || at.Year() > 9999 {
		return time.Time{}, badArgument("Invalid --expires '%s': want a time from now, as 12h or 7d, or a moment in the future, as 2030-01-02T15:04:05Z", s)
	}
	return at.UTC(), nil
}
