package replica

import (
	"context"
	"fmt"
	"sync"
	"time"

	"sheepdog"
)

// batch is one call of Write on its way: which requests are not decided yet,
// and the ops of those admitted in the present pass.
type batch struct {
	reqs    []*sheepdog.WriteRequest
	done    func(i int, err error)
	unread  bool  // nobody is expected to read here soon what they bring
	pending []int // positions in reqs, ascending
	why     []error

	ready   []admitted
	results []result
	ops     []sheepdog.Op
	errs    []error
	locked  []*touched
	shards  shardSet
}

// admitted is a request that passed all checks, and the ops it became.
type admitted struct {
	i         int
	place     *sheepdog.Placement
	partition sheepdog.Partition
	acts      bool     // known to act
	family    *family  // nil of a repair
	set       *touched // nil where the replica acts
	first     int      // ops[first:last]
	last      int
}

type result struct {
	i   int
	err error
}

var batches = sync.Pool{New: func() any { return new(batch) }}

// release empties the batch; apply and pass have let go of what they used.
func (b *batch) release() {
	clear(b.ready)
	clear(b.errs)
	b.reqs, b.done, b.why = nil, nil, nil
	b.pending, b.ready, b.errs = b.pending[:0], b.ready[:0], b.errs[:0]
	batches.Put(b)
}

// Write implements sheepdog.Replica. Requests that must wait for a view or a
// layer do so without holding up the others; stamps, not arrival, order writes
// of one block.
func (s *Server) Write(ctx context.Context, reqs []*sheepdog.WriteRequest, done func(i int, err error)) {
	if engine, ok := s.cfg.Engine.(sheepdog.PacedEngine); ok {
		reqs, done = s.holdBack(ctx, engine, reqs, done)
	}
	s.writeRoomy(ctx, reqs, done)
}

// writeRoomy is Write without a look at how far the engine is behind.
func (s *Server) writeRoomy(ctx context.Context, reqs []*sheepdog.WriteRequest, done func(i int, err error)) {
	if engine, ok := s.cfg.Engine.(sheepdog.DirectEngine); ok {
		reqs, done = s.setApart(ctx, engine, reqs, done)
	}
	if len(reqs) > 0 {
		s.write(ctx, reqs, done, false)
	}
}

// serving tells the engine that clients use a family here.
func (s *Server) serving(f sheepdog.FamilyID) {
	if engine, ok := s.cfg.Engine.(sheepdog.ServingEngine); ok {
		engine.Serving(f)
	}
}

// write is Write here and now. Unread is for what the requests bring, see Op.
func (s *Server) write(ctx context.Context, reqs []*sheepdog.WriteRequest, done func(i int, err error), unread bool) {
	for _, r := range reqs {
		if r != nil && r.Origin.Gateway == s.cfg.Incarnation {
			s.serving(r.Object.Family)
		}
	}
	b := batches.Get().(*batch)
	b.reqs, b.done, b.unread = reqs, done, unread
	if !s.writeQuickly(b) {
		s.writeAll(ctx, b)
	}
	b.release()
}

// writeQuickly is writeAll for a batch of which every request is admitted quickly. If
// one is not it says false, and has done nothing.
func (s *Server) writeQuickly(b *batch) bool {
	v := s.view()
	if v == nil {
		return false
	}
	b.shards = shardSet{}
	for _, r := range b.reqs {
		if r == nil {
			return false
		}
		b.shards.add(shardOf(r.Object.Partition()))
	}
	s.enterShards(&b.shards, v)
	ok := s.admitQuickest(b)
	if ok {
		b.errs = append(b.errs[:0], make([]error, len(b.ops))...)
		s.cfg.Engine.Write(b.ops, b.errs)
		s.recordQuickly(b)
	}
	clear(b.ops)
	b.ops = b.ops[:0]
	s.leaveShards(&b.shards)
	if ok {
		s.answer(b, v)
	}
	return ok
}

// admitQuickest makes an op of each request; false if one is not admitted quickly.
func (s *Server) admitQuickest(b *batch) bool {
	b.ready = b.ready[:0]
	for i, r := range b.reqs {
		p := r.Object.Partition()
		a, ok := s.admitQuickly(s.shards[shardOf(p)].view.Load(), r, p)
		if !ok {
			return false
		}
		a.i, a.first, a.last = i, i, i+1
		b.ready, b.ops = append(b.ready, a), append(b.ops, writeOp(r))
		b.ops[i].Unread = b.unread
	}
	return true
}

// recordQuickly is record where each request is of one op, and admitted quickly.
func (s *Server) recordQuickly(b *batch) {
	var locked *family
	for i := range b.ready {
		a, r, err := &b.ready[i], b.reqs[i], b.errs[i]
		if err != nil {
			err = s.writeError(r, err)
		}
		if a.family != locked {
			locked = relock(locked, a.family)
		}
		locked.noteLocked(s, r, a.partition, a.place.Since, err == nil)
		b.results = append(b.results, result{i, err})
	}
	relock(locked, nil)
}

func (s *Server) writeError(r *sheepdog.WriteRequest, err error) error {
	return fmt.Errorf("node %s: write object %s layer %d: %w", s.cfg.Self, r.Object, r.Layer, err)
}

// writeAll is write for any batch.
func (s *Server) writeAll(ctx context.Context, b *batch) {
	for i := range b.reqs {
		b.pending = append(b.pending, i)
	}
	s.pass(b)
	if len(b.pending) == 0 {
		return
	}
	timer := time.NewTimer(s.cfg.CatchUp)
	defer timer.Stop()
	for {
		layers := s.cfg.Layers.Changed()
		views := s.cfg.Views.Changed(s.view())
		s.pass(b)
		if len(b.pending) == 0 {
			return
		}
		if !s.pause(ctx, timer, views, layers) {
			break
		}
	}
	for k, i := range b.pending {
		b.done(i, s.lagging(ctx, b.why[k]))
	}
}

// pass decides what it can of the pending requests and applies what is
// admitted.
func (s *Server) pass(b *batch) {
	v := s.view()
	b.shards = shardSet{}
	for _, i := range b.pending {
		if r := b.reqs[i]; r != nil {
			b.shards.add(shardOf(r.Object.Partition()))
		}
	}
	if v != nil {
		s.enterShards(&b.shards, v)
	}
	s.admitAll(b, v != nil)
	repairs := s.apply(b)
	if v != nil {
		s.leaveShards(&b.shards)
	}
	for _, i := range repairs {
		b.results = append(b.results, result{i, s.mend(b.reqs[i])})
	}
	s.answer(b, v)
}

// answer tells the results; the caller holds no gate.
func (s *Server) answer(b *batch, v *sheepdog.View) {
	s.syncIfAlways(b, v)
	for i := range b.results {
		b.done(b.results[i].i, b.results[i].err)
	}
	clear(b.results)
	b.results = b.results[:0]
}

// syncIfAlways makes what was applied durable before it is acknowledged, where
// the cluster was formatted so.
func (s *Server) syncIfAlways(b *batch, v *sheepdog.View) {
	if v == nil || !v.Config.SyncAlways || s.cfg.NoSync || len(b.results) == 0 {
		return
	}
	err := s.cfg.Engine.Flush()
	if err == nil {
		return
	}
	for i := range b.results {
		if b.results[i].err == nil {
			b.results[i].err = fmt.Errorf("node %s: flush after write: %w", s.cfg.Self, err)
		}
	}
}

// admitAll sorts the pending requests into ready, refused and still pending.
func (s *Server) admitAll(b *batch, gated bool) {
	still, why := b.pending[:0], b.why[:0]
	b.ready = b.ready[:0]
	for _, i := range b.pending {
		r := b.reqs[i]
		if r == nil {
			b.results = append(b.results, result{i, fmt.Errorf("%w: no request", sheepdog.ErrInvalid)})
			continue
		}
		var v *sheepdog.View
		p := r.Object.Partition()
		if gated {
			v = s.shards[shardOf(p)].view.Load()
		}
		if a, ok := s.admitQuickly(v, r, p); ok {
			a.i = i
			b.ready = append(b.ready, a)
			continue
		}
		a, err := s.admitWrite(v, r, p)
		switch {
		case err == nil:
			a.i = i
			b.ready = append(b.ready, a)
		case isWaiting(err):
			still, why = append(still, i), append(why, err)
		default:
			b.results = append(b.results, result{i, err})
		}
	}
	b.pending, b.why = still, why
}

// admitWrite checks one request against the view its shard adopted. The token
// comes last: a request refused for another reason promises nothing.
func (s *Server) admitWrite(v *sheepdog.View, r *sheepdog.WriteRequest, p sheepdog.Partition) (admitted, error) {
	version, steady := s.cfg.Layers.Version()
	pl, err := s.fenceWriter(v, r.Revision, r.Policy, p)
	if err != nil {
		return admitted{}, err
	}
	if pl.State != sheepdog.Clean && !r.Repair {
		return admitted{}, s.notActing(v, p, "waits for comparison with the other replicas")
	}
	if err := s.checkWrite(v, r); err != nil {
		return admitted{}, err
	}
	if err := s.writableLayer(r); err != nil {
		if r.Repair {
			return admitted{}, err
		}
		return admitted{}, s.fencedRather(r.Object.Family, r.Token, err)
	}
	a := admitted{place: pl, partition: p, acts: pl.IsActing(s.cfg.Self)}
	if r.Repair {
		return a, nil
	}
	a.family = s.family(r.Object.Family)
	err = s.promise(a.family, r.Object.Family, r.Token)
	if err == nil && steady && a.acts {
		s.learn(v, version, r, a.family)
	}
	return a, err
}

// checkWrite refuses what no correct sender sends.
func (s *Server) checkWrite(v *sheepdog.View, r *sheepdog.WriteRequest) error {
	if err := s.checkBlocks(r.Object.Family, r.Start, r.Count); err != nil {
		return err
	}
	switch {
	case r.Data != nil && uint64(len(r.Data)) != uint64(r.Count)*sheepdog.BlockSize:
		return fmt.Errorf("%w: %d bytes for %d blocks", sheepdog.ErrInvalid, len(r.Data), r.Count)
	case r.Sums != nil && uint64(len(r.Sums)) != uint64(r.Count):
		return fmt.Errorf("%w: %d checksums for %d blocks", sheepdog.ErrInvalid, len(r.Sums), r.Count)
	case r.Stamp == sheepdog.Stamp{}:
		return fmt.Errorf("%w: write without a stamp", sheepdog.ErrInvalid)
	case r.Token == 0 && !r.Repair:
		return fmt.Errorf("%w: write without a token", sheepdog.ErrInvalid)
	}
	return nil
}

// writableLayer refuses frozen and deleted layers, and waits for unknown ones.
func (s *Server) writableLayer(r *sheepdog.WriteRequest) error {
	if err := s.knownLayer(r.Layer, sheepdog.ErrFrozen); err != nil {
		return err
	}
	if err := s.fencePolicy(r.Object.Family, r.Policy); err != nil {
		return err
	}
	if frozen, known := s.cfg.Layers.Frozen(r.Layer); !known || frozen && !r.Repair {
		return fmt.Errorf("node %s: layer %d: %w", s.cfg.Self, r.Layer, sheepdog.ErrFrozen)
	}
	return nil
}

// fencedRather prefers to tell a deposed coordinator that it is deposed: the
// layer that it writes or reads may be frozen or gone because a newer one took a
// snapshot or rolled back, and the guest's request must go there instead of failing.
// A request without a token is no coordinator's.
func (s *Server) fencedRather(family sheepdog.FamilyID, token sheepdog.Token, err error) error {
	if token == 0 || isWaiting(err) {
		return err
	}
	if token < s.cfg.Layers.Token(family) {
		return fmt.Errorf("node %s: %w: token %d is deposed: %v", s.cfg.Self, sheepdog.ErrFenced, token, err)
	}
	return err
}

// apply runs the admitted requests in one engine batch, in order, and notes
// what they did. Repairs of replicas that act may meet equal stamps: those are
// left to the caller, which must hold no gate for them.
func (s *Server) apply(b *batch) (repairs []int) {
	repairs = s.prepare(b)
	if len(b.ops) > 0 {
		b.errs = append(b.errs[:0], make([]error, len(b.ops))...)
		s.cfg.Engine.Write(b.ops, b.errs)
	}
	s.record(b)
	unlockTouched(b.locked)
	clear(b.ops)
	b.ops, b.locked = b.ops[:0], b.locked[:0]
	return repairs
}

// prepare turns the admitted requests into ops; those kept back are taken out.
func (s *Server) prepare(b *batch) (repairs []int) {
	keep := 0
	for k := range b.ready {
		a := &b.ready[k]
		r := b.reqs[a.i]
		if !a.acts {
			a.set = s.untrusted(r, a).object(replicaKey{r.Object, r.Layer})
			b.locked = append(b.locked, a.set)
		} else if r.Repair && s.meetsEqual(r) {
			repairs = append(repairs, a.i)
			continue
		}
		if keep < k {
			b.ready[keep] = *a
		}
		keep++
	}
	b.ready = b.ready[:keep]
	seen := b.lock()
	for k := range b.ready {
		a := &b.ready[k]
		a.first = len(b.ops)
		if a.set == nil {
			b.ops = append(b.ops, writeOp(b.reqs[a.i]))
		} else {
			b.ops = overwriteOps(b.ops, b.reqs[a.i], seen[a.set])
		}
		a.last = len(b.ops)
		for i := a.first; i < a.last; i++ {
			b.ops[i].Unread = b.unread || b.reqs[a.i].Repair
		}
	}
	return repairs
}

// lock locks the touched sets of the batch, and returns a copy of each.
func (b *batch) lock() map[*touched]*blockSet {
	if len(b.locked) == 0 {
		return nil
	}
	b.locked = lockTouched(b.locked)
	seen := make(map[*touched]*blockSet, len(b.locked))
	for _, t := range b.locked {
		set := append(blockSet(nil), t.blocks...)
		seen[t] = &set
	}
	return seen
}

// untrusted is the interval of a request that a target is to take which does not act.
func (s *Server) untrusted(r *sheepdog.WriteRequest, a *admitted) *interval {
	return s.shards[shardOf(a.partition)].untrustedInterval(place{r.Policy, a.partition}, a.place, s.cfg.Self)
}

// record notes the outcome of each admitted request: what is dirty, which
// origins were applied, which blocks of a target may be trusted from now on. A
// request that failed is dirty too, for part of it may be in place. After a
// failure the later requests of the batch for the same untrusted replica fail
// with it: they were prepared as if its blocks had been replaced.
func (s *Server) record(b *batch) {
	var failed map[*touched]error
	var locked *family
	for k := range b.ready {
		a := &b.ready[k]
		r := b.reqs[a.i]
		err := firstError(b.errs[a.first:a.last])
		if a.set != nil {
			if err == nil {
				err = failed[a.set]
			}
			if err == nil {
				a.set.blocks.add(blocks(r.Start, r.Count))
			} else {
				failed = noteFailure(failed, a.set, err)
			}
		}
		if err != nil {
			err = s.writeError(r, err)
		}
		if a.family != locked {
			locked = relock(locked, a.family)
		}
		if locked != nil {
			locked.noteLocked(s, r, a.partition, a.place.Since, err == nil)
		}
		b.results = append(b.results, result{a.i, err})
	}
	relock(locked, nil)
}

// relock unlocks one family and locks the next; each may be nil.
func relock(from, to *family) *family {
	if from != nil {
		from.mu.Unlock()
	}
	if to != nil {
		to.mu.Lock()
	}
	return to
}

func noteFailure(failed map[*touched]error, set *touched, err error) map[*touched]error {
	if failed == nil {
		failed = make(map[*touched]error)
	}
	failed[set] = err
	return failed
}

func firstError(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
