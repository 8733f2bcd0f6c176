package objectstore

import (
	"cmp"
	"iter"
	"math/bits"
	"slices"
	"sync"

	"sheepdog"
)

// inventory knows which objects each layer has in the metadata store, so that the list of
// a large disk takes milliseconds. It takes a bit for an object of a disk of which a node has
// all, and 4 bytes where it has one in 30 (BenchmarkInventory).
type inventory struct {
	mu     sync.RWMutex
	layers map[sheepdog.LayerID]*layerInventory
}

// inventoryBits is the size of a page: 2^12 indexes.
const inventoryBits = 12

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
	return &inventory{layers: make(map[sheepdog.LayerID]*layerInventory)}
}

// inventoryAt is the page of an index, and where it is there.
func inventoryAt(i sheepdog.Index) (page sheepdog.Index, n uint16) {
	return i >> inventoryBits, uint16(i % (1 << inventoryBits))
}

// add notes an object that the metadata store has.
func (v *inventory) add(k objectKey) {
	v.mu.Lock()
	defer v.mu.Unlock()
	l := v.layers[k.Layer]
	if l == nil {
		l = &layerInventory{family: k.Object.Family}
		v.layers[k.Layer] = l
	}
	page, n := inventoryAt(k.Object.Index)
	l.page(page).add(n)
}

// drop notes that the metadata store has an object no more.
func (v *inventory) drop(k objectKey) {
	v.mu.Lock()
	defer v.mu.Unlock()
	l := v.layers[k.Layer]
	if l == nil {
		return
	}
	page, n := inventoryAt(k.Object.Index)
	if i, found := l.find(page); found && l.pages[i].remove(n) {
		l.pages = slices.Delete(l.pages, i, i+1)
	}
	if len(l.pages) == 0 {
		delete(v.layers, k.Layer)
	}
}

// each visits the layers, and the family of each, in no order; visit may not ask the
// inventory.
func (v *inventory) each(visit func(layer sheepdog.LayerID, family sheepdog.FamilyID) bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	for layer, l := range v.layers {
		if !visit(layer, l.family) {
			return
		}
	}
}

// has reports whether the metadata store has an object.
func (v *inventory) has(k objectKey) bool {
	page, n := inventoryAt(k.Object.Index)
	v.mu.RLock()
	defer v.mu.RUnlock()
	l := v.layers[k.Layer]
	if l == nil {
		return false
	}
	i, found := l.find(page)
	return found && l.pages[i].has(n)
}

// objects visits the objects of a layer from an index on, ascending, until visit returns
// false; visit may not ask the inventory.
func (v *inventory) objects(layer sheepdog.LayerID, from sheepdog.Index, visit func(sheepdog.ObjectID) bool) {
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

// all are the objects of a layer, see objects.
func (v *inventory) all(layer sheepdog.LayerID) iter.Seq[sheepdog.ObjectID] {
	return func(yield func(sheepdog.ObjectID) bool) { v.objects(layer, 0, yield) }
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
