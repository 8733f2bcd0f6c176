package peer

import (
	"context"
	"net"
	"runtime"
	"sync"
	"sync/atomic"

	"sheepdog"
	"sheepdog/internal/rawio"
)

const (
	// inlineRounds is how many batches a caller sends for others before it
	// leaves the rest to the writer goroutine.
	inlineRounds = 8
	// writeStep is how many bytes the writer goroutine hands to the socket at
	// once, so that progress can be seen.
	writeStep = 1 << 20
)

// outQueue is the sending side of a connection. Frames are appended to a batch;
// whoever finds nobody sending sends it, without blocking; what the socket does
// not take is left to the goroutine in run. Batches are sent in order.
type outQueue struct {
	conn net.Conn
	raw  *rawio.Conn // nil: everything goes through run
	kick chan struct{}
	stop chan struct{}

	corks atomic.Int32
	held  atomic.Bool // something is held back by corks

	mu        sync.Mutex
	turned    sync.Cond // a batch was finished
	fill      *outBatch // takes frames
	spare     *outBatch // reused as the next fill
	cur       *outBatch // being sent while busy
	busy      bool
	gathering gathering
	bytes     int           // in fill and cur
	moved     uint64        // counts what the socket took
	room      chan struct{} // closed when there is room again; nil if nobody waits
	err       error         // why nothing is sent any more
}

func newOutQueue(conn net.Conn, raw *rawio.Conn) *outQueue {
	q := &outQueue{
		conn: conn, raw: raw, kick: make(chan struct{}, 1), stop: make(chan struct{}),
		fill: &outBatch{}, spare: &outBatch{}, gathering: gathering{yield: runtime.Gosched},
	}
	q.turned.L = &q.mu
	return q
}

// put queues a frame, in whose ownership it takes f.owner, and has it sent. It
// does not block on the socket.
func (q *outQueue) put(f *frame) error {
	q.mu.Lock()
	if q.err != nil {
		q.mu.Unlock()
		if f.owner != nil {
			f.owner.release()
		}
		return q.err
	}
	before := q.fill.bytes
	q.fill.add(f)
	q.gathering.puts++
	q.bytes += q.fill.bytes - before
	q.sendAndUnlock()
	return nil
}

// putWrites is put for the most frequent requests, which leave together, and with those
// of others if there are any who may be about to send.
func (q *outQueue) putWrites(ids []uint64, reqs []*sheepdog.WriteRequest, others bool) {
	q.mu.Lock()
	q.corks.Add(1) // the lock is let go for checksums
	for i, r := range reqs {
		crc, known := sumOf(r)
		if !known {
			q.mu.Unlock()
			crc = checksum(r.Data)
			q.mu.Lock()
		}
		if q.err != nil {
			break
		}
		before := q.fill.bytes
		q.fill.addWrite(ids[i], r, crc)
		q.gathering.puts++
		q.bytes += q.fill.bytes - before
	}
	q.corks.Add(-1)
	q.sendGatheredAndUnlock(others)
}

// putAcks is put for replies to writes that were done. It tells how many bytes wait
// with them.
func (q *outQueue) putAcks(acks []ack) (queued int) {
	q.mu.Lock()
	if q.err != nil {
		q.mu.Unlock()
		return 0
	}
	for i := range acks {
		q.fill.addAck(acks[i].id)
	}
	q.gathering.puts += uint64(len(acks))
	q.bytes += len(acks) * headerSize
	queued = q.bytes
	q.sendAndUnlock()
	return queued
}

// sumOf is the checksum of a write's data if that needs no look at them.
func sumOf(r *sheepdog.WriteRequest) (crc uint32, known bool) {
	switch {
	case len(r.Data) == 0:
		return 0, true
	case len(r.Sums)*sheepdog.BlockSize == len(r.Data):
		return joinSums(r.Sums), true
	}
	return 0, false
}

// cork holds back sending until uncork, so that several frames leave together.
func (q *outQueue) cork() { q.corks.Add(1) }

func (q *outQueue) uncork() {
	q.corks.Add(-1)
	if q.held.Load() {
		q.mu.Lock()
		q.sendAndUnlock()
	}
}

// hasRoom reports whether the queue is below its bound.
func (q *outQueue) hasRoom() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.err == nil && q.bytes < maxQueued
}

// waitRoom waits until the queue is below its bound.
func (q *outQueue) waitRoom(ctx context.Context) error {
	for {
		q.mu.Lock()
		if q.err != nil || q.bytes < maxQueued {
			err := q.err
			q.mu.Unlock()
			return err
		}
		if q.room == nil {
			q.room = make(chan struct{})
		}
		room, corks := q.room, q.corks.Swap(0) // what waits for room must not be held back
		q.sendAndUnlock()
		q.corks.Add(corks)
		select {
		case <-room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// sendAndUnlock sends what is queued, unless somebody is at it, or the queue is
// corked, or somebody gathers. It is called with mu held.
func (q *outQueue) sendAndUnlock() {
	if q.busy || q.corked() || q.gathering.holdsBack(q.fill.bytes) || q.fill.empty() || q.err != nil {
		q.mu.Unlock()
		return
	}
	q.busy = true
	for round := 0; q.nextBatch(); round++ {
		q.mu.Unlock()
		if q.raw == nil || round >= inlineRounds || !q.sendNow() {
			q.kick <- struct{}{} // has room: only the one who is busy sends
			return
		}
		q.mu.Lock()
	}
	q.mu.Unlock()
}

// corked reports whether corks hold back what is queued: then uncork sends it. Either
// that sees held, or this sees that it was there. mu is held.
func (q *outQueue) corked() bool {
	q.held.Store(false)
	if q.corks.Load() <= 0 {
		return false
	}
	q.held.Store(true)
	return q.corks.Load() > 0
}

// nextBatch makes fill the batch to be sent; false, and nobody is busy any
// more, if there is nothing.
func (q *outQueue) nextBatch() bool {
	if q.cur != nil {
		q.finishBatch()
	}
	if q.fill.empty() || q.err != nil {
		q.busy = false
		q.turned.Broadcast()
		return false
	}
	q.cur, q.fill, q.spare = q.fill, q.spare, nil
	q.cur.start()
	return true
}

func (q *outQueue) finishBatch() {
	q.bytes -= q.cur.bytes
	q.cur.reset()
	q.spare, q.cur = q.cur, nil
	if q.bytes < maxQueued && q.room != nil {
		close(q.room)
		q.room = nil
	}
	q.turned.Broadcast()
}

// sendNow sends cur as far as the socket takes it and reports whether it is
// done. An error is left for the goroutine in run to meet.
func (q *outQueue) sendNow() bool {
	for {
		n, err := q.raw.TrySend(q.cur.vec)
		if err != nil || n == 0 {
			return false
		}
		q.mu.Lock()
		q.moved++
		q.mu.Unlock()
		if q.cur.sent(n) {
			return true
		}
	}
}

// run sends what was left to it until close. It is the connection's writer
// goroutine.
func (q *outQueue) run() {
	for {
		select {
		case <-q.kick:
			q.drain()
		case <-q.stop:
			select {
			case <-q.kick: // somebody is busy: end that
				q.drain()
			default:
			}
			return
		}
	}
}

func (q *outQueue) drain() {
	for {
		if err := q.sendAll(); err != nil {
			q.close(err)
		}
		q.mu.Lock()
		more := q.nextBatch()
		q.mu.Unlock()
		if !more {
			return
		}
	}
}

// sendAll sends the rest of cur, blocking.
func (q *outQueue) sendAll() error {
	for len(q.cur.vec) > 0 {
		n, err := q.sendStep()
		if err != nil {
			return err
		}
		q.mu.Lock()
		q.moved++
		q.mu.Unlock()
		q.cur.sent(n)
	}
	return nil
}

// sendStep writes up to writeStep bytes or one small group of pieces.
func (q *outQueue) sendStep() (int, error) {
	if first := q.cur.vec[0]; !rawio.Gather || len(q.cur.vec) == 1 {
		return q.conn.Write(first[:min(len(first), writeStep)])
	}
	vec, total := make(net.Buffers, 0, 8), 0
	for _, b := range q.cur.vec {
		b = b[:min(len(b), writeStep-total)]
		vec, total = append(vec, b), total+len(b)
		if total == writeStep || len(vec) == cap(vec) {
			break
		}
	}
	n, err := vec.WriteTo(q.conn)
	return int(n), err
}

// close ends the queue: nothing is sent any more and the connection is closed,
// so that its reader ends too. The first error stays.
func (q *outQueue) close(err error) {
	q.mu.Lock()
	if q.err != nil {
		q.mu.Unlock()
		return
	}
	q.err = err
	if q.room != nil {
		close(q.room)
		q.room = nil
	}
	q.mu.Unlock()
	q.conn.Close()
}

// reason is the error of close, nil before.
func (q *outQueue) reason() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.err
}

// finish waits, after close, until no data are referenced any more. The caller
// waits for run itself.
func (q *outQueue) finish() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.busy {
		q.turned.Wait()
	}
	q.bytes -= q.fill.bytes
	q.fill.reset()
}

// copyUnsent makes the queue independent of the data of request id, but for
// those in the batch being sent: then it reports true.
func (q *outQueue) copyUnsent(id uint64) (sending bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range q.fill.refs {
		if r := &q.fill.refs[i]; r.id == id && r.owner == nil {
			r.data = append([]byte(nil), r.data...)
		}
	}
	return q.cur != nil && q.cur.holds(id)
}

// forget is copyUnsent, and waits for what is being sent.
func (q *outQueue) forget(id uint64) {
	q.copyUnsent(id)
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.cur != nil && q.cur.holds(id) {
		q.turned.Wait()
	}
}

// state tells what stall detection wants: the bytes queued, and a count that
// moves when the socket takes some.
func (q *outQueue) state() (queued int, moved uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes, q.moved
}
