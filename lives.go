package sheepdog

import (
	"sync"
	"sync/atomic"
)

// Lives tells of processes whether they have ended, from the views it has seen.
// One that is no member any more may only be cut off, and come back as what it
// was, with requests that it began before. Another incarnation of its node proves
// that it has ended. The zero Lives has seen none.
type Lives struct {
	seen   atomic.Uint64 // revision of the newest view
	mu     sync.Mutex
	node   map[Incarnation]NodeID // an entry per process that was ever seen
	latest map[NodeID]Incarnation
}

// See takes note of a view; older ones than the newest are ignored.
func (l *Lives) See(v *View) {
	if uint64(v.Revision) <= l.seen.Load() {
		return // cheap, for those who call it with every request
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if uint64(v.Revision) <= l.seen.Load() {
		return
	}
	l.seen.Store(uint64(v.Revision))
	if l.node == nil {
		l.node, l.latest = make(map[Incarnation]NodeID), make(map[NodeID]Incarnation)
	}
	for _, m := range v.Members {
		l.node[m.Incarnation], l.latest[m.ID] = m.ID, m.Incarnation
	}
}

// Seen reports whether a view has listed the process.
func (l *Lives) Seen(i Incarnation) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.node[i]
	return ok
}

// Ended reports whether a process is known to have ended.
func (l *Lives) Ended(i Incarnation) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, ok := l.node[i]
	return ok && l.latest[n] != i
}
