package replica

import (
	"cmp"
	"slices"

	"sheepdog"
)

// maxOrigins bounds the applied requests remembered per gateway; the oldest go.
const maxOrigins = 1 << 16

// originSet is the applied requests of one gateway at or above done, ascending.
// They come, and are forgotten, nearly in that order.
type originSet struct {
	done    uint64
	applied []appliedRequest
}

type appliedRequest struct {
	request uint64
	site
}

// site is where and when a forwarded write was applied. Once this node ceases
// to act there it counts no more: what the node holds is distrusted then and
// replaced, and a takeover that acknowledged a retry on the strength of the
// origin alone would lose the write.
type site struct {
	at      place
	since   sheepdog.Revision // interval of the partition
	carried bool              // told by a source of backfill, without the place
}

// search finds the first request that is not below n, and tells whether it is n.
func (s *originSet) search(n uint64) (int, bool) {
	return slices.BinarySearchFunc(s.applied, n, func(a appliedRequest, n uint64) int { return cmp.Compare(a.request, n) })
}

// add notes that a request was applied, last where it was applied last.
func (s *originSet) add(n uint64, where site) {
	if n < s.done {
		return
	}
	a := appliedRequest{n, where}
	if last := len(s.applied) - 1; last < 0 || s.applied[last].request < n {
		s.applied = append(s.applied, a)
	} else if i, found := s.search(n); found {
		s.applied[i] = a
	} else {
		s.applied = slices.Insert(s.applied, i, a)
	}
	if len(s.applied) > maxOrigins {
		s.applied = slices.Delete(s.applied, 0, 1)
	}
}

// forget drops the requests below done: the gateway has had their answers.
func (s *originSet) forget(done uint64) {
	if done <= s.done {
		return
	}
	s.done = done
	n := 0
	for n < len(s.applied) && s.applied[n].request < done {
		n++
	}
	s.applied = slices.Delete(s.applied, 0, n)
}

// originsLocked is the set of a gateway, made at first use.
func (f *family) originsLocked(gateway sheepdog.Incarnation) *originSet {
	set := f.origins[gateway]
	if set == nil {
		set = new(originSet)
		f.origins[gateway] = set
	}
	return set
}

// dropEnded forgets the origins of gateways whose process has ended. Those of one
// that is only cut off stay: when it is back it sends again what it does not know
// to be done.
func (f *family) dropEnded(lives *sheepdog.Lives) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for gateway := range f.origins {
		if lives.Ended(gateway) {
			delete(f.origins, gateway)
		}
	}
}

// listOrigins is in no order. Origins of places where this node ceased to act
// since go.
func (f *family) listOrigins(s *Server) []sheepdog.Origin {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []sheepdog.Origin
	for gateway, set := range f.origins {
		set.applied = slices.DeleteFunc(set.applied, func(a appliedRequest) bool { return !s.stands(a.site) })
		for _, a := range set.applied {
			out = append(out, sheepdog.Origin{Gateway: gateway, Request: a.request})
		}
	}
	return out
}

// stands reports whether what was applied there is still trusted. Of a carried
// origin the place is not known: it goes when this node ceases to act anywhere.
func (s *Server) stands(where site) bool {
	if where.carried {
		return uint64(where.since) >= s.ceased.Load()
	}
	return s.valid(where.at, where.since)
}
