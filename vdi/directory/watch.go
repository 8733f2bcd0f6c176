package directory

import (
	"sync"

	"sheepdog"
)

// watch wakes those who wait for the next change of the directory.
type watch struct {
	mu      sync.Mutex
	changed chan struct{} // nil while nobody waits
}

// Changed is closed after the next command, Restore or Reset. Take it before
// looking at the directory, so that no change is missed.
func (d *Directory) Changed() <-chan struct{} {
	d.watch.mu.Lock()
	defer d.watch.mu.Unlock()
	if d.watch.changed == nil {
		d.watch.changed = make(chan struct{})
	}
	return d.watch.changed
}

func (w *watch) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

// Clear empties the directory when the cluster is formatted again, as the
// command Reset does: ids and tokens go on where they were.
func (d *Directory) Clear() {
	defer d.watch.wake()
	d.mu.Lock()
	defer d.mu.Unlock()
	(&Reset{}).apply(d.state.Load())
}

// KindAcquire is the kind of Acquire, for those who look at commands before
// they are committed.
const KindAcquire = kindAcquire

// NextLayer is above every layer that there ever was.
func (d *Directory) NextLayer() sheepdog.LayerID {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.state.Load().lastLayer + 1
}
