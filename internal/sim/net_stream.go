package sim

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// maxSegment is how many bytes arrive at one time.
const maxSegment = 64 << 10

type segment struct {
	at      time.Time // of arrival, unless the way is cut
	arrived bool      // before the way was cut
	data    []byte
}

// stream is one direction of a connection.
type stream struct {
	net      *Net
	id       uint64
	from, to string

	mu        sync.Mutex
	segments  []segment
	unread    int           // bytes in segments
	unacked   int           // bytes read while no acknowledgement could go back
	last      time.Time     // arrival of the newest segment
	fin       bool          // the writer is done
	finAt     time.Time     // when the reader may know
	closedR   bool          // the reader closed its end
	closedW   bool          // the writer did
	broken    bool          // by a killed host
	brokenAt  time.Time     // when the far end may know
	deadlineR time.Time     // of the reader
	deadlineW time.Time     // of the writer
	changed   chan struct{} // closed when any of this changes
}

// newStream is called with the network's mu held.
func newStream(n *Net, from, to string) *stream {
	n.made++
	return &stream{net: n, id: n.made, from: from, to: to, changed: make(chan struct{})}
}

// wake is called with mu held after a change.
func (s *stream) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// update changes the stream and wakes who waits on it.
func (s *stream) update(apply func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	apply()
	s.wake()
}

// settle marks what has arrived by now.
func (s *stream) settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.segments {
		if !s.segments[i].at.After(time.Now()) {
			s.segments[i].arrived = true
		}
	}
}

// reset breaks the stream. The end that died knows at once; the other when the
// news can reach it.
func (s *stream) reset(writerDied bool) {
	d := s.net.delay()
	s.update(func() {
		s.broken, s.brokenAt = true, time.Now().Add(d)
		if writerDied {
			s.closedW = true
		} else {
			s.closedR = true
		}
	})
	s.net.forget(s)
}

// forget drops a stream that both ends have given up.
func (n *Net) forget(s *stream) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.streams, s)
}

// waitFor is what an attempt has to wait for: a change, or a moment.
type waitFor struct {
	paths paths
	until []time.Time
}

// expired reports whether a deadline has passed.
func expired(deadline time.Time) bool {
	return !deadline.IsZero() && !deadline.After(time.Now())
}

// wait sleeps until something may have changed.
func (w waitFor) wait(changed <-chan struct{}) {
	var first time.Time
	for _, t := range w.until {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	var timer <-chan time.Time
	if !first.IsZero() {
		t := time.NewTimer(time.Until(first))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-changed:
	case <-w.paths.changed:
	case <-timer:
	}
}

// read is the reader's end.
func (s *stream) read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		paths := s.net.paths(s.from, s.to)
		s.mu.Lock()
		n, err, until := s.tryRead(p, paths)
		changed, deadline := s.changed, s.deadlineR
		s.mu.Unlock()
		if n > 0 || err != nil {
			return n, err
		}
		waitFor{paths, []time.Time{until, deadline}}.wait(changed)
	}
}

// tryRead is one attempt; until is when the next makes sense, if known. mu is
// held.
func (s *stream) tryRead(p []byte, w paths) (n int, err error, until time.Time) {
	now := time.Now()
	switch {
	case s.closedR:
		return 0, net.ErrClosed, until
	case expired(s.deadlineR):
		return 0, os.ErrDeadlineExceeded, until
	case w.toFrozen:
		return 0, nil, until
	case s.broken && w.forth:
		if s.brokenAt.After(now) {
			return 0, nil, s.brokenAt
		}
		return 0, syscall.ECONNRESET, until
	}
	if len(s.segments) > 0 {
		return s.takeSegment(p, w, now)
	}
	if s.fin && w.forth && !w.fromFrozen {
		if s.finAt.After(now) {
			return 0, nil, s.finAt
		}
		return 0, io.EOF, until
	}
	return 0, nil, until
}

func (s *stream) takeSegment(p []byte, w paths, now time.Time) (n int, err error, until time.Time) {
	first := &s.segments[0]
	if !first.arrived {
		if !w.forth {
			return 0, nil, until
		}
		if first.at.After(now) {
			return 0, nil, first.at
		}
	}
	n = copy(p, first.data)
	first.data = first.data[n:]
	if len(first.data) == 0 {
		s.segments = s.segments[1:]
	}
	s.unread -= n
	if !w.back {
		s.unacked += n
	}
	s.wake()
	return n, nil, until
}

// write is the writer's end.
func (s *stream) write(p []byte) (int, error) {
	written := 0
	for {
		paths := s.net.paths(s.from, s.to)
		delay := s.net.delay()
		s.mu.Lock()
		n, err, until := s.tryWrite(p[written:], paths, delay)
		written += n
		changed, deadline := s.changed, s.deadlineW
		s.mu.Unlock()
		if err != nil || written == len(p) {
			return written, err
		}
		if n == 0 {
			waitFor{paths, []time.Time{until, deadline}}.wait(changed)
		}
	}
}

// tryWrite is one attempt. mu is held.
func (s *stream) tryWrite(p []byte, w paths, delay time.Duration) (n int, err error, until time.Time) {
	now := time.Now()
	switch {
	case s.closedW || s.fin:
		return 0, net.ErrClosed, until
	case expired(s.deadlineW):
		return 0, os.ErrDeadlineExceeded, until
	case w.fromFrozen:
		return 0, nil, until
	case s.broken && w.back:
		if s.brokenAt.After(now) {
			return 0, nil, s.brokenAt
		}
		return 0, syscall.ECONNRESET, until
	case s.closedR && w.forth && w.back && !w.toFrozen:
		return 0, syscall.EPIPE, until
	}
	if w.back {
		s.unacked = 0
	}
	n = min(len(p), maxSegment, s.net.opts.Window-s.unread-s.unacked)
	if n <= 0 {
		return 0, nil, until
	}
	at := now.Add(delay)
	if at.Before(s.last) {
		at = s.last
	}
	s.last = at
	s.segments = append(s.segments, segment{at: at, data: append([]byte(nil), p[:n]...)})
	s.unread += n
	s.wake()
	return n, nil, until
}

// finish says that nothing more is written.
func (s *stream) finish(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fin || s.closedW {
		return
	}
	s.fin, s.finAt = true, time.Now().Add(d)
	if s.finAt.Before(s.last) {
		s.finAt = s.last
	}
	s.wake()
}
