package main

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/cmd/dog/internal/show"
)

// span reads the optional arguments OFFSET and LEN; without LEN length is
// api.ToEnd.
func span(args []string) (offset uint64, length int64, err error) {
	length = api.ToEnd
	if len(args) > 0 {
		if offset, err = show.ParseSize(args[0]); err != nil {
			return 0, 0, badArgument("%s", upper(err.Error()))
		}
	}
	if len(args) > 1 {
		n, err := show.ParseSize(args[1])
		if err != nil {
			return 0, 0, badArgument("%s", upper(err.Error()))
		}
		length = int64(min(n, sheepdog.MaxVDISize+1))
	}
	return offset, length, nil
}

func (d *dog) vdiRead() *cobra.Command {
	req := &api.ReadRequest{}
	cmd := &cobra.Command{Use: "read [-s <snapshot>] <vdiname> [<offset> [<len>]]", Short: "Read data from a VDI to stdout", Args: arguments(1, 3, "VDI name"), ValidArgsFunction: d.completeVDI,
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) (err error) {
			req.Name = args[0]
			if req.Offset, req.Length, err = span(args[1:]); err != nil {
				return err
			}
			d.bytes = true
			return failed(readVDI(ctx, c, req, d.stdout), "read VDI %s", req.Name)
		})}
	snapshotFlag(cmd, &req.Snapshot)
	return cmd
}

// readVDI reads at most up to the end of the VDI. The API refuses a length that
// goes beyond; its size is looked up only then.
func readVDI(ctx context.Context, c *api.Client, req *api.ReadRequest, w io.Writer) error {
	n, err := c.ReadVDI(ctx, req, w)
	if err == nil || n > 0 || req.Length < 0 || !errors.Is(err, sheepdog.ErrInvalid) {
		return err
	}
	v, ferr := findVDI(ctx, c, req.Name, req.Snapshot)
	if ferr != nil || req.Offset > v.SizeBytes || uint64(req.Length) <= v.SizeBytes-req.Offset {
		return err
	}
	clipped := *req
	clipped.Length = int64(v.SizeBytes - req.Offset)
	_, err = c.ReadVDI(ctx, &clipped, w)
	return err
}

func (d *dog) vdiWrite() *cobra.Command {
	var through bool
	cmd := &cobra.Command{Use: "write <vdiname> [<offset> [<len>]]", Short: "Write data from stdin to a VDI", Args: arguments(1, 3, "VDI name"), ValidArgsFunction: d.completeVDI,
		RunE: d.with(func(ctx context.Context, c *api.Client, args []string) (err error) {
			req := &api.WriteRequest{Name: args[0]}
			if req.Offset, req.Length, err = span(args[1:]); err != nil {
				return err
			}
			data := d.stdin
			if req.Length >= 0 {
				data = io.LimitReader(io.MultiReader(data, zeros{}), req.Length)
			}
			n, err := c.WriteVDI(ctx, req, data)
			if err != nil {
				return failed(err, "write VDI %s", req.Name)
			}
			if d.json() {
				return d.document(api.WriteReply{Version: api.Version, Written: n})
			}
			return nil
		})}
	cmd.Flags().BoolVarP(&through, "writethrough", "w", false, "ignored: data are durable when dog returns")
	return cmd
}

// zeros reads as zeros for ever.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }
