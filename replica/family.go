package replica

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"sheepdog"
)

// family is what the replica remembers of one family: the promise to its
// coordinator, what is dirty, and which forwarded writes were applied. It is
// kept in memory only. A process that lost it has a new incarnation: it answers
// nobody before a newer view lists it, and by then the directory here knows
// every token appointed before that view, and the coordinator seals again.
type family struct {
	mu       sync.Mutex
	used     time.Time     // of the last promise
	promised atomic.Uint64 // a Token; changed with mu held
	// forgotten: families has another, or none. It is for who keeps a pointer.
	forgotten atomic.Bool
	// cleared is the highest stamp known to be durable everywhere. A coordinator
	// flushes only after it has made equal what older ones left, so stamps of
	// older tokens are durable with its first flush.
	cleared sheepdog.Stamp
	dirty   dirtyObjects
	runs    int
	origins map[sheepdog.Incarnation]*originSet
}

type families struct {
	mu  sync.RWMutex
	all map[sheepdog.FamilyID]*family
}

func (s *Server) family(id sheepdog.FamilyID) *family {
	s.families.mu.RLock()
	f := s.families.all[id]
	s.families.mu.RUnlock()
	if f != nil {
		return f
	}
	s.families.mu.Lock()
	defer s.families.mu.Unlock()
	if f = s.families.all[id]; f == nil {
		f = &family{used: time.Now(), origins: make(map[sheepdog.Incarnation]*originSet)}
		s.families.all[id] = f
	}
	return f
}

// promise refuses a token older than the highest promised or committed, and
// records a higher one (rule 1). Writes call it with the gate of their shard
// held, so that Seal, which promises first and passes every gate after, meets
// no write of an older token.
func (s *Server) promise(f *family, id sheepdog.FamilyID, token sheepdog.Token) error {
	committed := s.cfg.Layers.Token(id)
	f.mu.Lock()
	defer f.mu.Unlock()
	promised := f.raiseLocked(committed)
	if token < promised {
		return fmt.Errorf("node %s: %w: family %d was promised to token %d, request has %d",
			s.cfg.Self, sheepdog.ErrFenced, id, promised, token)
	}
	if promised < token {
		f.raiseLocked(token)
		f.used = time.Now()
	}
	return nil
}

// raiseLocked makes the promise at least that, and returns it.
func (f *family) raiseLocked(token sheepdog.Token) sheepdog.Token {
	f.promised.Store(max(f.promised.Load(), uint64(token)))
	return sheepdog.Token(f.promised.Load())
}

// noteLocked records an applied write. A failed one is dirty as well, but its origin
// does not count as applied, and what is in place the engine is asked.
func (f *family) noteLocked(s *Server, r *sheepdog.WriteRequest, p sheepdog.Partition, since sheepdog.Revision, applied bool) {
	f.clearLocked(sheepdog.Stamp{Token: r.Token, Seq: r.Flushed})
	key := replicaKey{r.Object, r.Layer}
	d := f.dirty.find(key)
	if d != nil && d.coarse && d.born >= since && r.Origin.Gateway == 0 { // also of a failed one
		if f.cleared.Less(r.Stamp) {
			d.runs[0].cover(stampedRun{blocks(r.Start, r.Count), r.Stamp})
		}
		return
	}
	f.markIn(d, s, mark{place{r.Policy, p}, key, blocks(r.Start, r.Count), r.Stamp, since})
	if !applied {
		if d = f.dirty.find(key); d != nil {
			f.runs -= len(d.runs) - 1
			d.coarsen()
		}
	}
	if r.Origin.Gateway == 0 {
		return
	}
	set := f.originsLocked(r.Origin.Gateway)
	set.forget(r.OriginDone)
	if applied {
		set.add(r.Origin.Request, site{at: place{r.Policy, p}, since: since})
	}
}

// mark is one run to be noted as dirty.
type mark struct {
	at     place
	key    replicaKey
	blocks span
	stamp  sheepdog.Stamp
	since  sheepdog.Revision // an interval of the partition in which it was made
}

// markLocked notes a run. Marks of the replica from before this node ceased to
// act go.
func (f *family) markLocked(s *Server, m mark) { f.markIn(f.dirty.find(m.key), s, m) }

// markIn is markLocked where d is the replica's entry, nil if there is none.
func (f *family) markIn(d *dirtyObject, s *Server, m mark) {
	if !f.cleared.Less(m.stamp) {
		return
	}
	if d != nil && d.born < m.since && !s.valid(m.at, d.born) {
		f.runs -= len(d.runs)
		d = nil
	}
	if d == nil {
		d = newDirtyObject(m.since)
		f.dirty.put(m.key, d)
	}
	f.runs -= len(d.runs)
	d.mark(m.blocks, m.stamp)
	if f.runs+len(d.runs) > maxFamilyRuns && len(d.runs) > 1 {
		d.coarsen()
	}
	f.runs += len(d.runs)
}

// clearLocked drops the marks up to the stamp of a completed flush.
func (f *family) clearLocked(upTo sheepdog.Stamp) {
	if upTo.Seq == 0 || !f.cleared.Less(upTo) {
		return
	}
	f.cleared = upTo
	f.runs = 0
	for key, d := range f.dirty.all {
		if d.clear(upTo) {
			f.dirty.forget(key)
			continue
		}
		f.runs += len(d.runs)
	}
}

// forgetAfter is how long a family must be unused before what is remembered of
// it may go.
const forgetAfter = time.Minute

// Drain returns when every write admitted before the call is finished.
func (s *Server) Drain() {
	if v := s.view(); v != nil {
		s.drain(v)
	}
}

// Forget drops what is remembered of families that the directory does not list and
// that nobody has used for a while; if such a family is not gone but new, its
// token is in the directory when the directory lists it.
func (s *Server) Forget() {
	for _, id := range s.unlisted() {
		s.families.mu.Lock()
		if f := s.families.all[id]; f != nil {
			s.forgetLocked(id, f)
		}
		s.families.mu.Unlock()
	}
}

// unlisted are the families that are remembered and that the directory does not list.
func (s *Server) unlisted() []sheepdog.FamilyID {
	s.families.mu.RLock()
	defer s.families.mu.RUnlock()
	var out []sheepdog.FamilyID
	for id := range s.families.all {
		if _, listed := s.cfg.Layers.Policy(id); !listed {
			out = append(out, id)
		}
	}
	return out
}

func (s *Server) forgetLocked(id sheepdog.FamilyID, f *family) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.used) > forgetAfter {
		delete(s.families.all, id)
		f.forgotten.Store(true)
	}
}
