package directory

import (
	"maps"
	"sync/atomic"
)

// shardCount divides a table so that one change copies only one small shard:
// at 100,000 layers about 25 entries. It is a power of two.
const shardCount = 4096

// table maps ids to objects. Readers need no lock: a shard is an immutable map
// that a change replaces. Writers exclude each other by Directory.mu. Ids come
// from counters, so their low bits spread them evenly.
type table[K ~uint64, V any] struct {
	shards [shardCount]atomic.Pointer[map[K]*V]
}

func (t *table[K, V]) get(k K) *V {
	m := t.shards[k%shardCount].Load()
	if m == nil {
		return nil
	}
	return (*m)[k]
}

func (t *table[K, V]) put(k K, v *V) {
	shard := &t.shards[k%shardCount]
	next := make(map[K]*V, 1)
	if m := shard.Load(); m != nil {
		next = maps.Clone(*m)
	}
	next[k] = v
	shard.Store(&next)
}

func (t *table[K, V]) remove(k K) {
	shard := &t.shards[k%shardCount]
	m := shard.Load()
	if m == nil {
		return
	}
	next := maps.Clone(*m)
	delete(next, k)
	if len(next) == 0 {
		shard.Store(nil)
		return
	}
	shard.Store(&next)
}

// fill adds an entry in place; only for a table that no reader can see yet.
func (t *table[K, V]) fill(k K, v *V) {
	shard := &t.shards[k%shardCount]
	m := shard.Load()
	if m == nil {
		fresh := make(map[K]*V)
		m = &fresh
		shard.Store(m)
	}
	(*m)[k] = v
}

// all visits every entry, in no order.
func (t *table[K, V]) all(visit func(K, *V)) {
	for i := range t.shards {
		if m := t.shards[i].Load(); m != nil {
			for k, v := range *m {
				visit(k, v)
			}
		}
	}
}

func (t *table[K, V]) clear() {
	for i := range t.shards {
		t.shards[i].Store(nil)
	}
}
