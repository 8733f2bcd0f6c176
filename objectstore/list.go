package objectstore

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"

	"sheepdog"
)

// List implements sheepdog.Engine. Objects that change meanwhile are seen as
// they were at some moment of the call.
func (d *Disk) List(after sheepdog.ListEntry, want func(sheepdog.Partition) bool, visit func(sheepdog.ListEntry) bool) error {
	if err := d.begin(); err != nil {
		return err
	}
	defer d.end()
	l := lister{disk: d, want: want, visit: visit, from: objectKey{after.Object, after.Layer}, exclusive: after != (sheepdog.ListEntry{})}
	// The dirty objects first: one that is clean by now was committed before the
	// scan begins.
	l.collect(d.dirty.all())
	for p := 0; p < sheepdog.Partitions && !l.stopped; {
		next, err := l.scanFrom(p)
		if err != nil {
			return fmt.Errorf("list objects: %w", err)
		}
		p = next
	}
	l.emitFresh(nil)
	return nil
}

// lister merges the objects of the metadata store with dirty ones in memory.
type lister struct {
	disk      *Disk
	want      func(sheepdog.Partition) bool
	visit     func(sheepdog.ListEntry) bool
	from      objectKey
	exclusive bool
	fresh     []freshObject // ascending; not yet visited
	stopped   bool
}

// freshObject is a dirty object as memory has it.
type freshObject struct {
	key     objectKey
	digest  uint64
	present bool
}

func (l *lister) wants(k objectKey) bool {
	if l.exclusive && k.compare(l.from) <= 0 {
		return false
	}
	return l.want == nil || l.want(k.Object.Partition())
}

func (l *lister) collect(piles []*pile) {
	for _, p := range piles {
		p.mu.RLock()
		for _, o := range p.objects {
			if l.wants(o.key) {
				l.fresh = append(l.fresh, freshObject{o.key, o.digest, o.present > 0})
			}
		}
		p.mu.RUnlock()
	}
	slices.SortFunc(l.fresh, func(a, b freshObject) int { return a.key.compare(b.key) })
}

// scanFrom visits the wanted partitions from p on, up to the first one that is
// not wanted, and returns where to go on.
func (l *lister) scanFrom(p int) (int, error) {
	for p < sheepdog.Partitions && (l.exclusive && sheepdog.Partition(p) < l.from.Object.Partition() || l.want != nil && !l.want(sheepdog.Partition(p))) {
		p++
	}
	if p == sheepdog.Partitions {
		return p, nil
	}
	from := binary.BigEndian.AppendUint16([]byte{keyObject}, uint16(p))
	if l.exclusive && sheepdog.Partition(p) == l.from.Object.Partition() {
		from = l.from.encode(keyObject)
	}
	next := sheepdog.Partitions
	err := l.disk.meta.Scan(scan{prefix: []byte{keyObject}, from: from}, func(key, value []byte) (bool, error) {
		k, err := decodeObjectKey(key)
		if err != nil {
			return false, err
		}
		if at := k.Object.Partition(); l.want != nil && !l.want(at) {
			next = int(at)
			return false, nil
		}
		h, _, err := readHeader(k, value)
		if err == nil && l.wants(k) {
			l.emit(k, h)
		}
		return err == nil && !l.stopped, err
	})
	return next, err
}

// emit visits a stored object and the fresh ones before it; if it is fresh, as
// memory has it.
func (l *lister) emit(k objectKey, h header) {
	l.emitFresh(&k)
	if l.stopped {
		return
	}
	if len(l.fresh) > 0 && l.fresh[0].key == k {
		f := l.fresh[0]
		l.fresh = l.fresh[1:]
		l.show(f)
		return
	}
	l.disk.judgeMap(k, h.malformed)
	l.show(freshObject{k, h.digest, h.present > 0})
}

// emitFresh visits the fresh objects before k, or all.
func (l *lister) emitFresh(k *objectKey) {
	for len(l.fresh) > 0 && !l.stopped && (k == nil || l.fresh[0].key.compare(*k) < 0) {
		f := l.fresh[0]
		l.fresh = l.fresh[1:]
		l.show(f)
	}
}

func (l *lister) show(f freshObject) {
	if l.disk.spoiled.has(f.key) {
		f.digest = rand.Uint64() // it is like no other, nor like one that is spoiled as well
	}
	if f.present && !l.visit(sheepdog.ListEntry{Object: f.key.Object, Layer: f.key.Layer, Digest: f.digest}) {
		l.stopped = true
	}
}

// LayerObjects implements sheepdog.Engine.
func (d *Disk) LayerObjects(layer sheepdog.LayerID, from sheepdog.Index, limit int) ([]sheepdog.Index, error) {
	if err := d.begin(); err != nil {
		return nil, err
	}
	defer d.end()
	ids := d.layerObjects(layer, from, limit)
	out := make([]sheepdog.Index, len(ids))
	for i, id := range ids {
		out[i] = id.Index
	}
	return out, nil
}

// layerObjects lists the objects of a layer, ascending by index, from one on and at
// most limit of them; all if limit is 0.
func (d *Disk) layerObjects(layer sheepdog.LayerID, from sheepdog.Index, limit int) []sheepdog.ObjectID {
	fresh := make(map[sheepdog.ObjectID]bool) // what is not to be believed of the metadata store
	var out []sheepdog.ObjectID
	stored := 0
	for _, p := range d.dirty.all() {
		if p.id.Index < from {
			continue
		}
		p.mu.RLock()
		o := p.find(layer)
		present := o != nil && o.present > 0
		p.mu.RUnlock()
		if o == nil || present && d.headers.inventory.has(o.key) {
			continue // of most that are there it is known
		}
		if fresh[p.id] = true; present {
			out = append(out, p.id)
		}
	}
	add := func(id sheepdog.ObjectID) bool {
		if !fresh[id] {
			out = append(out, id)
			stored++
		}
		return stored != limit || limit == 0
	}
	d.headers.inventory.objects(layer, from, add)
	slices.SortFunc(out, func(a, b sheepdog.ObjectID) int { return cmp.Compare(a.Index, b.Index) })
	if limit > 0 {
		out = out[:min(limit, len(out))]
	}
	return out
}

// Layers implements sheepdog.Maintainer.
func (d *Disk) Layers() (map[sheepdog.LayerID]sheepdog.FamilyID, error) {
	if err := d.begin(); err != nil {
		return nil, err
	}
	defer d.end()
	out := make(map[sheepdog.LayerID]sheepdog.FamilyID)
	fresh := make(map[objectKey]bool)
	for _, p := range d.dirty.all() {
		p.mu.RLock()
		for _, o := range p.objects {
			fresh[o.key] = true
			if o.present > 0 {
				out[o.key.Layer] = p.id.Family
			}
		}
		p.mu.RUnlock()
	}
	d.storedLayers(fresh, out)
	return out, nil
}

// storedLayers adds the layers of the metadata store that have an object which is not
// fresh: the first that it looks at, as a rule.
func (d *Disk) storedLayers(fresh map[objectKey]bool, out map[sheepdog.LayerID]sheepdog.FamilyID) {
	stored := make(map[sheepdog.LayerID]sheepdog.FamilyID)
	for layer, family := range d.headers.inventory.each {
		stored[layer] = family
	}
	for layer, family := range stored {
		for id := range d.headers.inventory.all(layer) {
			if !fresh[objectKey{id, layer}] {
				out[layer] = family
				break
			}
		}
	}
}
