package directory

import "sync"

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
