package nbd

import (
	"net"
	"runtime"
	"sync"
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

// writer sends the replies of a session. There is no goroutine of its own:
// whoever brings a reply while nobody writes does so for all who come in the
// meantime. At depth 1 that saves a switch; at depth the replies are batched.
type writer struct {
	nc         net.Conn
	structured bool
	buffers    *buffers
	inFlight   func() int     // requests whose replies are not sent yet
	done       func(*request) // called when a reply was sent or dropped
	fail       func(error)    // called once, when the connection is broken
	moving     progress

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
		_, err := w.nc.Write(tail)
		return err
	}
	if len(tail) > 0 {
		w.vectors = append(w.vectors, tail)
	}
	w.out = w.vectors
	_, err := w.out.WriteTo(w.nc)
	return err
}
