package replica

import (
	"context"
	"sync/atomic"

	"sheepdog"
)

// streamKept is for how many long writes of a family without company one with company makes it
// a stream: what goes now past the host's memory and now through it costs more than either.
const streamKept = 32

// streams knows which families are written in streams, roughly: two that share a place are taken
// for one.
type streams [64]atomic.Int32

// note tells of a long write and reports whether it is one of a stream: its gateway has had others
// in flight, with this or lately. The answer to a lone one comes sooner from the host's memory.
func (a *streams) note(r *sheepdog.WriteRequest) bool {
	left := &a[r.Object.Family%sheepdog.FamilyID(len(a))]
	if r.Origin.Request > r.OriginDone {
		left.Store(streamKept)
		return true
	}
	return left.Load() > 0 && left.Add(-1) >= 0
}

// setApart has long writes that are unread wait for the disk, each in a goroutine that ends with
// its done, and returns the others: so the caller, which reads for many, goes on receiving. Stamps,
// not arrival, order writes of one block.
func (s *Server) setApart(ctx context.Context, engine sheepdog.DirectEngine, reqs []*sheepdog.WriteRequest, done func(i int, err error)) ([]*sheepdog.WriteRequest, func(i int, err error)) {
	var rest some
	apart := 0
	for i, r := range reqs {
		if r == nil || !engine.Directly(r.Object.Family, len(r.Data)) || !s.unread(r) || !s.streams.note(r) {
			if apart > 0 {
				rest.add(r, i)
			}
			continue
		}
		if apart++; apart == 1 {
			for k := range i {
				rest.add(reqs[k], k)
			}
		}
		go s.write(ctx, []*sheepdog.WriteRequest{r}, func(_ int, err error) { done(i, err) }, true)
	}
	if apart == 0 {
		return reqs, done
	}
	return rest.reqs, rest.done(done)
}

// unread reports whether what a write brings is read from another replica if at all: the node that
// coordinates the family reads from its own, so long as that acts. A replica that does not act
// itself has its writes wait for each other, so that they had better be quick.
func (s *Server) unread(r *sheepdog.WriteRequest) bool {
	v, reader := s.view(), s.cfg.Layers.Coordinator(r.Object.Family)
	if v == nil || r.Repair || reader == s.cfg.Self {
		return false
	}
	pl, ok := v.Placement(r.Policy, r.Object.Partition())
	return ok && pl.IsActing(reader) && pl.IsActing(s.cfg.Self)
}
