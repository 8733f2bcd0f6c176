package objectstore

import (
	"cmp"
	"fmt"
	"hash/crc32"
	"slices"
	"sync"

	"sheepdog"
)

// Memory is an Engine without disks: what it holds is lost with the process.
// It is as strict as Disk, and serves as its model in tests.
type Memory struct {
	mu      sync.RWMutex
	objects map[objectKey]map[sheepdog.BlockNo]memoryBlock
	facts   map[string][]byte
	closed  bool
}

type memoryBlock struct {
	rec  sheepdog.Record
	data []byte
}

var _ sheepdog.Engine = (*Memory)(nil)

// NewMemory makes an empty engine.
func NewMemory() *Memory {
	return &Memory{
		objects: make(map[objectKey]map[sheepdog.BlockNo]memoryBlock),
		facts:   make(map[string][]byte),
	}
}

// Write implements sheepdog.Engine.
func (m *Memory) Write(ops []sheepdog.Op, errs []error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range ops {
		if errs[i] = m.usable(); errs[i] != nil {
			continue
		}
		if errs[i] = checkOp(&ops[i]); errs[i] == nil {
			m.apply(&ops[i])
		}
	}
}

func (m *Memory) apply(op *sheepdog.Op) {
	key := objectKey{op.Object, op.Layer}
	obj := m.objects[key]
	if obj == nil {
		obj = make(map[sheepdog.BlockNo]memoryBlock)
		m.objects[key] = obj
	}
	var sums []uint32
	if sums = op.Sums; op.Data != nil && sums == nil {
		sums = sheepdog.AppendSums(nil, op.Data)
	}
	for i := range op.Count {
		no := op.Start + sheepdog.BlockNo(i)
		if !op.Force && !obj[no].rec.Stamp.Less(op.Stamp) {
			continue
		}
		b := memoryBlock{rec: sheepdog.Record{State: sheepdog.Zero, Stamp: op.Stamp}}
		if op.Data != nil {
			b.data = slices.Clone(op.Data[int(i)*sheepdog.BlockSize:][:sheepdog.BlockSize])
			b.rec.State, b.rec.CRC = sheepdog.Data, sums[i]
		}
		obj[no] = b
	}
	if len(obj) == 0 {
		delete(m.objects, key)
	}
}

// resolve finds the record of a block in a chain. The caller holds m.mu.
func (m *Memory) resolve(obj sheepdog.ObjectID, chain []sheepdog.LayerID, no sheepdog.BlockNo) memoryBlock {
	for _, layer := range chain {
		if b, ok := m.objects[objectKey{obj, layer}][no]; ok {
			return b
		}
	}
	return memoryBlock{}
}

// Read implements sheepdog.Engine.
func (m *Memory) Read(obj sheepdog.ObjectID, chain []sheepdog.LayerID, start sheepdog.BlockNo, count uint32, buf []byte, states []sheepdog.BlockState) error {
	if err := checkRead(start, count, len(buf), len(states)); err != nil {
		return err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := m.usable(); err != nil {
		return err
	}
	var bad []sheepdog.BlockNo
	clear(buf)
	for i := range count {
		no := start + sheepdog.BlockNo(i)
		b := m.resolve(obj, chain, no)
		states[i] = b.rec.State
		if b.rec.State != sheepdog.Data {
			continue
		}
		if crc32.Checksum(b.data, castagnoli) != b.rec.CRC {
			bad = append(bad, no)
			continue
		}
		copy(buf[int(i)*sheepdog.BlockSize:], b.data)
	}
	if bad != nil {
		return &sheepdog.BadBlocksError{Object: obj, Blocks: bad}
	}
	return nil
}

// ReadRaw implements sheepdog.RawEngine.
func (m *Memory) ReadRaw(obj sheepdog.ObjectID, chain []sheepdog.LayerID, start sheepdog.BlockNo, count uint32, buf []byte, recs []sheepdog.Record) error {
	if err := checkRead(start, count, len(buf), len(recs)); err != nil {
		return err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := m.usable(); err != nil {
		return err
	}
	clear(buf)
	for i := range count {
		b := m.resolve(obj, chain, start+sheepdog.BlockNo(i))
		recs[i] = b.rec
		copy(buf[int(i)*sheepdog.BlockSize:], b.data)
	}
	return nil
}

// Records implements sheepdog.Engine.
func (m *Memory) Records(obj sheepdog.ObjectID, chain []sheepdog.LayerID, start sheepdog.BlockNo, count uint32, recs []sheepdog.Record) error {
	if err := checkRecords(start, count, len(recs)); err != nil {
		return err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := m.usable(); err != nil {
		return err
	}
	for i := range count {
		recs[i] = m.resolve(obj, chain, start+sheepdog.BlockNo(i)).rec
	}
	return nil
}

// Flush implements sheepdog.Engine; there is nothing to do.
func (m *Memory) Flush() error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.usable()
}

// List implements sheepdog.Engine.
func (m *Memory) List(after sheepdog.ListEntry, want func(sheepdog.Partition) bool, visit func(sheepdog.ListEntry) bool) error {
	m.mu.RLock()
	err := m.usable()
	var entries []sheepdog.ListEntry
	for key, blocks := range m.objects {
		if key.compare(objectKey{after.Object, after.Layer}) <= 0 && after != (sheepdog.ListEntry{}) {
			continue
		}
		if want == nil || want(key.Object.Partition()) {
			entries = append(entries, sheepdog.ListEntry{Object: key.Object, Layer: key.Layer, Digest: digestOf(blocks)})
		}
	}
	m.mu.RUnlock()
	slices.SortFunc(entries, func(a, b sheepdog.ListEntry) int {
		return objectKey{a.Object, a.Layer}.compare(objectKey{b.Object, b.Layer})
	})
	for _, e := range entries {
		if !visit(e) {
			break
		}
	}
	return err
}

func digestOf(blocks map[sheepdog.BlockNo]memoryBlock) uint64 {
	var d uint64
	for no, b := range blocks {
		d ^= mixRecord(no, b.rec)
	}
	return d
}

// LayerObjects implements sheepdog.Engine.
func (m *Memory) LayerObjects(layer sheepdog.LayerID, from sheepdog.Index, limit int) ([]sheepdog.Index, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []sheepdog.Index
	for key := range m.objects {
		if key.Layer == layer && key.Object.Index >= from {
			out = append(out, key.Object.Index)
		}
	}
	slices.Sort(out)
	if limit > 0 {
		out = out[:min(limit, len(out))]
	}
	return out, m.usable()
}

// Layers implements sheepdog.Maintainer.
func (m *Memory) Layers() (map[sheepdog.LayerID]sheepdog.FamilyID, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make(map[sheepdog.LayerID]sheepdog.FamilyID)
	for key := range m.objects {
		out[key.Layer] = key.Object.Family
	}
	return out, m.usable()
}

// DropLayer implements sheepdog.Maintainer.
func (m *Memory) DropLayer(layer sheepdog.LayerID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key := range m.objects {
		if key.Layer == layer {
			delete(m.objects, key)
		}
	}
	return m.usable()
}

// DropObject implements sheepdog.Maintainer.
func (m *Memory) DropObject(obj sheepdog.ObjectID, layer sheepdog.LayerID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, objectKey{obj, layer})
	return m.usable()
}

// Merge implements sheepdog.Maintainer.
func (m *Memory) Merge(from, to sheepdog.LayerID) error {
	if from == to {
		return errMergeSelf(from)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, blocks := range m.objects {
		if key.Layer != from {
			continue
		}
		target := objectKey{key.Object, to}
		if m.objects[target] == nil {
			m.objects[target] = make(map[sheepdog.BlockNo]memoryBlock)
		}
		for no, b := range blocks {
			if _, ok := m.objects[target][no]; !ok {
				m.objects[target][no] = b
			}
		}
		delete(m.objects, key)
	}
	return m.usable()
}

// Usage implements sheepdog.Maintainer. Free is a large constant.
func (m *Memory) Usage() (sheepdog.Usage, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	u := sheepdog.Usage{Free: 1 << 40}
	for _, blocks := range m.objects {
		for _, b := range blocks {
			u.Used += uint64(len(b.data))
		}
	}
	return u, m.usable()
}

// Get implements sheepdog.Maintainer.
func (m *Memory) Get(name string) ([]byte, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Clone(m.facts[name]), m.usable()
}

// Put implements sheepdog.Maintainer.
func (m *Memory) Put(name string, value []byte) error {
	if err := checkFact(name, value); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.facts[name] = append([]byte{}, value...)
	return m.usable()
}

// Wipe implements sheepdog.Maintainer.
func (m *Memory) Wipe() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.objects)
	return m.usable()
}

// Close implements sheepdog.Maintainer. Everything afterwards is ErrClosed,
// until Reopen.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	err := m.usable()
	m.closed = true
	return err
}

// Reopen makes a closed engine serve again with what it held.
func (m *Memory) Reopen() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = false
}

func (m *Memory) usable() error {
	if m.closed {
		return fmt.Errorf("memory store: %w", sheepdog.ErrClosed)
	}
	return nil
}

// objectKey is one object: one layer of one ObjectID.
type objectKey struct {
	Object sheepdog.ObjectID
	Layer  sheepdog.LayerID
}

// compare orders objects as List visits them.
func (k objectKey) compare(o objectKey) int {
	return cmp.Or(
		cmp.Compare(k.Object.Partition(), o.Object.Partition()),
		cmp.Compare(k.Object.Family, o.Object.Family),
		cmp.Compare(k.Object.Index, o.Object.Index),
		cmp.Compare(k.Layer, o.Layer))
}
