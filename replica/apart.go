package replica

import (
	"context"
	"slices"

	"sheepdog"
)

// streaming is how many requests after the oldest that its gateway has in flight a write of a
// stream comes at least. A long write with fewer beside it is answered sooner from the host's
// memory.
const streaming = 2

// setApart has long writes that are unread wait for the disk, each in a goroutine that ends with
// its done, and returns the others: so the caller, which reads for many, goes on receiving. Stamps,
// not arrival, order writes of one block.
func (s *Server) setApart(ctx context.Context, engine sheepdog.DirectEngine, reqs []*sheepdog.WriteRequest, done func(i int, err error)) ([]*sheepdog.WriteRequest, func(i int, err error)) {
	apart := func(r *sheepdog.WriteRequest) bool {
		return r != nil && engine.Directly(r.Object.Family, len(r.Data)) && s.unread(r)
	}
	if !slices.ContainsFunc(reqs, apart) {
		return reqs, done
	}
	var rest some
	for i, r := range reqs {
		if !apart(r) {
			rest.add(r, i)
			continue
		}
		go s.write(ctx, []*sheepdog.WriteRequest{r}, func(_ int, err error) { done(i, err) }, true)
	}
	return rest.reqs, rest.done(done)
}

// unread reports whether a write is one of a stream, and what it brings is read from another
// replica if at all: the node that coordinates the family reads from its own, so long as that
// acts. A replica that does not act itself has its writes wait for each other, so that they had
// better be quick.
func (s *Server) unread(r *sheepdog.WriteRequest) bool {
	v, reader := s.view(), s.cfg.Layers.Coordinator(r.Object.Family)
	if v == nil || r.Repair || r.Origin.Request < r.OriginDone+streaming || reader == s.cfg.Self {
		return false
	}
	pl, ok := v.Placement(r.Policy, r.Object.Partition())
	return ok && pl.IsActing(reader) && pl.IsActing(s.cfg.Self)
}
