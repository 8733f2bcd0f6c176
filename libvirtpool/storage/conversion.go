package storage

import (
	"context"
	"fmt"
	"io"
	"os"

	"sheepdog"
	"sheepdog/libvirtpool/qcow2"
	"sheepdog/libvirtpool/rpc"
)

// maxSpool is the most bytes of an image that are kept for conversion.
const maxSpool = 256 << 30

// conversion keeps a qcow2 image in a file until it is complete, because its
// parts refer to each other in any order, and then writes what it contains.
type conversion struct {
	d      *Driver
	volume Volume
	file   *os.File
	size   int64
}

func newConversion(d *Driver, v Volume) (*conversion, error) {
	f, err := os.CreateTemp(d.spool, "sheep-libvirt-upload-*")
	if err != nil {
		return nil, rpc.Errorf(rpc.CodeFailed, "make a file for the conversion of a qcow2 image: %v; sheep-libvirt --spool names a directory with room for it, and raw images need none", err)
	}
	os.Remove(f.Name()) // it lives as long as it is open, also if this process dies
	return &conversion{d: d, volume: v, file: f}, nil
}

func (c *conversion) Write(p []byte) (int, error) {
	if c.size += int64(len(p)); c.size > maxSpool {
		return 0, fmt.Errorf("a qcow2 image of more than %d bytes cannot be converted, upload it raw: %w", int64(maxSpool), sheepdog.ErrInvalid)
	}
	if allZero(p) {
		return len(p), nil // a hole of the file, which complete makes as long as it is
	}
	return c.file.WriteAt(p, c.size-int64(len(p)))
}

// complete gives the file its length, which may end with a hole.
func (c *conversion) complete() error { return c.file.Truncate(c.size) }

func (c *conversion) abort() { c.file.Close() }

func (c *conversion) finish(ctx context.Context) error {
	defer c.file.Close()
	if err := c.complete(); err != nil {
		return fmt.Errorf("keep the qcow2 image for its conversion: %w", err)
	}
	img, err := qcow2.Open(c.file, c.size)
	if err != nil {
		return rpc.Errorf(rpc.CodeConfig, "the uploaded qcow2 image cannot be converted to raw: %v", err)
	}
	size := c.volume.VDI.Size
	if img.Size() > size {
		if err := checkSize(img.Size()); err != nil {
			return err
		}
		size = img.Size()
		if err := c.d.store.Resize(ctx, c.volume.VDI.Name, size); err != nil {
			return err
		}
	}
	r := io.MultiReader(io.NewSectionReader(img, 0, int64(img.Size())), io.LimitReader(zeros{}, int64(size-img.Size())))
	if err := c.d.store.Write(ctx, c.volume.VDI.Name, 0, r); err != nil {
		return err
	}
	c.d.log.Info("a qcow2 image was uploaded; the volume holds its contents as raw", "volume", c.volume.Key(), "image", c.size, "size", img.Size())
	return nil
}
