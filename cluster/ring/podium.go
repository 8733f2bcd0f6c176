package ring

import "sheepdog"

// entry is one candidate's result for one partition.
type entry struct {
	node   int // position among the candidates
	id     sheepdog.NodeID
	zone   sheepdog.Zone
	weight uint64 // 1 to 65535
	cost   uint64 // -log2 of the hash, fixed point; at most 2^46
}

// beats reports whether e scores higher than f, where the score is
// weight/cost. It multiplies instead of dividing, so it is exact; the products
// stay below 2^62. Ties go to the lower node id.
func (e *entry) beats(f *entry) bool {
	a, b := e.weight*f.cost, f.weight*e.cost
	return a > b || a == b && e.id < f.id
}

// podium keeps the best candidates seen so far, best first, one of each zone.
type podium struct {
	size    int
	entries []entry
	// The weight and cost that an offer has to reach; weight 0 until it is full.
	barWeight, barCost uint64
}

func newPodium(size int) *podium {
	return &podium{size: size, entries: make([]entry, 0, size+1)}
}

func (p *podium) clear() {
	p.entries = p.entries[:0]
	p.barWeight, p.barCost = 0, 1
}

// open reports whether an offer of that weight and cost may be taken in. It
// turns most of them away before they cost anything.
func (p *podium) open(weight, cost uint64) bool {
	return weight*p.barCost >= p.barWeight*cost
}

// offer takes e in if it is among the best. What leaves for it can never come
// back: it scores less than size entries of other zones, or than one of its own.
func (p *podium) offer(e entry) {
	if n := len(p.entries); n == p.size && !e.beats(&p.entries[n-1]) {
		return
	}
	if !p.vacateZone(&e) {
		return
	}
	p.insert(e)
	if len(p.entries) > p.size {
		p.entries = p.entries[:p.size]
	}
	if n := len(p.entries); n == p.size {
		p.barWeight, p.barCost = p.entries[n-1].weight, p.entries[n-1].cost
	}
}

// vacateZone removes the entry of e's zone if e beats it; false if it does not.
func (p *podium) vacateZone(e *entry) bool {
	for i := range p.entries {
		if p.entries[i].zone != e.zone {
			continue
		}
		if !e.beats(&p.entries[i]) {
			return false
		}
		p.entries = append(p.entries[:i], p.entries[i+1:]...)
		return true
	}
	return true
}

func (p *podium) insert(e entry) {
	p.entries = append(p.entries, e)
	i := len(p.entries) - 1
	for ; i > 0 && e.beats(&p.entries[i-1]); i-- {
		p.entries[i] = p.entries[i-1]
	}
	p.entries[i] = e
}
