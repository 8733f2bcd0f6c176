package vdi

import (
	"maps"
	"math/bits"
	"slices"
	"sync"

	"sheepdog"
)

// pageBits is the size of a page of an indexSet: 2^12 indexes are 16 GiB of a
// VDI with objects of 4 MiB.
const pageBits = 12

type indexPage [1 << pageBits / 64]uint64

// indexSet is a set of indexes of objects. It only grows.
type indexSet struct {
	mu    sync.RWMutex
	pages map[sheepdog.Index]*indexPage
	count int
}

func newIndexSet() *indexSet { return &indexSet{pages: make(map[sheepdog.Index]*indexPage)} }

func (s *indexSet) has(i sheepdog.Index) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	p := s.pages[i>>pageBits]
	return p != nil && p[i%(1<<pageBits)/64]&(1<<(i%64)) != 0
}

func (s *indexSet) add(i sheepdog.Index) {
	if s.has(i) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pages[i>>pageBits]
	if p == nil {
		p = new(indexPage)
		s.pages[i>>pageBits] = p
	}
	w, bit := &p[i%(1<<pageBits)/64], uint64(1)<<(i%64)
	if *w&bit == 0 {
		*w |= bit
		s.count++
	}
}

// next is the first index of the set from i on, but at most end.
func (s *indexSet) next(i, end sheepdog.Index) sheepdog.Index {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for i < end {
		p := s.pages[i>>pageBits]
		if p == nil {
			i = (i>>pageBits + 1) << pageBits
			continue
		}
		if word := p[i%(1<<pageBits)/64] >> (i % 64); word != 0 {
			return min(i+sheepdog.Index(bits.TrailingZeros64(word)), end)
		}
		i = (i/64 + 1) * 64
	}
	return end
}

// len is the number of indexes in the set.
func (s *indexSet) len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.count
}

// list is the indexes in ascending order.
func (s *indexSet) list() []sheepdog.Index {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]sheepdog.Index, 0, s.count)
	for _, k := range slices.Sorted(maps.Keys(s.pages)) {
		for w, word := range s.pages[k] {
			for ; word != 0; word &= word - 1 {
				out = append(out, k<<pageBits+sheepdog.Index(w*64+bits.TrailingZeros64(word)))
			}
		}
	}
	return out
}

// union adds everything that is in t.
func (s *indexSet) union(t *indexSet) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, from := range t.pages {
		p := s.pages[k]
		if p == nil {
			p = new(indexPage)
			s.pages[k] = p
		}
		for i, w := range from {
			s.count += bits.OnesCount64(w &^ p[i])
			p[i] |= w
		}
	}
}
