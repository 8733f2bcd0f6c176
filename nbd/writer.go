package nbd

import (
	"net"
	"runtime"
	"sync"

	"sheepdog/internal/rawio"
)

const (
	// gatherBytes is where replies are gathered for one write.
	gatherBytes = 256 << 10
	// gatherLimit is the largest payload that is copied there; larger ones go by
	// writev.
	gatherLimit = 16 << 10
	// progressStep is how much may move in one call, in either direction, so that
	// a slow client can be told from a stalled one.
	progressStep = 1 << 20
	maxVectors   = 64
)

// writer sends the replies of a session. Whoever brings a reply while nobody writes does so for all who come in the
// meantime. At depth 1 that saves a switch; at depth the replies are batched.
// complete is for those who cannot wait for the client, and brings the last
// reply of those in flight to the socket itself; else it leaves it to a goroutine
// of the session, which by then may find several.
type writer struct {
	nc         net.Conn
	raw        *rawio.Conn // nil: nc does all
	structured bool
	buffers    *buffers
	inFlight   func() int     // requests whose replies are not sent yet
	done       func(*request) // called when a reply was sent or dropped
	fail       func(error)    // called once, when the connection is broken
	moving     progress
	kick       chan struct{} // has room for one: there is something for run

	mu    sync.Mutex
	queue []*request
	spare []*request // the queue's other backing array
	busy  bool       // somebody writes; only that one touches what follows

	broken  bool
	head    []byte      // heads and small payloads of the batch; pooled
	mark    int         // head[mark:] is not in vectors yet
	vectors net.Buffers // the batch, except for head[mark:]
	bytes   int         // of the batch
	held    []*request  // the batch's requests: their payloads are in use
	out     net.Buffers // vectors while being written; a field so as not to escape
	quick   []byte      // replies of complete
	one     [1][]byte   // scratch of push
	rest    []byte      // of quick
	left    bool        // rest and held are left to run, which is the busy one
}

// add queues a reply for the next flush.
func (w *writer) add(q *request) {
	w.mu.Lock()
	w.queue = append(w.queue, q)
	w.mu.Unlock()
}

// send queues a reply and sees to it that it is written.
func (w *writer) send(q *request) {
	w.mu.Lock()
	w.queue = append(w.queue, q)
	w.drain()
}

// flush sees to it that what was added is written.
func (w *writer) flush() {
	w.mu.Lock()
	w.drain()
}

// complete queues a reply. It writes only if that needs no waiting.
func (w *writer) complete(q *request) {
	w.mu.Lock()
	w.queue = append(w.queue, q)
	if w.busy { // whoever writes takes it along
		w.mu.Unlock()
		return
	}
	if w.raw == nil || w.inFlight() > len(w.queue) || !w.short() {
		w.mu.Unlock()
		w.wake()
		return
	}
	w.busy = true
	batch := w.queue
	w.queue = w.spare[:0]
	w.mu.Unlock()
	sent := w.trySend(batch)
	w.mu.Lock()
	if !sent {
		w.held, w.left = batch, true
		w.mu.Unlock()
		w.wake()
		return // busy, until run has sent the rest
	}
	w.letGo(batch)
	more := len(w.queue) > 0
	w.mu.Unlock()
	if more {
		w.wake()
	}
}

// short reports whether the queue has only replies without data; the lock is
// held.
func (w *writer) short() bool {
	for _, q := range w.queue {
		if len(q.payload()) > 0 || q.cmd == cmdBlockStatus {
			return false
		}
	}
	return true
}

// trySend gives short replies to the socket, as far as it takes them at once.
func (w *writer) trySend(batch []*request) bool {
	w.quick = w.quick[:0]
	for _, q := range batch {
		w.quick = appendReply(w.quick, q, w.structured)
	}
	n := len(w.quick)
	if !w.broken {
		w.one[0] = w.quick
		n, _ = w.raw.TrySend(w.one[:]) // run meets the error
	}
	w.rest = w.quick[n:]
	if len(w.rest) > 0 {
		return false
	}
	for _, q := range batch {
		w.done(q)
	}
	return true
}

// letGo ends being busy with a batch; the lock is held.
func (w *writer) letGo(batch []*request) {
	clear(batch)
	w.spare = batch[:0]
	w.busy = false
}

func (w *writer) wake() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// run writes what complete leaves, until quit is closed.
func (w *writer) run(quit <-chan struct{}) {
	for {
		select {
		case <-w.kick:
			w.finish()
		case <-quit:
			w.finish()
			return
		}
	}
}

// finish sends the rest of what complete began, and what was queued since.
func (w *writer) finish() {
	w.mu.Lock()
	if w.left {
		batch := w.held
		w.held, w.left = nil, false
		w.mu.Unlock()
		w.sendRest()
		for _, q := range batch {
			w.done(q)
		}
		w.mu.Lock()
		w.letGo(batch)
	}
	w.drain()
}

func (w *writer) sendRest() {
	w.moving.begin()
	_, err := w.nc.Write(w.rest)
	w.moving.end()
	w.rest = nil
	if err != nil {
		w.broken = true
		w.fail(err)
	}
}

// drain writes until the queue is empty, unless somebody else does. It is
// called with the lock and returns without it.
func (w *writer) drain() {
	if w.busy || len(w.queue) == 0 {
		w.mu.Unlock()
		return
	}
	w.busy = true
	head := w.buffers.get(gatherBytes) // idle connections need none
	w.head = (*head)[:0]
	for len(w.queue) > 0 {
		queued := len(w.queue)
		w.mu.Unlock()
		if w.inFlight() > queued {
			runtime.Gosched() // others may be about to finish: one write for all
		}
		w.mu.Lock()
		batch := w.queue
		w.queue = w.spare[:0]
		w.mu.Unlock()
		w.writeAll(batch)
		clear(batch)
		w.mu.Lock()
		w.spare = batch[:0]
	}
	w.head = nil
	w.buffers.put(head)
	w.busy = false
	w.mu.Unlock()
}

// writeAll writes the replies of a batch.
func (w *writer) writeAll(batch []*request) {
	for _, q := range batch {
		payload := q.payload()
		gathered := len(payload) <= gatherLimit
		need := maxReplyHead
		if gathered {
			need += len(payload)
		}
		if len(w.head)+need > cap(w.head) || len(w.vectors)+2 > maxVectors ||
			(w.bytes > 0 && w.bytes+len(payload) > progressStep) {
			w.push()
		}
		before := len(w.head)
		w.head = appendReply(w.head, q, w.structured)
		w.bytes += len(w.head) - before + len(payload)
		w.held = append(w.held, q)
		if gathered {
			w.head = append(w.head, payload...)
			continue
		}
		w.vectors = append(w.vectors, w.head[w.mark:])
		w.mark = len(w.head)
		w.addPayload(payload)
	}
	w.push()
}

// addPayload puts a large payload into the batch, and writes it piece by piece
// if it is very large.
func (w *writer) addPayload(p []byte) {
	for len(p) > progressStep {
		w.vectors = append(w.vectors, p[:progressStep])
		w.writeOut()
		p = p[progressStep:]
	}
	w.vectors = append(w.vectors, p)
}

// push writes the batch and lets its requests go.
func (w *writer) push() {
	w.writeOut()
	for i, q := range w.held {
		w.held[i] = nil
		w.done(q)
	}
	w.held = w.held[:0]
}

// writeOut writes what is gathered.
func (w *writer) writeOut() {
	tail := w.head[w.mark:]
	if !w.broken && (len(w.vectors) > 0 || len(tail) > 0) {
		w.moving.begin()
		err := w.writeBytes(tail)
		w.moving.end()
		if err != nil {
			w.broken = true
			w.fail(err)
		}
	}
	clear(w.vectors)
	w.vectors, w.head, w.mark, w.bytes = w.vectors[:0], w.head[:0], 0, 0
}

// writeBytes makes one call of write or writev.
func (w *writer) writeBytes(tail []byte) error {
	if len(w.vectors) == 0 {
		n := 0
		if w.raw != nil {
			w.one[0] = tail
			n, _ = w.raw.TrySend(w.one[:]) // an error comes again
		}
		if n == len(tail) {
			return nil
		}
		_, err := w.nc.Write(tail[n:])
		return err
	}
	if len(tail) > 0 {
		w.vectors = append(w.vectors, tail)
	}
	w.out = w.vectors
	_, err := w.out.WriteTo(w.nc)
	return err
}
