package vdi

import (
	"slices"
	"sync"
	"sync/atomic"
)

// window is the requests of one family that are in flight from here. Their
// numbers come from a counter of the whole process: a family may be closed and
// opened again, and no number may ever come twice.
type window struct {
	mu   sync.Mutex
	open []uint64 // ascending
}

// begin takes the next number and tells below which all requests of the family
// have ended.
func (w *window) begin(counter *atomic.Uint64) (n, done uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n = counter.Add(1)
	w.open = append(w.open, n)
	return n, w.open[0]
}

func (w *window) end(n uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if i, ok := slices.BinarySearch(w.open, n); ok {
		w.open = slices.Delete(w.open, i, i+1)
	}
}
