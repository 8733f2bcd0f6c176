package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"sheepdog"
	"sheepdog/nbd"
	"sheepdog/vdi"
)

// exports serves every VDI as NAME, read-write, and every snapshot as NAME@TAG
// or NAME@ID, read-only.
type exports struct{ n *Node }

// Open attaches to a VDI or snapshot. It first waits until this node knows
// everything committed so far: a VDI made through another node is there.
func (e exports) Open(ctx context.Context, name string, _ nbd.Info) (nbd.Device, error) {
	if err := e.n.ready(ctx); err != nil {
		return nil, fmt.Errorf("%w: %w", nbd.ErrShutdown, err)
	}
	base, ref, _ := strings.Cut(name, "@")
	v, err := e.n.vdis.Open(base, ref)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", nbd.ErrUnknownExport, err)
	}
	if e.n.cluster.View().Config.Locking {
		if err := v.Claim(ctx); err != nil {
			v.Close(context.WithoutCancel(ctx))
			return nil, fmt.Errorf("%w: %w", nbd.ErrPolicy, err)
		}
	}
	return e.n.Device(v), nil
}

// Device is an open volume as NBD serves it. To close it closes the volume.
func (n *Node) Device(v *vdi.Volume) nbd.Device {
	d := &device{v: v, detach: n.timing.Detach, stats: &n.stats.client}
	d.ended = d.judge
	return d
}

// List names the VDIs, then the snapshots by number.
func (e exports) List(ctx context.Context) ([]string, error) {
	if err := e.n.ready(ctx); err != nil {
		return nil, fmt.Errorf("%w: %w", nbd.ErrShutdown, err)
	}
	var names, snaps []string
	for _, entry := range e.n.dir.List() {
		if entry.SnapID == 0 {
			names = append(names, entry.Name)
		} else {
			snaps = append(snaps, fmt.Sprintf("%s@%d", entry.Name, entry.SnapID))
		}
	}
	return append(names, snaps...), nil
}

// device is a volume as NBD sees it: the size is rounded up to sectors.
type device struct {
	v      *vdi.Volume
	detach time.Duration // bound of the hand-over when the last client leaves
	stats  *counters
	ended  vdi.Judge // judge
}

const sector = 512

func (d *device) Size() uint64           { return (d.v.Size() + sector - 1) &^ (sector - 1) }
func (d *device) ReadOnly() bool         { return d.v.ReadOnly() }
func (d *device) PreferredBlock() uint32 { return sheepdog.BlockSize }

func (d *device) ReadAt(ctx context.Context, p []byte, off uint64) error {
	began := time.Now()
	d.stats.begin(&d.stats.read)
	err := d.v.ReadAt(ctx, p, off)
	d.stats.end(&d.stats.read, began, err, len(p))
	return errno(err)
}

func (d *device) WriteAt(ctx context.Context, p []byte, off uint64, fua bool) error {
	began := time.Now()
	d.stats.begin(&d.stats.write)
	err := d.v.WriteAt(ctx, p, off)
	d.stats.end(&d.stats.write, began, err, len(p))
	return d.then(ctx, err, fua)
}

// TryReadAt implements nbd.Prompt.
func (d *device) TryReadAt(p []byte, off uint64) bool {
	began := time.Now()
	if !d.v.TryReadAt(p, off) {
		return false
	}
	d.stats.read.serve(began, len(p))
	return true
}

// StartWrites implements nbd.Starter.
func (d *device) StartWrites(ctx context.Context, ws []nbd.Write, begun []bool) {
	b := d.v.Batch(ctx, d.ended)
	for i := range ws {
		if begun[i] = b.Add(ws[i].Data, ws[i].Off, ws[i].Done); begun[i] {
			d.stats.begin(&d.stats.write)
		}
	}
	b.Send()
}

// judge counts a write that StartWrites began.
func (d *device) judge(began time.Time, n int, err error) error {
	d.stats.end(&d.stats.write, began, err, n)
	return errno(err)
}

func (d *device) Flush(ctx context.Context) error {
	began := time.Now()
	d.stats.begin(&d.stats.flush)
	err := d.v.Flush(ctx)
	d.stats.end(&d.stats.flush, began, err, 0)
	return errno(err)
}

// zero counts as the removal of data.
func (d *device) zero(ctx context.Context, off, n uint64) error {
	began := time.Now()
	d.stats.begin(&d.stats.remove)
	err := d.v.ZeroAt(ctx, off, n)
	d.stats.end(&d.stats.remove, began, err, 0)
	return err
}

// Trim gives back the whole blocks within the range; the edges stay.
func (d *device) Trim(ctx context.Context, off, n uint64, fua bool) error {
	from := (off + sheepdog.BlockSize - 1) &^ (sheepdog.BlockSize - 1)
	to := (off + n) &^ (sheepdog.BlockSize - 1)
	if from >= to {
		return nil
	}
	return d.then(ctx, d.zero(ctx, from, to-from), fua)
}

// WriteZeroes is always fast: whole blocks are zeroed by their records alone.
func (d *device) WriteZeroes(ctx context.Context, off, n uint64, flags nbd.ZeroFlags) error {
	return d.then(ctx, d.zero(ctx, off, n), flags&nbd.ZeroFUA != 0)
}

// then flushes after a write that must be durable.
func (d *device) then(ctx context.Context, err error, fua bool) error {
	if err == nil && fua {
		err = d.v.Flush(ctx)
	}
	return errno(err)
}

// Cache is a hint that needs nothing here: frozen data are read ahead anyway.
func (d *device) Cache(context.Context, uint64, uint64) error { return nil }

func (d *device) Status(ctx context.Context, off, n uint64, limit int) ([]nbd.Extent, error) {
	runs, err := d.v.Status(ctx, off, n, limit)
	if err != nil {
		return nil, errno(err)
	}
	out := make([]nbd.Extent, len(runs))
	for i, r := range runs {
		out[i].Length = r.Length
		switch r.State {
		case sheepdog.Absent, sheepdog.Zero:
			out[i].Flags = nbd.Hole | nbd.Zero
		}
	}
	return out, nil
}

// Close detaches; the VDI's coordinator may move then.
func (d *device) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), d.detach)
	defer cancel()
	return d.v.Close(ctx)
}

// errno wraps an error so that NBD tells the client the right one.
func errno(err error) error {
	if err == nil {
		return nil
	}
	for _, m := range []struct{ ours, theirs error }{
		{sheepdog.ErrClosed, nbd.ErrShutdown},
		{sheepdog.ErrFrozen, nbd.ErrReadOnly},
		{sheepdog.ErrNoSpace, nbd.ErrNoSpace},
		{sheepdog.ErrInvalid, nbd.ErrInvalid},
	} {
		if errors.Is(err, m.ours) {
			return fmt.Errorf("%w: %w", m.theirs, err)
		}
	}
	return err
}
