package directory

import (
	"hash/fnv"
	"math/bits"

	"sheepdog"
)

// vidSpace is the number of VDI ids; id 0 is never given.
const vidSpace = 1 << 24

// NameVID is where the search for a free id starts for a name: FNV-1a of 64
// bits, of which the low 24 count, as scripts expect it of sheepdog.
func NameVID(name string) sheepdog.VID {
	h := fnv.New64a()
	h.Write([]byte(name))
	return sheepdog.VID(h.Sum64() % vidSpace)
}

const (
	pageVIDs  = 1 << 16
	pageWords = pageVIDs / 64
)

// vidSet is a set of ids: a bitmap of at most 2 MiB whose pages appear when
// they are needed.
type vidSet struct {
	pages [vidSpace / pageVIDs]*vidPage
	count int
}

type vidPage struct {
	words [pageWords]uint64
	count int
}

func (s *vidSet) has(v sheepdog.VID) bool {
	p := s.pages[v/pageVIDs]
	return p != nil && p.words[v%pageVIDs/64]&(1<<(v%64)) != 0
}

func (s *vidSet) add(v sheepdog.VID) {
	if s.has(v) {
		return
	}
	p := s.pages[v/pageVIDs]
	if p == nil {
		p = new(vidPage)
		s.pages[v/pageVIDs] = p
	}
	p.words[v%pageVIDs/64] |= 1 << (v % 64)
	p.count++
	s.count++
}

func (s *vidSet) remove(v sheepdog.VID) {
	if !s.has(v) {
		return
	}
	p := s.pages[v/pageVIDs]
	p.words[v%pageVIDs/64] &^= 1 << (v % 64)
	p.count--
	s.count--
}

// next is the first id that is not in the set, from start upwards and around;
// false if there is none. Zero is skipped.
func (s *vidSet) next(start sheepdog.VID) (sheepdog.VID, bool) {
	start %= vidSpace
	if v, ok := s.scan(start, vidSpace); ok {
		return v, true
	}
	return s.scan(1, start)
}

// scan looks for a gap in [from, to), skipping full pages and full words.
func (s *vidSet) scan(from, to sheepdog.VID) (sheepdog.VID, bool) {
	for v := max(from, 1); v < to; {
		p := s.pages[v/pageVIDs]
		if p == nil {
			return v, true
		}
		if p.count == pageVIDs {
			v = (v/pageVIDs + 1) * pageVIDs
			continue
		}
		free := ^p.words[v%pageVIDs/64] >> (v % 64)
		if free == 0 {
			v = (v/64 + 1) * 64
			continue
		}
		v += sheepdog.VID(bits.TrailingZeros64(free))
		return v, v < to
	}
	return 0, false
}

func (s *vidSet) clone() *vidSet {
	out := &vidSet{count: s.count}
	for i, p := range s.pages {
		if p != nil && p.count > 0 {
			page := *p
			out.pages[i] = &page
		}
	}
	return out
}

// spans lists the set as merged ranges.
func (s *vidSet) spans() spans {
	var out spans
	for i, p := range s.pages {
		if p == nil {
			continue
		}
		for v := sheepdog.VID(i * pageVIDs); v < sheepdog.VID((i+1)*pageVIDs); {
			w := p.words[v%pageVIDs/64] >> (v % 64)
			if w == 0 {
				v = (v/64 + 1) * 64
				continue
			}
			v += sheepdog.VID(bits.TrailingZeros64(w))
			out = out.push(v)
			v++
		}
	}
	return out
}
