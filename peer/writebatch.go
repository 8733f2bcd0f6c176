package peer

import (
	"sync"

	"sheepdog"
)

// maxBatch is how many writes a handler gets at once.
const maxBatch = 256

// maxUnanswered bounds, per connection, the bytes of replies that the far end
// does not read; a client reads them always.
const maxUnanswered = 4 * maxQueued

// writeBatch is the writes that a session found in its buffer. Their data stay
// in the session's chunk, which the batch holds until all are answered.
type writeBatch struct {
	ss     *session
	chunk  *chunk
	store  [maxBatch]sheepdog.WriteRequest
	sums   []uint32 // of the blocks of all of them
	reqs   []*sheepdog.WriteRequest
	ids    []uint64
	done   func(i int, err error)
	weight int64 // of the chunk, where the handler did not answer at once

	mu       sync.Mutex
	inline   bool // the handler has not returned: the reader sends the answers
	answered [maxBatch]bool
	acks     []ack
	left     int
}

type ack struct {
	id  uint64
	err error
}

func (s *Server) newBatch(ss *session) *writeBatch {
	b, _ := s.batches.Get().(*writeBatch)
	if b == nil {
		b = &writeBatch{reqs: make([]*sheepdog.WriteRequest, 0, maxBatch), ids: make([]uint64, 0, maxBatch)}
		b.done = b.answer
	}
	b.ss = ss
	return b
}

func (b *writeBatch) full() bool { return len(b.reqs) == maxBatch }

// add takes a write in, whose data belong to sums.
func (b *writeBatch) add(id uint64, meta, data []byte, sums []uint32) error {
	r := &b.store[len(b.reqs)]
	if err := decodeWrite(meta, data, r); err != nil {
		return err
	}
	if r.Data != nil {
		r.Sums = sums
	}
	b.reqs, b.ids = append(b.reqs, r), append(b.ids, id)
	return nil
}

// verify checks the data of a write that came with h, and keeps the checksums of their
// blocks until the batch is answered. Blocks are whole, or the write makes no sense.
func (b *writeBatch) verify(h header, data []byte) ([]uint32, error) {
	if len(data)%sheepdog.BlockSize != 0 {
		return nil, h.check("data", h.dataCRC, data)
	}
	from := len(b.sums)
	b.sums = sheepdog.AppendSums(b.sums, data)
	sums := b.sums[from:len(b.sums):len(b.sums)]
	if joinSums(sums) != h.dataCRC {
		return nil, h.mismatch("data")
	}
	return sums, nil
}

// answer is the done of the handler's Write.
func (b *writeBatch) answer(i int, err error) {
	b.mu.Lock()
	if b.answered[i] {
		b.mu.Unlock()
		panic("peer: a write was answered twice")
	}
	b.answered[i] = true
	b.left--
	last := b.left == 0
	a := ack{b.ids[i], err}
	if b.inline {
		b.acks = append(b.acks, a)
		b.mu.Unlock()
		return
	}
	b.mu.Unlock()
	ss := b.ss
	ss.ackAll([]ack{a})
	if last {
		b.letGo()
		b.ss = nil
		ss.srv.batches.Put(b)
		ss.writes.Done()
	}
}

// runBatch has the handler do the collected writes and sends the answers that
// it gave at once. The rest keep the batch and its chunk.
func (ss *session) runBatch() error {
	b := ss.batch
	if len(b.reqs) == 0 {
		return nil
	}
	b.inline, b.left = true, len(b.reqs)
	b.chunk = ss.in.chunk
	b.chunk.hold()
	ss.writes.Add(1)
	ss.srv.handler.Write(ss.ctx, b.reqs, b.done)

	answered, err := b.detach()
	if answered {
		b.letGo()
		ss.writes.Done()
		return err
	}
	ss.batch = ss.srv.newBatch(ss)
	return err
}

// detach has later answers send themselves. Before, it waits until the buffers
// of unanswered writes are within their bound. It reports whether there are none.
func (b *writeBatch) detach() (answered bool, err error) {
	ss := b.ss
	b.mu.Lock()
	if b.left > 0 {
		b.mu.Unlock()
		weight := int64(min(len(b.chunk.b), maxDetached))
		if err = ss.detached.Acquire(ss.ctx, weight); err == nil {
			b.weight = weight
		}
		b.mu.Lock()
	}
	acks := b.acks
	b.acks = nil
	answered = b.left == 0
	b.inline = answered // then nobody answers any more
	b.mu.Unlock()
	ss.ackAll(acks)
	if answered {
		b.acks = acks[:0]
	}
	return answered, err
}

// letGo gives up what the batch holds and empties it.
func (b *writeBatch) letGo() {
	b.chunk.release()
	if b.weight > 0 {
		b.ss.detached.Release(b.weight)
	}
	b.reset(len(b.ids))
}

func (b *writeBatch) reset(n int) {
	clear(b.store[:n])
	clear(b.answered[:n])
	clear(b.reqs)
	b.chunk, b.weight, b.inline = nil, 0, false
	b.reqs, b.ids, b.sums = b.reqs[:0], b.ids[:0], b.sums[:0]
}

// ackAll sends answers together. It never waits: the reader of a session must
// not depend on the far end's reader.
func (ss *session) ackAll(acks []ack) {
	good := acks
	for i := range acks {
		if acks[i].err != nil {
			good = ss.refuse(acks)
			break
		}
	}
	if len(good) > 0 && ss.out.putAcks(good) > maxUnanswered {
		ss.out.close(errStalled)
	}
}

// refuse sends the answers that are errors and returns the others.
func (ss *session) refuse(acks []ack) (good []ack) {
	for _, a := range acks {
		if a.err == nil {
			good = append(good, a)
			continue
		}
		ss.fail(header{kind: kindWrite, id: a.id}, a.err)
	}
	if queued, _ := ss.out.state(); queued > maxUnanswered {
		ss.out.close(errStalled)
	}
	return good
}
