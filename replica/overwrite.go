package replica

import (
	"cmp"
	"slices"
	"sync"

	"sheepdog"
)

// replicaKey is one object in one layer.
type replicaKey struct {
	object sheepdog.ObjectID
	layer  sheepdog.LayerID
}

func (a replicaKey) compare(b replicaKey) int {
	return cmp.Or(cmp.Compare(a.object.Family, b.object.Family), cmp.Compare(a.object.Index, b.object.Index), cmp.Compare(a.layer, b.layer))
}

// interval is one interval of a partition in which this node is a target that
// does not act. What it holds from before may never have been committed, and
// may bear a higher stamp than what was: so the first write or backfill of a
// block in the interval replaces it whatever its stamp, and only later ones go
// by stamp (docs/protocol.md rule 8).
type interval struct {
	mu      sync.Mutex
	objects map[replicaKey]*touched
}

// touched is the set of blocks of one replica that the interval has written.
// The mutex is held from the look at the set until the write is applied, for a
// second writer of an untouched block must come after the first in the engine.
type touched struct {
	key    replicaKey
	mu     sync.Mutex
	blocks blockSet
}

// untrustedInterval is the interval of a partition in which this node must not
// trust its own content; nil if it acts. The caller holds the gate.
func (sh *shard) untrustedInterval(at place, pl *sheepdog.Placement, self sheepdog.NodeID) *interval {
	if pl.IsActing(self) {
		return nil
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	in := sh.untrusted[at]
	if in == nil {
		in = &interval{objects: make(map[replicaKey]*touched)}
		sh.untrusted[at] = in
	}
	return in
}

// object is the touched set of a replica, made at first use.
func (in *interval) object(key replicaKey) *touched {
	in.mu.Lock()
	defer in.mu.Unlock()
	t := in.objects[key]
	if t == nil {
		t = &touched{key: key}
		in.objects[key] = t
	}
	return t
}

// lockTouched locks the touched sets of a batch, each once and in one order for
// all batches.
func lockTouched(sets []*touched) []*touched {
	slices.SortFunc(sets, func(a, b *touched) int { return a.key.compare(b.key) })
	sets = slices.Compact(sets)
	for _, t := range sets {
		t.mu.Lock()
	}
	return sets
}

func unlockTouched(sets []*touched) {
	for _, t := range sets {
		t.mu.Unlock()
	}
}

// overwriteOps cuts a request into ops that replace and ops that go by stamp.
// seen has what the ops before it in the same batch will have touched.
func overwriteOps(ops []sheepdog.Op, r *sheepdog.WriteRequest, seen *blockSet) []sheepdog.Op {
	all := blocks(r.Start, r.Count)
	seen.split(all, func(part span, in bool) {
		op := writeOp(r)
		op.Start, op.Count = sheepdog.BlockNo(part.from), uint32(part.to-part.from)
		if r.Data != nil {
			op.Data = r.Data[(part.from-all.from)*sheepdog.BlockSize : (part.to-all.from)*sheepdog.BlockSize]
		}
		if r.Sums != nil {
			op.Sums = r.Sums[part.from-all.from : part.to-all.from]
		}
		op.Force = !in
		ops = append(ops, op)
	})
	seen.add(all)
	return ops
}

func writeOp(r *sheepdog.WriteRequest) sheepdog.Op {
	return sheepdog.Op{Object: r.Object, Layer: r.Layer, Start: r.Start, Count: r.Count, Data: r.Data, Stamp: r.Stamp, Sums: r.Sums}
}
