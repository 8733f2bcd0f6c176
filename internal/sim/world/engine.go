package world

import (
	"fmt"
	"slices"
	"sync/atomic"

	"sheepdog"
)

// Engine is one life of a node on a Disk. After Cut every call fails: the
// process is dead, whatever its goroutines still do.
type Engine struct {
	disk   *Disk
	faults *DiskFaults
	cut    atomic.Bool
}

// DiskFaults are deliberate faults of a store, for tests of the tests.
type DiskFaults struct {
	SkipFlush  bool // a flush reports success and does nothing
	SkipStamps bool // a write replaces what is newer
	SkipSums   bool // rotten bytes are delivered
}

var _ sheepdog.Engine = (*Engine)(nil)

// Open begins a new life on the disk and ends the one before.
func (d *Disk) Open(faults *DiskFaults) *Engine {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.user != nil {
		d.user.cut.Store(true)
	}
	for key := range d.spoiled.keys { // after a crash a store reads all maps
		d.spoiled.keys[key] = true
	}
	if faults == nil {
		faults = new(DiskFaults)
	}
	d.user = &Engine{disk: d, faults: faults}
	return d.user
}

// Cut ends this life.
func (e *Engine) Cut() {
	e.disk.mu.Lock()
	defer e.disk.mu.Unlock()
	e.cut.Store(true)
}

// with runs f with the disk, unless the engine's life is over.
func (e *Engine) with(f func(d *Disk) error) error {
	d := e.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if e.cut.Load() {
		return fmt.Errorf("disk: %w", sheepdog.ErrClosed)
	}
	return f(d)
}

// maxBlocks is how many blocks the largest object has.
const maxBlocks = 1 << (sheepdog.MaxBlockSizeShift - 12)

func checkRange(start sheepdog.BlockNo, count uint32) error {
	if count == 0 || uint64(start)+uint64(count) > maxBlocks {
		return fmt.Errorf("%d blocks at %d: %w", count, start, sheepdog.ErrInvalid)
	}
	return nil
}

// Write implements sheepdog.Engine.
func (e *Engine) Write(ops []sheepdog.Op, errs []error) {
	for i := range ops {
		op := ops[i]
		op.Force = op.Force || e.faults.SkipStamps
		errs[i] = checkRange(op.Start, op.Count)
		if errs[i] == nil && (op.Layer == 0 || op.Data != nil && len(op.Data) != int(op.Count)*sheepdog.BlockSize) {
			errs[i] = fmt.Errorf("write of %d bytes for %d blocks to layer %d: %w", len(op.Data), op.Count, op.Layer, sheepdog.ErrInvalid)
		}
		if errs[i] == nil {
			errs[i] = e.disk.fails()
		}
		if errs[i] == nil && e.disk.full.Load() {
			errs[i] = fmt.Errorf("write of %d blocks: %w", op.Count, sheepdog.ErrNoSpace)
		}
		if errs[i] == nil {
			errs[i] = e.with(func(d *Disk) error {
				if err := d.readable(op.Object, op.Layer); err != nil {
					return err
				}
				d.do(write(&op))
				return nil
			})
		}
	}
}

// Read implements sheepdog.Engine.
func (e *Engine) Read(obj sheepdog.ObjectID, chain []sheepdog.LayerID, start sheepdog.BlockNo, count uint32, buf []byte, states []sheepdog.BlockState) error {
	if err := checkRange(start, count); err != nil {
		return err
	}
	if len(buf) != int(count)*sheepdog.BlockSize || len(states) != int(count) {
		return fmt.Errorf("read of %d blocks into %d bytes and %d states: %w", count, len(buf), len(states), sheepdog.ErrInvalid)
	}
	if err := e.disk.fails(); err != nil {
		return err
	}
	return e.with(func(d *Disk) error {
		var bad []sheepdog.BlockNo
		clear(buf)
		for i := range states {
			no := start + sheepdog.BlockNo(i)
			b, err := d.find(obj, chain, no)
			if err != nil {
				return err
			}
			states[i] = b.rec.State
			if b.rec.State != sheepdog.Data {
				continue
			}
			if !b.rec.Holds(b.data) && !e.faults.SkipSums {
				bad = append(bad, no)
				continue
			}
			copy(buf[i*sheepdog.BlockSize:], b.data)
		}
		if bad != nil {
			return &sheepdog.BadBlocksError{Object: obj, Blocks: bad}
		}
		return nil
	})
}

// ReadRaw implements sheepdog.RawEngine.
func (e *Engine) ReadRaw(obj sheepdog.ObjectID, chain []sheepdog.LayerID, start sheepdog.BlockNo, count uint32, buf []byte, recs []sheepdog.Record) error {
	if err := checkRange(start, count); err != nil {
		return err
	}
	if len(buf) != int(count)*sheepdog.BlockSize || len(recs) != int(count) {
		return fmt.Errorf("read of %d blocks into %d bytes and %d records: %w", count, len(buf), len(recs), sheepdog.ErrInvalid)
	}
	if err := e.disk.fails(); err != nil {
		return err
	}
	return e.with(func(d *Disk) error {
		clear(buf)
		for i := range recs {
			b, err := d.find(obj, chain, start+sheepdog.BlockNo(i))
			if err != nil {
				return err
			}
			recs[i] = b.rec
			copy(buf[i*sheepdog.BlockSize:], b.data)
		}
		return nil
	})
}

// TryRead implements sheepdog.PromptEngine: everything is at hand.
func (e *Engine) TryRead(obj sheepdog.ObjectID, chain []sheepdog.LayerID, start sheepdog.BlockNo, count uint32, buf []byte, states []sheepdog.BlockState) bool {
	return e.Read(obj, chain, start, count, buf, states) == nil
}

// Records implements sheepdog.Engine.
func (e *Engine) Records(obj sheepdog.ObjectID, chain []sheepdog.LayerID, start sheepdog.BlockNo, count uint32, recs []sheepdog.Record) error {
	if err := checkRange(start, count); err != nil {
		return err
	}
	if len(recs) != int(count) {
		return fmt.Errorf("%d records for %d blocks: %w", len(recs), count, sheepdog.ErrInvalid)
	}
	return e.with(func(d *Disk) error {
		for i := range recs {
			b, err := d.find(obj, chain, start+sheepdog.BlockNo(i))
			if err != nil {
				return err
			}
			recs[i] = b.rec
		}
		return nil
	})
}

// Flush implements sheepdog.Engine.
func (e *Engine) Flush() error {
	if err := e.disk.fails(); err != nil {
		return err
	}
	return e.with(func(d *Disk) error {
		if !e.faults.SkipFlush {
			d.flush()
		}
		return nil
	})
}

// List implements sheepdog.Engine.
func (e *Engine) List(after sheepdog.ListEntry, want func(sheepdog.Partition) bool, visit func(sheepdog.ListEntry) bool) error {
	if err := e.with(func(*Disk) error { return nil }); err != nil {
		return err
	}
	for _, entry := range e.disk.Entries() {
		if after != (sheepdog.ListEntry{}) && (objectKey{entry.Object, entry.Layer}).compare(objectKey{after.Object, after.Layer}) <= 0 {
			continue
		}
		if want != nil && !want(entry.Object.Partition()) {
			continue
		}
		if !visit(entry) {
			return nil
		}
	}
	return nil
}

// LayerObjects implements sheepdog.Engine.
func (e *Engine) LayerObjects(layer sheepdog.LayerID, from sheepdog.Index, limit int) (out []sheepdog.Index, err error) {
	err = e.with(func(d *Disk) error {
		for key := range d.now {
			if key.layer == layer && key.Index >= from {
				out = append(out, key.Index)
			}
		}
		return nil
	})
	slices.Sort(out)
	if limit > 0 {
		out = out[:min(limit, len(out))]
	}
	return out, err
}

// Layers implements sheepdog.Maintainer.
func (e *Engine) Layers() (map[sheepdog.LayerID]sheepdog.FamilyID, error) {
	out := make(map[sheepdog.LayerID]sheepdog.FamilyID)
	err := e.with(func(d *Disk) error {
		for key := range d.now {
			out[key.layer] = key.Family
		}
		return nil
	})
	return out, err
}

// DropLayer implements sheepdog.Maintainer.
func (e *Engine) DropLayer(layer sheepdog.LayerID) error {
	return e.drop(func(k objectKey) bool { return k.layer == layer })
}

// DropObject implements sheepdog.Maintainer.
func (e *Engine) DropObject(obj sheepdog.ObjectID, layer sheepdog.LayerID) error {
	return e.drop(func(k objectKey) bool { return k.ObjectID == obj && k.layer == layer })
}

func (e *Engine) drop(match func(objectKey) bool) error {
	return e.with(func(d *Disk) error {
		d.do(dropIf(match))
		d.dropped(match)
		return nil
	})
}

// Merge implements sheepdog.Maintainer.
func (e *Engine) Merge(from, to sheepdog.LayerID) error {
	if from == to {
		return fmt.Errorf("merge layer %d into itself: %w", from, sheepdog.ErrInvalid)
	}
	return e.with(func(d *Disk) error {
		if err := d.mergeable(from, to); err != nil {
			return err
		}
		d.do(merge(from, to))
		return nil
	})
}

// Usage implements sheepdog.Maintainer.
func (e *Engine) Usage() (sheepdog.Usage, error) {
	u := sheepdog.Usage{Free: 1 << 40}
	err := e.with(func(d *Disk) error {
		for _, blocks := range d.now {
			for _, b := range blocks {
				u.Used += uint64(len(b.data))
			}
		}
		return nil
	})
	return u, err
}

// Get implements sheepdog.Maintainer.
func (e *Engine) Get(name string) (value []byte, err error) {
	err = e.with(func(d *Disk) error { value = slices.Clone(d.facts[name]); return nil })
	return value, err
}

// Put implements sheepdog.Maintainer.
func (e *Engine) Put(name string, value []byte) error {
	if name == "" || len(name) > 255 || len(value) > 1<<20 {
		return fmt.Errorf("fact %q of %d bytes: %w", name, len(value), sheepdog.ErrInvalid)
	}
	return e.with(func(d *Disk) error { d.facts[name] = append([]byte{}, value...); return nil })
}

// Wipe implements sheepdog.Maintainer.
func (e *Engine) Wipe() error {
	return e.with(func(d *Disk) error {
		d.now, d.durable, d.pending = make(content), make(content), nil
		clear(d.spoiled.keys)
		return nil
	})
}

// Close implements sheepdog.Maintainer.
func (e *Engine) Close() error {
	err := e.with(func(*Disk) error { return nil })
	e.Cut()
	return err
}
