package vdi

import (
	"slices"
	"sync"
)

// window numbers requests and knows below which number all have ended. It keeps
// the requests in flight only.
type window struct {
	mu   sync.Mutex
	next uint64
	open []uint64 // ascending
}

// begin gives the next number, 1 for the first, and the number below which all
// requests have ended.
func (w *window) begin() (n, done uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next++
	w.open = append(w.open, w.next)
	return w.next, w.open[0]
}

func (w *window) end(n uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if i, ok := slices.BinarySearch(w.open, n); ok {
		w.open = slices.Delete(w.open, i, i+1)
	}
}
