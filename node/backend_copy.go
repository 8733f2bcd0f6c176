package node

import (
	"context"

	"sheepdog"
	"sheepdog/api"
	"sheepdog/vdi"
)

// statusLimit bounds the extents of one step of a copy.
const statusLimit = 4096

// fillCopy copies the data of src into a new VDI, and the holes as well if those are
// wanted.
func (b backend) fillCopy(ctx context.Context, name string, holes bool, src *vdi.Volume, report func(api.CopyProgress) error) error {
	dst, err := b.n.vdis.Open(name, "")
	if err != nil {
		return err
	}
	defer dst.Close(context.WithoutCancel(ctx))
	c := &copying{dst: dst, src: src, holes: holes, buf: make([]byte, copyChunk), report: report, total: dst.Size()}
	if err := c.run(ctx); err != nil {
		return err
	}
	return dst.Flush(ctx)
}

// copying is one copy of a snapshot into a VDI that is at least as large.
type copying struct {
	dst, src    *vdi.Volume
	holes       bool // write zeros where nothing is
	buf         []byte
	report      func(api.CopyProgress) error
	done, total uint64
}

func (c *copying) run(ctx context.Context) error {
	for off := uint64(0); off < c.src.Size(); {
		runs, err := c.src.Status(ctx, off, min(copyChunk, c.src.Size()-off), statusLimit)
		if err != nil {
			return err
		}
		for _, r := range runs {
			if r.State == sheepdog.Data || c.holes {
				if err := c.move(ctx, off, r.Length, r.State == sheepdog.Data); err != nil {
					return err
				}
			}
			off += r.Length
		}
		if err := c.advance(off); err != nil {
			return err
		}
	}
	if c.holes && c.src.Size() < c.dst.Size() {
		if err := c.move(ctx, c.src.Size(), c.dst.Size()-c.src.Size(), false); err != nil {
			return err
		}
	}
	return c.advance(c.total)
}

func (c *copying) advance(done uint64) error {
	c.done = done
	return c.report(api.CopyProgress{DoneBytes: c.done, TotalBytes: c.total})
}

// move writes n bytes at off: those of the source, or zeros.
func (c *copying) move(ctx context.Context, off, n uint64, data bool) error {
	for n > 0 {
		p := c.buf[:min(n, uint64(len(c.buf)))]
		if !data {
			clear(p)
		} else if err := c.src.ReadAt(ctx, p, off); err != nil {
			return err
		}
		if err := c.dst.WriteAt(ctx, p, off); err != nil {
			return err
		}
		off, n = off+uint64(len(p)), n-uint64(len(p))
	}
	return nil
}
