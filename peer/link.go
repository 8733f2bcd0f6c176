package peer

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"

	"sheepdog"
)

// sink takes the reply to a call apart. The reader calls it while the caller
// waits, so that it may use the caller's memory.
type sink interface {
	// ranges decodes the meta of a reply and appends to dst where its data, of
	// size bytes, belong. The slices must have size bytes together. The meta is
	// only valid during the call.
	ranges(meta []byte, size int, dst [][]byte) ([][]byte, error)
}

// rawSink is a sink that may take raw data.
type rawSink interface {
	// raw says, before ranges, that the data are raw; false if they must not be.
	raw() bool
}

// call is a request that somebody waits for.
type call struct {
	sink sink
	done chan struct{} // has room for one
	err  error
	part []byte // meta of a reply in parts
}

// writes is one Write on a link that the ctx of the caller may end early.
type writes struct {
	stop func() bool // written before the sender's release
	left atomic.Int32
}

type slotState uint8

const (
	slotFree slotState = iota
	slotWaiting
	slotClaimed // the reader is filling the caller's memory
)

// slot is where the reply to one request is expected. The id of a request is
// the index of its slot and, above, the slot's generation, so that a late reply
// meets nothing.
type slot struct {
	gen    uint32
	state  slotState
	call   *call                  // either
	done   func(i int, err error) // or
	index  int                    // for done
	writes *writes                // nil if no context ends it
}

// link is one established connection of a client. The goroutine in read owns
// its end: it completes all that is pending.
type link struct {
	node   sheepdog.NodeID // 0 if anybody was wanted
	addr   string
	conn   net.Conn
	out    *outQueue
	in     inBuffer
	live   *liveness
	remote hello
	agreed sheepdog.ClusterID // zero unless both ends have it

	mu      sync.Mutex
	slots   []slot
	free    []uint32
	pending int
	retired bool  // to be closed when nothing is pending
	dead    error // why nothing can be added any more

	vec [][]byte // scratch of the reader
}

// broken is the error that callers see where the link ended by cause.
func (l *link) broken(cause error) *BrokenError {
	return &BrokenError{Node: l.node, Addr: l.addr, Reason: reasonOf(cause), Cause: cause}
}

// add makes a slot and returns the id for its request.
func (l *link) add(s slot) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.refuses(); err != nil {
		return 0, err
	}
	return l.addLocked(s), nil
}

// addAll is add for each of so many requests, of which s is the first, and tells
// whether others were pending. Either all have slots or none has.
func (l *link) addAll(s slot, ids []uint64) (others bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.refuses(); err != nil {
		return false, err
	}
	others = l.pending > 0
	for i := range ids {
		s.index = i
		ids[i] = l.addLocked(s)
	}
	return others, nil
}

// refuses is why nothing can be added.
func (l *link) refuses() error {
	if l.dead == nil && l.retired {
		return errRetired
	}
	return l.dead
}

func (l *link) addLocked(s slot) uint64 {
	var i uint32
	if n := len(l.free); n > 0 {
		i, l.free = l.free[n-1], l.free[:n-1]
	} else {
		i = uint32(len(l.slots))
		l.slots = append(l.slots, slot{})
	}
	s.gen, s.state = l.slots[i].gen+1, slotWaiting
	l.slots[i] = s
	l.pending++
	return uint64(s.gen)<<32 | uint64(i)
}

// errRetired tells that a newer link has taken over.
var errRetired = fmt.Errorf("%w: connection is being replaced", sheepdog.ErrUnreachable)

// find is the slot that waits for id, nil if none does. mu is held.
func (l *link) find(id uint64) *slot {
	i := uint32(id)
	if int(i) >= len(l.slots) {
		return nil
	}
	s := &l.slots[i]
	if s.state == slotFree || s.gen != uint32(id>>32) {
		return nil
	}
	return s
}

// take frees the slot of id and returns what it was.
func (l *link) take(id uint64) (slot, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.find(id)
	if s == nil {
		return slot{}, false
	}
	return l.takeLocked(s, uint32(id)), true
}

func (l *link) takeLocked(s *slot, i uint32) slot {
	was := *s
	*s = slot{gen: was.gen}
	l.free = append(l.free, i)
	if l.pending--; l.pending == 0 && l.retired {
		l.out.close(sheepdog.ErrClosed)
	}
	return was
}

// retire closes the link once nothing is pending.
func (l *link) retire() {
	l.mu.Lock()
	l.retired = true
	idle := l.pending == 0
	l.mu.Unlock()
	if idle {
		l.out.close(sheepdog.ErrClosed)
	}
}

// claim gives the reader the slot's call, which stays in place until take.
func (l *link) claim(id uint64) *call {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.find(id)
	if s == nil || s.call == nil {
		return nil
	}
	s.state = slotClaimed
	return s.call
}

// do sends a request and waits for its reply.
func (l *link) do(ctx context.Context, f *frame, c *call) error {
	id, err := l.add(slot{call: c})
	if err != nil {
		return err
	}
	f.id = id
	f.seal()
	if err := l.out.put(f); err != nil {
		<-c.done // the reader completes all that is pending
		return c.err
	}
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
	}
	if !l.giveUp(id) {
		<-c.done
		return c.err
	}
	l.out.forget(id)
	_ = l.out.put(&frame{kind: kindCancel, id: id})
	return fmt.Errorf("%s: %w", f.kind, context.Cause(ctx))
}

// giveUp frees a slot whose reply has not come; false if the reader has it.
func (l *link) giveUp(id uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.find(id)
	if s == nil || s.state == slotClaimed {
		return false
	}
	l.takeLocked(s, uint32(id))
	return true
}

// write sends requests in order, together, and with those that others are about to
// send if there are others; done is called by the reader, or at once for those that
// cannot be sent.
func (l *link) write(ctx context.Context, reqs []*sheepdog.WriteRequest, done func(i int, err error)) {
	var few [4]uint64
	ids := slices.Grow(few[:0], len(reqs))[:len(reqs)]
	s := slot{done: done}
	if ctx.Done() != nil {
		s.writes = &writes{}
		s.writes.left.Store(int32(len(reqs)) + 1)
	}
	others, err := l.addAll(s, ids)
	if err != nil {
		for i := range reqs {
			done(i, err)
		}
		return
	}
	l.out.putWrites(ids, reqs, others) // if the queue is closed the reader ends the requests
	if s.writes != nil {
		l.endWith(ctx, s.writes, append([]uint64(nil), ids...))
	}
}

// endWith has the end of ctx end requests.
func (l *link) endWith(ctx context.Context, w *writes, ids []uint64) {
	w.stop = context.AfterFunc(ctx, func() { l.cancelWrites(ctx, ids) })
	w.release()
}

// start sends a request whose reply says nothing but that it was done, and returns;
// done is called as by write. It is false if the link takes nothing any more.
func (l *link) start(ctx context.Context, f *frame, done func(error)) bool {
	s := slot{done: func(_ int, err error) { done(err) }}
	if ctx.Done() != nil {
		s.writes = &writes{}
		s.writes.left.Store(2)
	}
	id, err := l.add(s)
	if err != nil {
		return false
	}
	f.id = id
	f.seal()
	_ = l.out.put(f) // if the queue is closed the reader ends the request
	if s.writes != nil {
		l.endWith(ctx, s.writes, []uint64{id})
	}
	return true
}

// isStarted reports whether id is of a request that nobody waits for in a call.
func (l *link) isStarted(id uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.find(id)
	return s != nil && s.done != nil
}

// cancelWrites ends the requests that have no answer yet: first those whose
// data nobody is sending just now.
func (l *link) cancelWrites(ctx context.Context, ids []uint64) {
	err := fmt.Errorf("%w: %w", sheepdog.ErrUnreachable, context.Cause(ctx))
	sending := make(map[uint64]slot)
	for _, id := range ids {
		s, ok := l.take(id)
		switch {
		case !ok:
		case l.out.copyUnsent(id):
			sending[id] = s
		default:
			s.end(err)
		}
	}
	for id, s := range sending {
		l.out.forget(id)
		s.end(err)
	}
}

// release counts down the requests and their sender; the last lets go of the
// context.
func (w *writes) release() {
	if w.left.Add(-1) == 0 {
		w.stop()
	}
}

func (l *link) isPending() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pending > 0
}
