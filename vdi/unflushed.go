package vdi

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"sheepdog"
)

// unflushed remembers, per partition, since which revision writes of this
// gateway's clients are acknowledged and not flushed. Such writes survive the
// death of processes but not of machines: if a loss of power has taken all
// replicas since (sheepdog.Placement.Lost), the next flush must not report
// success.
type unflushed struct {
	mu     sync.Mutex
	since  map[sheepdog.Partition]sheepdog.Revision
	flying []*flight     // not settled
	losses atomic.Uint64 // losses found so far
}

// flight is what a flush that is under way has taken of what is unflushed. One that began
// later covers it as well: whoever succeeds first settles it, and all that it was there for
// tell of a loss. Guarded by unflushed.mu.
type flight struct {
	since         map[sheepdog.Partition]sheepdog.Revision
	settled, lost bool
}

// note records an acknowledged write; v is a view in which it is acknowledged.
func (u *unflushed) note(v *sheepdog.View, part sheepdog.Partition) {
	if v == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.since == nil {
		u.since = make(map[sheepdog.Partition]sheepdog.Revision)
	}
	if _, ok := u.since[part]; !ok {
		u.since[part] = v.Revision
	}
}

// flush runs a flush and judges, once it is complete, whether what it should
// have covered was still there. Writes noted after its begin stay. Of a loss that
// nobody has found before lose is told.
func (u *unflushed) flush(run func() error, judge func(map[sheepdog.Partition]sheepdog.Revision) bool, lose func()) (lost bool, err error) {
	covered := u.depart()
	if err := run(); err != nil {
		u.giveBack(covered[0])
		return false, err
	}
	for _, f := range covered {
		here, found := u.settle(f, judge)
		if found {
			lose()
		}
		lost = lost || here
	}
	return lost, nil
}

// depart takes what is unflushed into a flight, and lists it and then those under way.
func (u *unflushed) depart() []*flight {
	u.mu.Lock()
	defer u.mu.Unlock()
	f := &flight{since: u.since}
	all := append([]*flight{f}, u.flying...)
	if u.since = nil; len(f.since) > 0 {
		u.flying = append(u.flying, f)
	}
	return all
}

// settle judges a flight that was flushed, unless that was done: found says that it is a
// loss that nobody knew of.
func (u *unflushed) settle(f *flight, judge func(map[sheepdog.Partition]sheepdog.Revision) bool) (lost, found bool) {
	lost = len(f.since) > 0 && judge(f.since)
	u.mu.Lock()
	defer u.mu.Unlock()
	if f.settled { // what is lost since then was durable
		return f.lost, false
	}
	u.land(f)
	f.settled, f.lost = true, lost
	return lost, lost
}

// land takes a flight off the list; mu is held.
func (u *unflushed) land(f *flight) {
	u.flying = slices.DeleteFunc(u.flying, func(o *flight) bool { return o == f })
}

func (u *unflushed) take() map[sheepdog.Partition]sheepdog.Revision {
	u.mu.Lock()
	defer u.mu.Unlock()
	taken := u.since
	u.since = nil
	return taken
}

// giveBack leaves a flight that failed to the next flush, unless another one has covered it.
func (u *unflushed) giveBack(f *flight) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.land(f)
	if f.settled {
		return
	}
	if u.since == nil {
		u.since = f.since
		return
	}
	for part, revision := range f.since {
		u.since[part] = revision // older than what was noted meanwhile
	}
}

// gone reports whether any partition lost all its replicas' memory after its
// writes were acknowledged. A partition without a row has moved to another
// policy, which began with a flush.
func gone(v *sheepdog.View, policy sheepdog.Policy, since map[sheepdog.Partition]sheepdog.Revision) bool {
	for part, revision := range since {
		if pl, ok := v.Placement(policy, part); ok && pl.Lost > revision {
			return true
		}
	}
	return false
}

// as is the number of losses that a volume has told of which told of so many of
// those of another family before it moved to this one: what has not been told
// stays so.
func (u *unflushed) as(before *unflushed, told uint64) uint64 {
	n := u.losses.Load()
	if told != before.losses.Load() {
		n--
	}
	return n
}

// hear waits until this node knows of a view in which the object's partition serves,
// as it does at the coordinator elsewhere that has just acknowledged a write. After
// a loss of power the write would else be taken for one from before it. It does not
// wait longer than ctx.
func (v *Volume) hear(ctx context.Context, index sheepdog.Index) {
	id := v.family.Load().id
	f, _ := v.m.opt.Directory.Family(id)
	part := sheepdog.ObjectID{Family: id, Index: index}.Partition()
	for {
		view := v.m.opt.Cluster.View()
		if view == nil || serves(view, f.Policy, part) {
			return
		}
		select {
		case <-v.m.opt.Cluster.Changed(view):
		case <-ctx.Done():
			return
		case <-v.m.ctx.Done():
			return
		}
	}
}

// serves reports whether writes to a partition are acknowledged in a view.
func serves(view *sheepdog.View, policy sheepdog.Policy, part sheepdog.Partition) bool {
	pl, ok := view.Placement(policy, part)
	return !ok || view.Serves(pl) // without a table nobody uses the policy any more
}

// lost reports whether writes to a family acknowledged since those revisions may
// be gone.
func (v *Volume) lost(family sheepdog.FamilyID, since map[sheepdog.Partition]sheepdog.Revision) bool {
	f, ok := v.m.opt.Directory.Family(family)
	if !ok || !gone(v.m.opt.Cluster.View(), f.Policy, since) {
		return false
	}
	v.m.opt.Logger.Error("acknowledged writes may be lost: all replicas lost their power before a flush", "vdi", v.name)
	return true
}

// lose counts a loss in a family, for all volumes that are there, and in the one
// into which this volume has moved meanwhile.
func (v *Volume) lose(in *family) {
	v.m.mu.Lock() // rebind changes the family
	defer v.m.mu.Unlock()
	in.unflushed.losses.Add(1)
	if now := v.family.Load(); now != in {
		now.unflushed.losses.Add(1)
	}
}

// judgeMoved judges what was noted of a family that the volume leaves: the move began
// with a flush, which knew nothing of this gateway's writes. m.mu is held.
func (v *Volume) judgeMoved(old *family) {
	if taken := old.unflushed.take(); len(taken) > 0 && v.lost(old.id, taken) {
		old.unflushed.losses.Add(1)
	}
}

// report tells of losses found since this volume last told of them: each
// attachment learns of every loss once, as of a failed fsync.
func (v *Volume) report() error {
	if v.told.Load() == v.family.Load().unflushed.losses.Load() {
		return nil
	}
	v.m.mu.Lock() // rebind changes both
	found := v.family.Load().unflushed.losses.Load()
	told := v.told.Swap(found)
	v.m.mu.Unlock()
	if told == found {
		return nil
	}
	return v.lossError()
}

func (v *Volume) lossError() error {
	return fmt.Errorf("flush of VDI %s: every replica of some of it lost its power while acknowledged writes were not flushed; they may be lost: %w", v.name, sheepdog.ErrIO)
}
