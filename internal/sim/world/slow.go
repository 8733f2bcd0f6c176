package world

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"sheepdog"
)

// pace is how long a disk takes for what is asked of it, in nanoseconds; 0: no
// time at all.
type pace struct{ atomic.Int64 }

// spend waits for half the time of an operation.
func (p *pace) spend() {
	if d := p.Load(); d > 0 {
		time.Sleep(time.Duration(d) / 2)
	}
}

// slowed is a replica on a disk that may be slow: half of its time passes before
// an operation is done and half after it, so that what is done and not yet
// answered for is there too. The engine beneath cannot wait itself: its callers
// hold locks, and a bubble's time stands still while anybody waits for a lock.
type slowed struct {
	sheepdog.Replica
	pace *pace
}

var _ sheepdog.PromptReplica = slowed{}

// slow puts the pace of the host's disk around a replica.
func (w *World) slow(to sheepdog.Member, r sheepdog.Replica) sheepdog.Replica {
	return slowed{r, &w.Hosts()[to.ID-1].pace}
}

// Write implements sheepdog.Replica. The requests' data stay as they are until
// done was called for all of them.
func (s slowed) Write(ctx context.Context, reqs []*sheepdog.WriteRequest, done func(i int, err error)) {
	if s.pace.Load() == 0 {
		s.Replica.Write(ctx, reqs, done)
		return
	}
	reqs = slices.Clone(reqs) // the slice is the caller's again when Write returns
	go func() {
		s.pace.spend()
		s.Replica.Write(ctx, reqs, func(i int, err error) {
			go func() {
				s.pace.spend()
				done(i, err)
			}()
		})
	}()
}

// TryRead implements sheepdog.PromptReplica.
func (s slowed) TryRead(r *sheepdog.ReadRequest) bool {
	prompt, ok := s.Replica.(sheepdog.PromptReplica)
	return ok && s.pace.Load() == 0 && prompt.TryRead(r)
}

func (s slowed) Read(ctx context.Context, r *sheepdog.ReadRequest) error {
	s.pace.spend()
	defer s.pace.spend()
	return s.Replica.Read(ctx, r)
}

func (s slowed) Flush(ctx context.Context, r *sheepdog.FlushRequest) error {
	s.pace.spend()
	defer s.pace.spend()
	return s.Replica.Flush(ctx, r)
}

func (s slowed) Seal(ctx context.Context, r *sheepdog.SealRequest) (*sheepdog.SealReply, error) {
	s.pace.spend()
	defer s.pace.spend()
	return s.Replica.Seal(ctx, r)
}

func (s slowed) List(ctx context.Context, r *sheepdog.ListRequest) (*sheepdog.ListReply, error) {
	s.pace.spend()
	defer s.pace.spend()
	return s.Replica.List(ctx, r)
}

func (s slowed) Fetch(ctx context.Context, r *sheepdog.FetchRequest) (*sheepdog.FetchReply, error) {
	s.pace.spend()
	defer s.pace.spend()
	return s.Replica.Fetch(ctx, r)
}
