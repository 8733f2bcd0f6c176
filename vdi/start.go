package vdi

import (
	"context"

	"sheepdog"
)

// maxStarted bounds, in bytes, a write that a Batch takes: it is stored on the
// goroutine that sends the batch.
const maxStarted = 64 << 10

// Batch is writes that are begun together and waited for by nobody: the short way
// for what has nothing to wait for. It takes whole blocks within one object, of a
// VDI that this node coordinates, that overlap no I/O in flight; the rest is for
// WriteAt, which does the same and waits.
type Batch struct {
	v    *Volume
	ctx  context.Context // of retries
	c    *coordinator    // nil: nothing can be taken
	all  []*started
	reqs []*sheepdog.WriteRequest
}

// started is one write on the short way.
type started struct {
	hold hold
	req  sheepdog.WriteRequest
	pc   piece
	part sheepdog.Partition
	end  func(error)
}

// Batch makes an empty batch. Retries of its writes stop when ctx ends.
func (v *Volume) Batch(ctx context.Context) *Batch {
	b := &Batch{v: v, ctx: ctx}
	if v.layer == 0 && !v.claimIs(claimLost) {
		if b.c = v.m.local(v.family.Load().id); b.c != nil && v.claimPassed(b.c) {
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
	if b.c == nil || n == 0 || n > maxStarted || (off|n)%sheepdog.BlockSize != 0 {
		return false
	}
	c := b.c
	if size := uint64(1) << c.shift; off&(size-1)+n > size || !c.gate.tryEnter() {
		return false
	}
	s := &started{pc: piece{index: sheepdog.Index(off >> c.shift), in: off & (1<<c.shift - 1), n: n}, end: end}
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
	b.fill(s, p)
	b.all, b.reqs = append(b.all, s), append(b.reqs, &s.req)
	return true
}

// fill makes the request. The gate keeps the working layer from changing.
func (b *Batch) fill(s *started, p []byte) {
	c, t := b.c, b.c.top.Load()
	start, count := s.pc.blocks()
	number, done := b.v.family.Load().requests.begin(&b.v.m.numbers)
	s.req = c.change(t, stretch{t.layer, s.pc.index, start, count}, p, s.hold.seq)
	s.req.Origin, s.req.OriginDone = sheepdog.Origin{Gateway: b.v.m.opt.Incarnation, Request: number}, done
	s.part = s.req.Object.Partition()
}

// Send begins what was added. The lease is looked at here, after the ranges were
// taken, as for every write. (rules 3, 4, 6)
func (b *Batch) Send() {
	if len(b.all) == 0 {
		return
	}
	if !b.c.serves() {
		for i := range b.all {
			b.ended(i, errMoved)
		}
		return
	}
	b.c.m.opt.Objects.Start(b.c.ctx, b.reqs, b.ended)
}

// ended lets go of what a write held. One that must be routed again goes the long
// way, with the same origin, in a goroutine that ends with its end.
func (b *Batch) ended(i int, err error) {
	s, c := b.all[i], b.c
	c.mu.Lock()
	c.dirty[s.part] = struct{}{} // also after an error: some replicas may have it
	c.ranges.release(&s.hold, c.number)
	c.mu.Unlock()
	c.gate.leave()
	if err != nil && rerouted(err) {
		go b.again(s)
		return
	}
	b.v.family.Load().requests.end(s.req.Origin.Request)
	if err == nil {
		b.v.written(s.pc.index)
	}
	s.end(err)
}

func (b *Batch) again(s *started) {
	err := b.v.writeAs(b.ctx, sheepdog.ForwardWrite, s.pc, s.req.Data, s.req.Origin, s.req.OriginDone)
	b.v.family.Load().requests.end(s.req.Origin.Request)
	s.end(err)
}
