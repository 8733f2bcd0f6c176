package vdi

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"sheepdog"
)

// objectMap tells at which indexes layers may hold anything. Replicas are asked for
// the list when the map is first asked. Until it is there, the map says yes wherever
// it does not know better: whoever asks the replicas for the object then is told that
// it holds nothing, and no guest waits for the list of a large disk.
type objectMap struct {
	set   *indexSet
	whole atomic.Bool // the list is in the set

	// load puts the list into the set; the goroutines that run it are run's. Both are nil
	// if the map began whole.
	load func(*indexSet) error
	run  func(func()) bool

	mu     sync.Mutex
	latest *listing
}

// listing is one attempt at the list.
type listing struct {
	done  chan struct{}
	err   error     // set before done is closed, as the next
	ended time.Time // zero: it runs; guarded by the map's lock
}

// wholeMap makes a map of what is in the set.
func wholeMap(set *indexSet) *objectMap {
	m := &objectMap{set: set}
	m.whole.Store(true)
	return m
}

// add notes an index, which the map says yes to from now on.
func (m *objectMap) add(i sheepdog.Index) { m.set.add(i) }

// has reports whether there may be anything at the index.
func (m *objectMap) has(i sheepdog.Index) bool {
	whole := m.whole.Load() // before the set is looked at, which grows until then
	if m.set.has(i) {
		return true
	}
	if !whole {
		m.start()
	}
	return !whole
}

// listPatience bounds how long a write of zeros waits to be told that it is not
// needed.
const listPatience = time.Second

// lacks reports whether there is nothing at the index. It waits for the list, but not
// for long, and is false if that is not there.
func (m *objectMap) lacks(ctx context.Context, i sheepdog.Index) bool {
	if m.set.has(i) {
		return false
	}
	if !m.whole.Load() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, listPatience)
		defer cancel()
		if m.await(ctx) != nil {
			return false
		}
	}
	return !m.set.has(i)
}

// next is the first index from i on, but at most end, at which there may be anything. It
// waits for the list.
func (m *objectMap) next(ctx context.Context, i, end sheepdog.Index) (sheepdog.Index, error) {
	if err := m.await(ctx); err != nil {
		return 0, err
	}
	return m.set.next(i, end), nil
}

// await returns when the list is there, or why it cannot be had.
func (m *objectMap) await(ctx context.Context) error {
	if m.whole.Load() {
		return nil
	}
	l := m.start()
	select {
	case <-l.done:
		return l.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// listPause is between a list that failed and the next.
const listPause = 20 * time.Millisecond

// start has the list fetched, unless it is being fetched, or could not be a moment ago.
func (m *objectMap) start() *listing {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l := m.latest; l != nil && (l.ended.IsZero() || l.err == nil || time.Since(l.ended) < listPause) {
		return l
	}
	l := &listing{done: make(chan struct{})}
	m.latest = l
	if !m.run(func() { m.end(l, m.load(m.set)) }) {
		l.err, l.ended = sheepdog.ErrClosed, time.Now()
		close(l.done)
	}
	return l
}

func (m *objectMap) end(l *listing, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l.err, l.ended = err, time.Now()
	if err == nil {
		m.whole.Store(true)
	}
	close(l.done)
}
