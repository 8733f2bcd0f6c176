package storage

import (
	"sync"

	"sheepdog/libvirtpool/rpc"
)

// EventKind is what happened to a pool.
type EventKind int32

// The kinds of events. Lifecycle events have libvirt's numbers; a refresh is an
// event of its own.
const (
	PoolDefined   EventKind = 0
	PoolUndefined EventKind = 1
	PoolStarted   EventKind = 2
	PoolStopped   EventKind = 3
	PoolCreated   EventKind = 4
	PoolDeleted   EventKind = 5
	PoolRefreshed EventKind = -1
)

// Event tells of a pool on this host.
type Event struct {
	Pool string
	UUID rpc.UUID
	Kind EventKind
}

// hub hands events to subscribers.
type hub struct {
	mu   sync.Mutex
	next int
	subs map[int]func(Event)
}

// Subscribe calls f for every event until cancel is called. f must not block: it
// queues.
func (d *Driver) Subscribe(f func(Event)) (cancel func()) {
	h := &d.events
	h.mu.Lock()
	defer h.mu.Unlock()
	id := h.next
	h.next++
	h.subs[id] = f
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.subs, id)
	}
}

func (h *hub) send(def Definition, kind EventKind) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range h.subs {
		f(Event{Pool: def.Name, UUID: def.UUID, Kind: kind})
	}
}
