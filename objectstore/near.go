package objectstore

import (
	"unsafe"

	"sheepdog/internal/prefetch"
)

// nearPiles is how far ahead of a walk over piles the memory of one is fetched, and half of
// that what it leads to. Of a large disk they lie all over the memory, and to wait for one
// after the other takes longer than what is done with them.
const nearPiles = 16

// lineBytes is the length of a line of the processor's cache, on most of them.
const lineBytes = 64

// near has those of the piles fetched that a walk which is at the n-th comes to soon.
func near(piles []*pile, n int) {
	if n+nearPiles < len(piles) {
		piles[n+nearPiles].near()
	}
	if n+nearPiles/2 < len(piles) {
		piles[n+nearPiles/2].nearSlots()
	}
}

// nearSaved is near for the piles of snapshots.
func nearSaved(saved []*savedPile, n int) {
	if n+nearPiles < len(saved) {
		saved[n+nearPiles].p.near()
	}
	if n+nearPiles/2 < len(saved) {
		saved[n+nearPiles/2].p.nearSlots()
	}
}

// near has the pile itself fetched.
func (p *pile) near() {
	for at := uintptr(0); at < unsafe.Sizeof(*p); at += lineBytes {
		prefetch.Line(unsafe.Add(unsafe.Pointer(p), at))
	}
}

// nearSlots has the slots of the first chunk fetched, of a pile that is near.
func (p *pile) nearSlots() {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, q := range p.first.o.first.c.parts {
		if q == nil {
			continue
		}
		for at := uintptr(0); at < unsafe.Sizeof(*q); at += lineBytes {
			prefetch.Line(unsafe.Add(unsafe.Pointer(q), at))
		}
	}
}
