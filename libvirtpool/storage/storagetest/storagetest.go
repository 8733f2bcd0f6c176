// Package storagetest is a cluster in memory for tests of pools and volumes.
//
// Main type: Cluster, which is both a storage.Store and storage.Definitions.
package storagetest

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"sheepdog"
	"sheepdog/libvirtpool/storage"
)

// Cluster is VDIs and pool definitions. It is safe for concurrent use.
type Cluster struct {
	mu    sync.Mutex
	vdis  map[string]*vdi
	pools map[string]storage.Definition
	err   error // what every request fails with
	lists int
}

type vdi struct {
	data  []byte
	snaps map[string][]byte
}

var (
	_ storage.Store       = (*Cluster)(nil)
	_ storage.Definitions = (*Cluster)(nil)
)

// New makes an empty cluster.
func New() *Cluster { return &Cluster{vdis: map[string]*vdi{}, pools: map[string]storage.Definition{}} }

// Fail makes every request fail with err, or, with nil, none.
func (c *Cluster) Fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

// Lists is how often all VDIs were listed.
func (c *Cluster) Lists() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lists
}

// Bytes is a copy of what a VDI holds; nil if there is none.
func (c *Cluster) Bytes(name string) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v := c.vdis[name]; v != nil {
		return slices.Clone(v.data)
	}
	return nil
}

// on runs f on a VDI.
func (c *Cluster) on(name string, f func(*vdi) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	v := c.vdis[name]
	if v == nil {
		return fmt.Errorf("VDI %q: %w", name, sheepdog.ErrNotFound)
	}
	return f(v)
}

func (v *vdi) show(name string) storage.VDI {
	return storage.VDI{Name: name, Size: uint64(len(v.data)), Snapshots: slices.Sorted(maps.Keys(v.snaps))}
}

// List is all VDIs.
func (c *Cluster) List(context.Context) ([]storage.VDI, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lists++
	var out []storage.VDI
	for name, v := range c.vdis {
		out = append(out, v.show(name))
	}
	return out, c.err
}

// Find is one VDI.
func (c *Cluster) Find(_ context.Context, name string) (out storage.VDI, err error) {
	err = c.on(name, func(v *vdi) error { out = v.show(name); return nil })
	return out, err
}

// Allocated is half of a VDI.
func (c *Cluster) Allocated(_ context.Context, name string) (n uint64, err error) {
	err = c.on(name, func(v *vdi) error { n = uint64(len(v.data)) / 2; return nil })
	return n, err
}

// Create makes a VDI of zeros.
func (c *Cluster) Create(_ context.Context, name string, size uint64) error {
	return c.add(name, func() ([]byte, error) { return make([]byte, size), nil })
}

func (c *Cluster) add(name string, data func() ([]byte, error)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	if c.vdis[name] != nil {
		return fmt.Errorf("VDI %q: %w", name, sheepdog.ErrExists)
	}
	b, err := data()
	if err == nil {
		c.vdis[name] = &vdi{data: b, snaps: map[string][]byte{}}
	}
	return err
}

// Clone copies a VDI.
func (c *Cluster) Clone(_ context.Context, source, name string, size uint64) (uint64, error) {
	err := c.add(name, func() ([]byte, error) {
		from := c.vdis[source]
		if from == nil {
			return nil, fmt.Errorf("VDI %q: %w", source, sheepdog.ErrNotFound)
		}
		size = max(size, uint64(len(from.data)))
		b := make([]byte, size)
		copy(b, from.data)
		return b, nil
	})
	return size, err
}

// PlaceFor is a name that begins with a dot.
func (c *Cluster) PlaceFor(_ context.Context, name string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.vdis[name] != nil {
		return "", fmt.Errorf("VDI %q: %w", name, sheepdog.ErrExists)
	}
	return ".unfinished/" + strings.ReplaceAll(name, "/", "-"), c.err
}

// Rename gives a VDI another name.
func (c *Cluster) Rename(_ context.Context, name, newName string) error {
	return c.on(name, func(v *vdi) error {
		if c.vdis[newName] != nil {
			return fmt.Errorf("VDI %q: %w", newName, sheepdog.ErrExists)
		}
		delete(c.vdis, name)
		c.vdis[newName] = v
		return nil
	})
}

// Delete removes a VDI.
func (c *Cluster) Delete(_ context.Context, name string) error {
	return c.on(name, func(*vdi) error { delete(c.vdis, name); return nil })
}

// Resize makes a VDI larger.
func (c *Cluster) Resize(_ context.Context, name string, size uint64) error {
	return c.on(name, func(v *vdi) error {
		if size < uint64(len(v.data)) {
			return fmt.Errorf("shrink: %w", sheepdog.ErrInvalid)
		}
		v.data = append(v.data, make([]byte, size-uint64(len(v.data)))...)
		return nil
	})
}

// Capacity is a fixed one.
func (c *Cluster) Capacity(context.Context) (storage.Capacity, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return storage.Capacity{Total: 1000, Used: 400, Free: 600}, c.err
}

// Read writes bytes to w in odd pieces.
func (c *Cluster) Read(_ context.Context, name string, off, n uint64, w io.Writer) error {
	var b []byte
	err := c.on(name, func(v *vdi) error {
		if off > uint64(len(v.data)) || n > uint64(len(v.data))-off {
			return sheepdog.ErrInvalid
		}
		b = slices.Clone(v.data[off : off+n])
		return nil
	})
	for piece := range slices.Chunk(b, 100_003) {
		if _, err := w.Write(piece); err != nil {
			return err
		}
	}
	return err
}

// Write writes all of r.
func (c *Cluster) Write(ctx context.Context, name string, off uint64, r io.Reader) error {
	buf := make([]byte, 64<<10)
	for {
		n, rerr := r.Read(buf)
		err := c.on(name, func(v *vdi) error {
			if off+uint64(n) > uint64(len(v.data)) {
				return fmt.Errorf("more data than the VDI has room for: %w", sheepdog.ErrInvalid)
			}
			copy(v.data[off:], buf[:n])
			off += uint64(n)
			return nil
		})
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case rerr == io.EOF:
			return nil
		case rerr != nil:
			return rerr
		}
	}
}

// Snapshot keeps a copy under a tag.
func (c *Cluster) Snapshot(_ context.Context, name, tag string) error {
	return c.on(name, func(v *vdi) error {
		if _, ok := v.snaps[tag]; ok {
			return sheepdog.ErrExists
		}
		v.snaps[tag] = slices.Clone(v.data)
		return nil
	})
}

// DeleteSnapshot drops that copy.
func (c *Cluster) DeleteSnapshot(_ context.Context, name, tag string) error {
	return c.on(name, func(v *vdi) error {
		if _, ok := v.snaps[tag]; !ok {
			return sheepdog.ErrNotFound
		}
		delete(v.snaps, tag)
		return nil
	})
}

// Rollback takes that copy back.
func (c *Cluster) Rollback(_ context.Context, name, tag string) error {
	return c.on(name, func(v *vdi) error {
		b, ok := v.snaps[tag]
		if !ok {
			return sheepdog.ErrNotFound
		}
		v.data = slices.Clone(b)
		return nil
	})
}

// Load is all definitions.
func (c *Cluster) Load(context.Context) ([]storage.Definition, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Values(c.pools)), c.err
}

// Add writes a new definition down.
func (c *Cluster) Add(_ context.Context, d storage.Definition) error {
	return c.define(d, sheepdog.ErrExists, false)
}

// Replace changes one.
func (c *Cluster) Replace(_ context.Context, d storage.Definition) error {
	return c.define(d, sheepdog.ErrNotFound, true)
}

func (c *Cluster) define(d storage.Definition, otherwise error, exists bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	if _, ok := c.pools[d.Name]; ok != exists {
		return otherwise
	}
	c.pools[d.Name] = d
	return nil
}

// Remove forgets one.
func (c *Cluster) Remove(_ context.Context, name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pools, name)
	return c.err
}
