package vdi

import "context"

// span is a half-open range of block numbers of a VDI.
type span struct{ from, to uint64 }

func (s span) overlaps(t span) bool { return s.from < t.to && t.from < s.to }

// rangeLock orders I/O that overlaps: writes exclude everything, reads exclude
// writes. Waiters are served in the order of arrival, so nobody starves. Its
// owner's mutex guards it; only wait blocks, without the mutex.
type rangeLock struct {
	held    []*hold // in the order of arrival: granted and waiting
	waiting int
}

// hold is one granted or waiting range.
type hold struct {
	span
	write   bool
	granted bool
	seq     uint64        // of a granted write; 0 for reads
	ready   chan struct{} // closed when granted; nil if granted at once
}

// acquire enqueues a range. If it is granted at once h.ready is nil.
func (l *rangeLock) acquire(s span, write bool) *hold {
	h := &hold{span: s, write: write}
	if l.blocked(h, len(l.held)) {
		h.ready = make(chan struct{})
		l.waiting++
	} else {
		h.granted = true
	}
	l.held = append(l.held, h)
	return h
}

// tryAcquire grants a range at once or not at all.
func (l *rangeLock) tryAcquire(h *hold, s span, write bool) bool {
	*h = hold{span: s, write: write, granted: true}
	if l.blocked(h, len(l.held)) {
		return false
	}
	l.held = append(l.held, h)
	return true
}

// blocked reports whether one of the first n entries conflicts with h.
func (l *rangeLock) blocked(h *hold, n int) bool {
	for _, o := range l.held[:n] {
		if (h.write || o.write) && h.overlaps(o.span) {
			return true
		}
	}
	return false
}

// release removes h, granted or not, and grants those that waited for it. grant
// is called for each before it is woken.
func (l *rangeLock) release(h *hold, grant func(*hold)) {
	for i, o := range l.held {
		if o == h {
			copy(l.held[i:], l.held[i+1:])
			l.held[len(l.held)-1] = nil
			l.held = l.held[:len(l.held)-1]
			break
		}
	}
	if !h.granted {
		l.waiting--
	}
	if l.waiting == 0 {
		return
	}
	for i, o := range l.held {
		if !o.granted && o.overlaps(h.span) && !l.blocked(o, i) {
			o.granted = true
			l.waiting--
			grant(o)
			close(o.ready)
		}
	}
}

// oldestSeq is the lowest sequence number of a granted write; ok is false if
// there is none.
func (l *rangeLock) oldestSeq() (seq uint64, ok bool) {
	for _, h := range l.held {
		if h.granted && h.write && (!ok || h.seq < seq) {
			seq, ok = h.seq, true
		}
	}
	return seq, ok
}

// wait blocks until h is granted or ctx ends; after an error the caller must
// release h all the same.
func (h *hold) wait(ctx context.Context) error {
	if h.ready == nil {
		return nil
	}
	select {
	case <-h.ready:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
