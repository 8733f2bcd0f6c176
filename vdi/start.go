package vdi

import (
	"context"
	"sync/atomic"
	"time"

	"sheepdog"
)

// maxStarted bounds, in bytes, a write that a Batch takes: it is stored on the
// goroutine that sends the batch.
const maxStarted = 64 << 10

// maxBatch is how many writes a Batch takes.
const maxBatch = 64

// Batch is writes that are begun together and waited for by nobody: the short way
// for what has nothing to wait for. It takes whole blocks within one object, of a
// VDI that this node coordinates, that overlap no I/O in flight; the rest is for
// WriteAt, which does the same and waits. It is pooled: after Send nobody may use it.
type Batch struct {
	v     *Volume
	ctx   context.Context // of retries
	c     *coordinator    // nil: nothing can be taken
	began time.Time
	judge Judge
	n     int // writes taken
	all   [maxBatch]started
	reqs  [maxBatch]*sheepdog.WriteRequest // of all
	left  atomic.Int32                     // the writes that have not ended, and Send
	done  func(i int, err error)           // ended
}

// Judge is told of each write of a batch that has ended, with its bytes and when the
// batch began, and returns what its end is to be given. It may be nil.
type Judge func(began time.Time, n int, err error) error

// started is one write on the short way.
type started struct {
	hold hold
	req  sheepdog.WriteRequest
	pc   piece
	part sheepdog.Partition
	sums [maxStarted / sheepdog.BlockSize]uint32 // behind the request's
	end  func(error)
}

// Batch makes an empty batch. Retries of its writes stop when ctx ends.
func (v *Volume) Batch(ctx context.Context, judge Judge) *Batch {
	b, _ := v.m.batches.Get().(*Batch)
	if b == nil {
		b = &Batch{}
		b.done = b.ended
		for i := range b.all {
			b.reqs[i] = &b.all[i].req
		}
	}
	b.v, b.ctx, b.began, b.judge = v, ctx, time.Now(), judge
	if v.layer == 0 && !v.claimIs(claimLost) {
		if b.c = v.family.Load().local(); b.c != nil && v.claimPassed(b.c) {
			b.c = nil
		}
	}
	return b
}

// Add takes a write of p at off into the batch and returns true, or false if it
// has to wait for something. end is called once with what WriteAt would return,
// after Send, by a goroutine that it must not hold up; p is in use until then.
func (b *Batch) Add(p []byte, off uint64, end func(error)) bool {
	n := uint64(len(p))
	if b.c == nil || b.n == maxBatch || n == 0 || n > maxStarted || (off|n)%sheepdog.BlockSize != 0 {
		return false
	}
	c := b.c
	if size := uint64(1) << c.shift; off&(size-1)+n > size || !c.gate.tryEnter() {
		return false
	}
	s := &b.all[b.n]
	s.pc = piece{index: sheepdog.Index(off >> c.shift), in: off & (1<<c.shift - 1), n: n}
	c.mu.Lock()
	ok := c.written && c.ranges.tryAcquire(&s.hold, s.pc.span(c.shift), true)
	if ok {
		c.number(&s.hold)
	}
	c.mu.Unlock()
	if !ok {
		c.gate.leave()
		return false
	}
	if !b.v.prompt(n) {
		c.unlock(&s.hold)
		c.gate.leave()
		return false
	}
	s.end = end
	b.fill(s, p)
	b.n++
	return true
}

// fill makes the request. The gate keeps the working layer from changing.
func (b *Batch) fill(s *started, p []byte) {
	c, t := b.c, b.c.top.Load()
	start, count := s.pc.blocks()
	number, done := b.v.family.Load().requests.begin(&b.v.m.numbers)
	c.change(&s.req, t, stretch{t.layer, s.pc.index, start, count}, p, s.hold.seq)
	s.req.Origin, s.req.OriginDone = sheepdog.Origin{Gateway: b.v.m.opt.Incarnation, Request: number}, done
	s.req.Sums = sheepdog.AppendSums(s.sums[:0], p)
	s.part = s.req.Object.Partition()
}

// Send begins what was added. The lease is looked at here, after the ranges were
// taken, as for every write. (rules 3, 4, 6)
func (b *Batch) Send() {
	b.left.Store(int32(b.n) + 1)
	defer b.release()
	switch {
	case b.n == 0:
	case b.c.serves():
		b.c.m.opt.Objects.Start(b.c.ctx, b.reqs[:b.n], b.done)
	default:
		for i := range b.n {
			b.ended(i, errMoved)
		}
	}
}

// ended lets go of what a write held. One that must be routed again goes the long
// way, with the same origin, in a goroutine that ends with its end.
func (b *Batch) ended(i int, err error) {
	s, c := &b.all[i], b.c
	c.mu.Lock()
	c.dirty[s.part] = struct{}{} // also after an error: some replicas may have it
	c.ranges.release(&s.hold, c.number)
	c.mu.Unlock()
	c.gate.leave()
	if err != nil && rerouted(err) {
		go b.again(s)
		return
	}
	f := b.v.family.Load()
	f.requests.end(s.req.Origin.Request)
	if err == nil {
		f.unflushed.note(b.v.m.opt.Cluster.View(), s.partIn(f))
	}
	b.finish(s, err)
}

// partIn is the partition in a family: the VDI may have moved to another.
func (s *started) partIn(f *family) sheepdog.Partition {
	if f.id == s.req.Object.Family {
		return s.part
	}
	return sheepdog.ObjectID{Family: f.id, Index: s.pc.index}.Partition()
}

func (b *Batch) again(s *started) {
	err := b.v.writeAs(b.ctx, sheepdog.ForwardWrite, s.pc, s.req.Data, s.req.Origin, s.req.OriginDone)
	b.v.family.Load().requests.end(s.req.Origin.Request)
	b.finish(s, err)
}

func (b *Batch) finish(s *started, err error) {
	if b.judge != nil {
		err = b.judge(b.began, int(s.pc.n), err)
	}
	s.end(err)
	b.release()
}

// release counts down; the last one gives the batch back.
func (b *Batch) release() {
	if b.left.Add(-1) > 0 {
		return
	}
	clear(b.all[:b.n])
	pool := &b.v.m.batches
	b.v, b.ctx, b.c, b.judge, b.n = nil, nil, nil, nil, 0
	pool.Put(b)
}
