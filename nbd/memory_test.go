package nbd

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

// memDevice is a disk in memory that counts and can be made to wait or fail.
type memDevice struct {
	readOnly bool
	block    uint32
	gate     chan struct{}                         // if set, ReadAt waits for it or ctx
	fail     func(op string, off, n uint64) error  // if set, decides about each request
	before   func(ctx context.Context, op string)  // if set, runs before each request
	status   func(off, n uint64, max int) []Extent // if set, answers Status
	onClose  func()

	running atomic.Int32
	closed  atomic.Int32
	flushes atomic.Int32
	fua     atomic.Int32
	cached  atomic.Int64

	mu   sync.RWMutex
	data []byte
}

func newMemDevice(size int) *memDevice { return &memDevice{data: make([]byte, size), block: 4096} }

func (d *memDevice) Size() uint64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return uint64(len(d.data))
}
func (d *memDevice) ReadOnly() bool         { return d.readOnly }
func (d *memDevice) PreferredBlock() uint32 { return d.block }
func (d *memDevice) Description() string    { return "a disk in memory" }

// enter is the common start of all requests.
func (d *memDevice) enter(ctx context.Context, op string, off, n uint64) error {
	d.running.Add(1)
	if d.closed.Load() != 0 {
		panic("request on a closed device")
	}
	if d.before != nil {
		d.before(ctx, op)
	}
	if d.fail != nil {
		return d.fail(op, off, n)
	}
	return nil
}

func (d *memDevice) leave() { d.running.Add(-1) }

func (d *memDevice) ReadAt(ctx context.Context, p []byte, off uint64) error {
	err := d.enter(ctx, "read", off, uint64(len(p)))
	defer d.leave()
	if err != nil {
		return err
	}
	if d.gate != nil {
		select {
		case <-d.gate:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	copy(p, d.data[off:])
	return nil
}

func (d *memDevice) WriteAt(ctx context.Context, p []byte, off uint64, fua bool) error {
	err := d.enter(ctx, "write", off, uint64(len(p)))
	defer d.leave()
	if err != nil {
		return err
	}
	if fua {
		d.fua.Add(1)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(d.data[off:], p)
	return nil
}

func (d *memDevice) Flush(ctx context.Context) error {
	err := d.enter(ctx, "flush", 0, 0)
	defer d.leave()
	d.flushes.Add(1)
	return err
}

func (d *memDevice) Trim(ctx context.Context, off, n uint64, fua bool) error {
	return d.WriteZeroes(ctx, off, n, 0)
}

func (d *memDevice) WriteZeroes(ctx context.Context, off, n uint64, flags ZeroFlags) error {
	err := d.enter(ctx, "zero", off, n)
	defer d.leave()
	if err != nil {
		return err
	}
	if flags&FastZero != 0 && flags&NoHole != 0 {
		return fmt.Errorf("allocated zeros are slow: %w", ErrNotSupported)
	}
	if flags&ZeroFUA != 0 {
		d.fua.Add(1)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.data[off : off+n])
	return nil
}

func (d *memDevice) Cache(ctx context.Context, off, n uint64) error {
	err := d.enter(ctx, "cache", off, n)
	defer d.leave()
	d.cached.Add(int64(n))
	return err
}

// Status reports blocks of 4 KiB that are all zeros as holes.
func (d *memDevice) Status(ctx context.Context, off, n uint64, max int) ([]Extent, error) {
	err := d.enter(ctx, "status", off, n)
	defer d.leave()
	if err != nil {
		return nil, err
	}
	if d.status != nil {
		return d.status(off, n, max), nil
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	var found []Extent
	for end := off + n; off < end; {
		stop := min(end, off/4096*4096+4096)
		flags := Hole | Zero
		for _, b := range d.data[off:stop] {
			if b != 0 {
				flags = 0
				break
			}
		}
		if last := len(found) - 1; last >= 0 && found[last].Flags == flags {
			found[last].Length += stop - off
		} else if len(found) == max {
			break
		} else {
			found = append(found, Extent{Length: stop - off, Flags: flags})
		}
		off = stop
	}
	return found, nil
}

func (d *memDevice) Close() error {
	if n := d.running.Load(); n != 0 {
		panic(fmt.Sprintf("closed with %d requests running", n))
	}
	d.closed.Add(1)
	if d.onClose != nil {
		d.onClose()
	}
	return nil
}

func (d *memDevice) grow(size int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.data = append(d.data, make([]byte, size-len(d.data))...)
}

func (d *memDevice) bytes(off, n int) []byte {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return append([]byte(nil), d.data[off:off+n]...)
}

// promptDevice is a memDevice that answers reads at once.
type promptDevice struct{ *memDevice }

func (d promptDevice) TryReadAt(p []byte, off uint64) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	copy(p, d.data[off:])
	return true
}

// attachment is one opening of a shared memDevice: it has its own Close.
type attachment struct {
	Device
	t      testing.TB
	closed atomic.Int32
	open   *atomic.Int32
}

func (a *attachment) Close() error {
	if a.closed.Add(1) != 1 {
		a.t.Error("device closed twice")
	}
	a.open.Add(-1)
	return nil
}

func (a *attachment) Description() string { return "a disk in memory" }

// promptAttachment passes TryReadAt on.
type promptAttachment struct {
	*attachment
	Prompt
}

// memExports are devices by name. Each opening must be closed once.
type memExports struct {
	t       testing.TB
	devices map[string]Device
	names   []string // for List
	openErr map[string]error
	opening func(ctx context.Context) error // if set, runs in Open
	open    atomic.Int32
	opened  atomic.Int32
}

func (e *memExports) Open(ctx context.Context, name string, _ Info) (Device, error) {
	if e.opening != nil {
		if err := e.opening(ctx); err != nil {
			return nil, err
		}
	}
	if err := e.openErr[name]; err != nil {
		return nil, err
	}
	dev, ok := e.devices[name]
	if !ok {
		return nil, ErrUnknownExport
	}
	e.open.Add(1)
	e.opened.Add(1)
	a := &attachment{Device: dev, t: e.t, open: &e.open}
	if p, ok := dev.(Prompt); ok {
		return promptAttachment{a, p}, nil
	}
	if s, ok := dev.(Starter); ok {
		return starterAttachment{a, s}, nil
	}
	return a, nil
}

func (e *memExports) List(context.Context) ([]string, error) { return e.names, nil }
