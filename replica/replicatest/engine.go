// Package replicatest has what tests of replicas and recovery run on: an Engine
// in memory, a directory and views that are stepped by hand. It is not for use
// outside of tests.
//
// Main types: Engine, Layers, Views.
package replicatest

import (
	"cmp"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"sync"

	"sheepdog"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// key is one object in one layer.
type key struct {
	object sheepdog.ObjectID
	layer  sheepdog.LayerID
}

func (k key) compare(o key) int {
	return cmp.Or(cmp.Compare(k.object.Partition(), o.object.Partition()), cmp.Compare(k.object.Family, o.object.Family),
		cmp.Compare(k.object.Index, o.object.Index), cmp.Compare(k.layer, o.layer))
}

type block struct {
	rec  sheepdog.Record
	data []byte
	bad  bool
}

// Engine is a sheepdog.Engine in memory. Its hooks and switches are set before
// use.
type Engine struct {
	// OnWrite, if set, runs before ops are applied, outside of all locks.
	OnWrite func(ops []sheepdog.Op)
	// OnRead, if set, runs after the bytes of a read were copied.
	OnRead func(obj sheepdog.ObjectID)

	mu        sync.Mutex
	replicas  map[key]map[sheepdog.BlockNo]block
	facts     map[string][]byte
	fail      error
	unflushed bool
	flushes   int
}

var _ sheepdog.Engine = (*Engine)(nil)

// NewEngine makes an empty store.
func NewEngine() *Engine {
	return &Engine{replicas: make(map[key]map[sheepdog.BlockNo]block), facts: make(map[string][]byte)}
}

// Write implements sheepdog.Engine.
func (e *Engine) Write(ops []sheepdog.Op, errs []error) {
	if e.OnWrite != nil {
		e.OnWrite(ops)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range ops {
		errs[i] = e.fail
		if e.fail == nil {
			e.apply(&ops[i])
		}
	}
}

func (e *Engine) apply(op *sheepdog.Op) {
	k := key{op.Object, op.Layer}
	r := e.replicas[k]
	if r == nil {
		r = make(map[sheepdog.BlockNo]block)
		e.replicas[k] = r
	}
	for n := range op.Count {
		at := op.Start + sheepdog.BlockNo(n)
		if !op.Force && !r[at].rec.Stamp.Less(op.Stamp) {
			continue
		}
		b := block{rec: sheepdog.Record{State: sheepdog.Zero, Stamp: op.Stamp}}
		if op.Data != nil {
			b.data = slices.Clone(op.Data[n*sheepdog.BlockSize : (n+1)*sheepdog.BlockSize])
			b.rec.State, b.rec.CRC = sheepdog.Data, crc32.Checksum(b.data, castagnoli)
			b.bad = op.Sums != nil && op.Sums[n] != b.rec.CRC
		}
		r[at] = b
		e.unflushed = true
	}
}

func (e *Engine) resolve(obj sheepdog.ObjectID, chain []sheepdog.LayerID, at sheepdog.BlockNo) block {
	for _, layer := range chain {
		if b := e.replicas[key{obj, layer}][at]; b.rec.State != sheepdog.Absent {
			return b
		}
	}
	return block{}
}

// Read implements sheepdog.Engine.
func (e *Engine) Read(obj sheepdog.ObjectID, chain []sheepdog.LayerID, start sheepdog.BlockNo, count uint32, buf []byte, states []sheepdog.BlockState) error {
	err := e.read(obj, chain, start, count, buf, states)
	if e.OnRead != nil {
		e.OnRead(obj)
	}
	return err
}

// TryRead has everything at hand.
func (e *Engine) TryRead(obj sheepdog.ObjectID, chain []sheepdog.LayerID, start sheepdog.BlockNo, count uint32, buf []byte, states []sheepdog.BlockState) bool {
	return e.Read(obj, chain, start, count, buf, states) == nil
}

func (e *Engine) read(obj sheepdog.ObjectID, chain []sheepdog.LayerID, start sheepdog.BlockNo, count uint32, buf []byte, states []sheepdog.BlockState) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(buf) != int(count)*sheepdog.BlockSize || len(states) != int(count) {
		panic("replicatest: buffer does not fit")
	}
	var bad []sheepdog.BlockNo
	for n := range count {
		b := e.resolve(obj, chain, start+sheepdog.BlockNo(n))
		dst := buf[n*sheepdog.BlockSize : (n+1)*sheepdog.BlockSize]
		clear(dst)
		states[n] = b.rec.State
		if b.bad {
			bad = append(bad, start+sheepdog.BlockNo(n))
			continue
		}
		copy(dst, b.data)
	}
	if bad != nil {
		return &sheepdog.BadBlocksError{Object: obj, Blocks: bad}
	}
	return nil
}

// ReadRaw implements sheepdog.RawEngine; bad blocks have other bytes than they should.
func (e *Engine) ReadRaw(obj sheepdog.ObjectID, chain []sheepdog.LayerID, start sheepdog.BlockNo, count uint32, buf []byte, recs []sheepdog.Record) error {
	if err := e.Records(obj, chain, start, count, recs); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(buf)
	for n := range count {
		b := e.resolve(obj, chain, start+sheepdog.BlockNo(n))
		dst := buf[n*sheepdog.BlockSize : (n+1)*sheepdog.BlockSize]
		copy(dst, b.data)
		if recs[n] = b.rec; b.bad {
			dst[0] ^= 1
		}
	}
	return nil
}

// Records implements sheepdog.Engine.
func (e *Engine) Records(obj sheepdog.ObjectID, chain []sheepdog.LayerID, start sheepdog.BlockNo, count uint32, recs []sheepdog.Record) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for n := range count {
		recs[n] = e.resolve(obj, chain, start+sheepdog.BlockNo(n)).rec
	}
	return nil
}

// Flush implements sheepdog.Engine.
func (e *Engine) Flush() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.flushes++
	if e.fail == nil {
		e.unflushed = false
	}
	return e.fail
}

// List implements sheepdog.Engine.
func (e *Engine) List(after sheepdog.ListEntry, want func(sheepdog.Partition) bool, visit func(sheepdog.ListEntry) bool) error {
	for _, entry := range e.entries(after, want) {
		if !visit(entry) {
			return nil
		}
	}
	return nil
}

func (e *Engine) entries(after sheepdog.ListEntry, want func(sheepdog.Partition) bool) []sheepdog.ListEntry {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []sheepdog.ListEntry
	low := key{after.Object, after.Layer}
	for _, k := range slices.SortedFunc(maps.Keys(e.replicas), key.compare) {
		if want != nil && !want(k.object.Partition()) || after != (sheepdog.ListEntry{}) && k.compare(low) <= 0 {
			continue
		}
		out = append(out, sheepdog.ListEntry{Object: k.object, Layer: k.layer, Digest: digest(e.replicas[k])})
	}
	return out
}

func digest(r map[sheepdog.BlockNo]block) (sum uint64) {
	for at, b := range r {
		text := fmt.Sprint(at, b.rec)
		sum += uint64(crc32.Checksum([]byte(text), castagnoli)) * 0x9e3779b97f4a7c15
	}
	return sum
}

// LayerObjects implements sheepdog.Engine.
func (e *Engine) LayerObjects(layer sheepdog.LayerID, from sheepdog.Index, limit int) ([]sheepdog.Index, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []sheepdog.Index
	for k := range e.replicas {
		if k.layer == layer && k.object.Index >= from {
			out = append(out, k.object.Index)
		}
	}
	slices.Sort(out)
	if limit > 0 {
		out = out[:min(limit, len(out))]
	}
	return out, nil
}

// Layers implements sheepdog.Maintainer.
func (e *Engine) Layers() (map[sheepdog.LayerID]sheepdog.FamilyID, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make(map[sheepdog.LayerID]sheepdog.FamilyID)
	for k := range e.replicas {
		out[k.layer] = k.object.Family
	}
	return out, nil
}

// DropLayer implements sheepdog.Maintainer.
func (e *Engine) DropLayer(layer sheepdog.LayerID) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	maps.DeleteFunc(e.replicas, func(k key, _ map[sheepdog.BlockNo]block) bool { return k.layer == layer })
	e.unflushed = true
	return e.fail
}

// DropObject implements sheepdog.Maintainer.
func (e *Engine) DropObject(obj sheepdog.ObjectID, layer sheepdog.LayerID) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.replicas, key{obj, layer})
	e.unflushed = true
	return e.fail
}

// Merge implements sheepdog.Maintainer.
func (e *Engine) Merge(from, to sheepdog.LayerID) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for k, r := range e.replicas {
		if k.layer != from {
			continue
		}
		into := e.replicas[key{k.object, to}]
		if into == nil {
			into = make(map[sheepdog.BlockNo]block)
			e.replicas[key{k.object, to}] = into
		}
		for at, b := range r {
			if into[at].rec.State == sheepdog.Absent {
				into[at] = b
			}
		}
		delete(e.replicas, k)
	}
	e.unflushed = true
	return e.fail
}

// Usage implements sheepdog.Maintainer.
func (e *Engine) Usage() (sheepdog.Usage, error) { return sheepdog.Usage{}, nil }

// Get implements sheepdog.Maintainer.
func (e *Engine) Get(name string) ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.facts[name], nil
}

// Put implements sheepdog.Maintainer.
func (e *Engine) Put(name string, value []byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.facts[name] = slices.Clone(value)
	return nil
}

// Wipe implements sheepdog.Maintainer.
func (e *Engine) Wipe() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.replicas)
	return nil
}

// Close implements sheepdog.Maintainer.
func (e *Engine) Close() error { return nil }

// Fail makes every change fail from now on; nil heals.
func (e *Engine) Fail(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fail = err
}

// Rot damages the bytes of a block. Its record stays.
func (e *Engine) Rot(obj sheepdog.ObjectID, layer sheepdog.LayerID, at sheepdog.BlockNo) {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := e.replicas[key{obj, layer}][at]
	b.bad = true
	e.replicas[key{obj, layer}][at] = b
}

// Unflushed reports whether anything was changed since the last flush; Flushes
// counts these.
func (e *Engine) Unflushed() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.unflushed
}

// Flushes counts the calls of Flush.
func (e *Engine) Flushes() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.flushes
}

// Dump describes everything in the partitions for which want is true (nil:
// all), so that two replicas can be compared: a line per block.
func (e *Engine) Dump(want func(sheepdog.ObjectID) bool) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []string
	for k, r := range e.replicas {
		if want != nil && !want(k.object) {
			continue
		}
		for at, b := range r {
			state := ""
			if b.bad {
				state = " bad"
			}
			out = append(out, fmt.Sprintf("%s layer %d block %06d: state %d crc %08x stamp %d.%d sum %08x%s", k.object, k.layer, at,
				b.rec.State, b.rec.CRC, b.rec.Stamp.Token, b.rec.Stamp.Seq, crc32.Checksum(b.data, castagnoli), state))
		}
	}
	slices.Sort(out)
	return out
}
