package objectstore

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"sheepdog"
)

// inventory knows of which objects the metadata store may have anything, so that the
// first write into one need not ask it, which takes as long as the write itself. It
// may say yes wrongly, never no. It takes 2 bits to 4 bytes for an object of a disk of
// which a node has all or one in 30, and some 100 bytes for one that stands alone.
type inventory struct {
	whole atomic.Bool // what was there when the store was opened is in it

	mu    sync.RWMutex
	pages map[inventoryKey]*inventoryPage
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

func newInventory() *inventory {
	return &inventory{pages: make(map[inventoryKey]*inventoryPage)}
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

func (v *inventory) add(id sheepdog.ObjectID) {
	key, n := inventoryAt(id)
	v.mu.Lock()
	defer v.mu.Unlock()
	p := v.pages[key]
	if p == nil {
		p = new(inventoryPage)
		v.pages[key] = p
	}
	p.add(n)
}

func (v *inventory) remove(id sheepdog.ObjectID) {
	key, n := inventoryAt(id)
	v.mu.Lock()
	defer v.mu.Unlock()
	if p := v.pages[key]; p != nil && p.remove(n) {
		delete(v.pages, key)
	}
}

// fill adds all that the metadata store has, until ctx ends. What is committed
// meanwhile is added by whoever commits it.
func (v *inventory) fill(ctx context.Context, meta metadata) error {
	err := meta.Scan(scan{prefix: []byte{keyLayer}, keysOnly: true}, func(key, _ []byte) (bool, error) {
		k, err := decodeLayerKey(key)
		if err == nil {
			v.add(k.Object)
		}
		return err == nil && ctx.Err() == nil, err
	})
	if err == nil && ctx.Err() == nil {
		v.whole.Store(true)
	}
	return err
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
