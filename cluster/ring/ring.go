// Package ring decides which nodes should hold a partition: weighted
// rendezvous hashing over the members of a view, at most one node of a zone.
//
// It is a pure function of the members' ids, zones and weights (V-Nodes). It
// knows nothing of who holds a partition today, of epochs or of liveness; that
// is package state.
//
// Every node computes the placement for itself, so it must come out the same
// everywhere: all arithmetic is on integers, and golden vectors in testdata pin
// it. The placement is an on-disk contract; it never changes for a formatted
// cluster.
//
// Rendezvous (highest random weight) hashing is from Thaler and Ravishankar,
// "Using name-based mappings to increase hit rates", IEEE/ACM Transactions on
// Networking 6(1), 1998. The weighted form, -w/ln(h), is the logarithmic method
// of Schindelhauer and Schomaker, "Weighted distributed hash tables", SPAA 2005.
// A node that comes, goes or changes weight moves only the partitions that it
// gains or loses.
package ring

import (
	"encoding/binary"

	"sheepdog"
)

// Place lists for every partition the nodes that the ring wants, best first:
// up to width of them, each in a zone of its own. There are fewer where fewer
// zones have storage, and none when no member stores. The list for a smaller
// width is a prefix of the list for a larger one. Equal lists share memory and
// must not be changed.
//
// Member ids must be distinct; their order, addresses and incarnations do not
// matter.
func Place(members []sheepdog.Member, width int) [][]sheepdog.NodeID {
	r := newPlacer(members, width)
	rows := make([][]sheepdog.NodeID, sheepdog.Partitions)
	for p := range rows {
		rows[p] = r.row(sheepdog.Partition(p))
	}
	return rows
}

// placer computes one partition at a time.
type placer struct {
	candidates []candidate
	positions  map[sheepdog.NodeID]int // among the candidates
	logs       *logTable
	best       *podium
	pool       *interner
}

func newPlacer(members []sheepdog.Member, width int) *placer {
	candidates := storing(members)
	r := &placer{candidates: candidates, positions: make(map[sheepdog.NodeID]int), logs: newLogTable(),
		best: newPodium(max(0, min(width, len(candidates)))), pool: newInterner(candidates)}
	for i, c := range candidates {
		r.positions[c.id] = i
	}
	return r
}

// row is the list of one partition; nil if nothing stores.
func (r *placer) row(p sheepdog.Partition) []sheepdog.NodeID {
	if r.best.size == 0 {
		return nil
	}
	r.best.clear()
	seed := partitionSeed(p)
	for i := range r.candidates {
		c := &r.candidates[i]
		if cost := r.logs.cost(mix64(seed ^ c.seed)); r.best.open(c.weight, cost) {
			r.best.offer(entry{node: i, id: c.id, zone: c.zone, weight: c.weight, cost: cost})
		}
	}
	return r.pool.row(r.best.entries)
}

// entry is the result of the candidate at a position.
func (r *placer) entry(seed uint64, i int) entry {
	c := &r.candidates[i]
	return entry{node: i, id: c.id, zone: c.zone, weight: c.weight, cost: r.logs.cost(mix64(seed ^ c.seed))}
}

// candidate is a member with storage.
type candidate struct {
	id     sheepdog.NodeID
	zone   sheepdog.Zone
	weight uint64
	seed   uint64
}

func storing(members []sheepdog.Member) []candidate {
	out := make([]candidate, 0, len(members))
	for _, m := range members {
		if m.VNodes > 0 {
			out = append(out, candidate{id: m.ID, zone: m.Zone, weight: uint64(m.VNodes), seed: nodeSeed(m.ID)})
		}
	}
	return out
}

// interner makes equal lists share one slice: a cluster of three nodes has six
// different lists for its 65536 partitions.
type interner struct {
	candidates []candidate
	rows       map[string][]sheepdog.NodeID
	key        []byte
}

func newInterner(candidates []candidate) *interner {
	return &interner{candidates: candidates, rows: make(map[string][]sheepdog.NodeID)}
}

func (in *interner) row(entries []entry) []sheepdog.NodeID {
	in.key = in.key[:0]
	for _, e := range entries {
		in.key = binary.LittleEndian.AppendUint32(in.key, uint32(e.node))
	}
	if row, ok := in.rows[string(in.key)]; ok {
		return row
	}
	row := make([]sheepdog.NodeID, len(entries))
	for i, e := range entries {
		row[i] = in.candidates[e.node].id
	}
	in.rows[string(in.key)] = row
	return row
}
