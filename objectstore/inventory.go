package objectstore

import (
	"cmp"
	"context"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"

	"sheepdog"
)

// inventory knows of which objects the metadata store may have anything, so that the
// first write into one need not ask it, which takes as long as the write itself; and
// which objects it has of a layer, so that the list of a large disk takes
// milliseconds. The first may say yes wrongly, never no. It takes 4 bits to 8 bytes for an
// object of a disk of which a node has all or one in 30, and some 200 bytes for one
// that stands alone.
type inventory struct {
	whole atomic.Bool // what was there when the store was opened is in it

	mu     sync.RWMutex
	pages  map[inventoryKey]*inventoryPage
	layers map[sheepdog.LayerID]*layerInventory
	// dropped is what went until it was whole, for the list of what was there may be
	// older.
	dropped map[objectKey]struct{}
}

// inventoryBits is the size of a page: 2^12 indexes.
const inventoryBits = 12

type inventoryKey struct {
	family sheepdog.FamilyID
	page   sheepdog.Index
}

// inventoryPage is a set of numbers below 2^inventoryBits.
type inventoryPage struct {
	few []uint16                         // ascending, while they take less room
	all *[1 << inventoryBits / 64]uint64 // nil while few has them
}

// layerInventory is the indexes of one layer.
type layerInventory struct {
	family sheepdog.FamilyID
	pages  []layerPage // ascending
}

type layerPage struct {
	no sheepdog.Index
	inventoryPage
}

func newInventory() *inventory {
	return &inventory{
		pages:   make(map[inventoryKey]*inventoryPage),
		layers:  make(map[sheepdog.LayerID]*layerInventory),
		dropped: make(map[objectKey]struct{}),
	}
}

func inventoryAt(id sheepdog.ObjectID) (inventoryKey, uint16) {
	return inventoryKey{id.Family, id.Index >> inventoryBits}, uint16(id.Index % (1 << inventoryBits))
}

// may reports whether there may be anything of the object.
func (v *inventory) may(id sheepdog.ObjectID) bool {
	if !v.whole.Load() {
		return true
	}
	key, n := inventoryAt(id)
	v.mu.RLock()
	defer v.mu.RUnlock()
	p := v.pages[key]
	return p != nil && p.has(n)
}

// add notes an object that the metadata store has, or is about to have.
func (v *inventory) add(k objectKey) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.whole.Load() {
		delete(v.dropped, k)
	}
	v.addLocked(k)
}

func (v *inventory) addLocked(k objectKey) {
	key, n := inventoryAt(k.Object)
	p := v.pages[key]
	if p == nil {
		p = new(inventoryPage)
		v.pages[key] = p
	}
	p.add(n)
	l := v.layers[k.Layer]
	if l == nil {
		l = &layerInventory{family: k.Object.Family}
		v.layers[k.Layer] = l
	}
	l.page(key.page).add(n)
}

// drop notes that the metadata store has an object no more.
func (v *inventory) drop(k objectKey) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.whole.Load() {
		v.dropped[k] = struct{}{}
	}
	l := v.layers[k.Layer]
	if l == nil {
		return
	}
	key, n := inventoryAt(k.Object)
	if i, found := l.find(key.page); found && l.pages[i].remove(n) {
		l.pages = slices.Delete(l.pages, i, i+1)
	}
	if len(l.pages) == 0 {
		delete(v.layers, k.Layer)
	}
}

// has reports whether the metadata store has an object, once the inventory is whole.
func (v *inventory) has(k objectKey) bool {
	key, n := inventoryAt(k.Object)
	v.mu.RLock()
	defer v.mu.RUnlock()
	l := v.layers[k.Layer]
	if l == nil {
		return false
	}
	i, found := l.find(key.page)
	return found && l.pages[i].has(n)
}

// each visits the objects of a layer from an index on, ascending, until visit returns
// false; visit may not ask the inventory.
func (v *inventory) each(layer sheepdog.LayerID, from sheepdog.Index, visit func(sheepdog.ObjectID) bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	l := v.layers[layer]
	if l == nil {
		return
	}
	first, _ := l.find(from >> inventoryBits)
	for _, p := range l.pages[first:] {
		for n := range p.each {
			id := sheepdog.ObjectID{Family: l.family, Index: p.no<<inventoryBits + sheepdog.Index(n)}
			if id.Index >= from && !visit(id) {
				return
			}
		}
	}
}

// find is where the page of a number is, or would be.
func (l *layerInventory) find(no sheepdog.Index) (int, bool) {
	return slices.BinarySearchFunc(l.pages, no, func(p layerPage, no sheepdog.Index) int { return cmp.Compare(p.no, no) })
}

// page finds or makes one.
func (l *layerInventory) page(no sheepdog.Index) *layerPage {
	i, found := l.find(no)
	if !found {
		l.pages = slices.Insert(l.pages, i, layerPage{no: no})
	}
	return &l.pages[i]
}

// remove notes that the metadata store has no object of an id any more.
func (v *inventory) remove(id sheepdog.ObjectID) {
	key, n := inventoryAt(id)
	v.mu.Lock()
	defer v.mu.Unlock()
	if p := v.pages[key]; p != nil && p.remove(n) {
		delete(v.pages, key)
	}
}

// fill adds all that the metadata store has, until ctx ends. What is committed
// meanwhile is added and dropped by whoever commits it.
func (v *inventory) fill(ctx context.Context, meta metadata) error {
	err := meta.Scan(scan{prefix: []byte{keyLayer}, keysOnly: true}, func(key, _ []byte) (bool, error) {
		k, err := decodeLayerKey(key)
		if err == nil {
			v.recall(k)
		}
		return err == nil && ctx.Err() == nil, err
	})
	if err == nil && ctx.Err() == nil {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.whole.Store(true)
		v.dropped = nil
	}
	return err
}

// recall adds an object that the metadata store had a moment ago.
func (v *inventory) recall(k objectKey) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, gone := v.dropped[k]; !gone {
		v.addLocked(k)
	}
}

// each visits the numbers, ascending.
func (p *inventoryPage) each(visit func(uint16) bool) {
	for _, n := range p.few {
		if !visit(n) {
			return
		}
	}
	if p.all == nil {
		return
	}
	for i, w := range p.all {
		for ; w != 0; w &= w - 1 {
			if !visit(uint16(i*64 + bits.TrailingZeros64(w))) {
				return
			}
		}
	}
}

func (p *inventoryPage) has(n uint16) bool {
	if p.all != nil {
		return p.all[n/64]&(1<<(n%64)) != 0
	}
	_, found := slices.BinarySearch(p.few, n)
	return found
}

func (p *inventoryPage) add(n uint16) {
	if p.all == nil {
		i, found := slices.BinarySearch(p.few, n)
		if found {
			return
		}
		if 2*len(p.few) < len(p.all)*8 {
			p.few = slices.Insert(p.few, i, n)
			return
		}
		p.all = new([1 << inventoryBits / 64]uint64)
		for _, m := range p.few {
			p.all[m/64] |= 1 << (m % 64)
		}
		p.few = nil
	}
	p.all[n/64] |= 1 << (n % 64)
}

// remove reports whether the page is empty then.
func (p *inventoryPage) remove(n uint16) bool {
	if p.all == nil {
		if i, found := slices.BinarySearch(p.few, n); found {
			p.few = slices.Delete(p.few, i, i+1)
		}
		return len(p.few) == 0
	}
	p.all[n/64] &^= 1 << (n % 64)
	for _, w := range p.all {
		if w != 0 {
			return false
		}
	}
	return true
}

// takeInventory fills the inventory of a store that was just opened.
func (d *Disk) takeInventory(ctx context.Context) {
	defer d.done.Done()
	if err := d.inventory.fill(ctx, d.meta); err != nil {
		d.log.Warn("which objects there are could not be listed; the metadata are asked each time", "error", err)
	}
}
