package replica

import (
	"slices"
	"sync"
	"sync/atomic"

	"sheepdog"
)

// ruleSlots is of how many layers the rules are kept.
const ruleSlots = 256

// rulings is the rules of writes in one view.
type rulings struct {
	view  *sheepdog.View // lists this incarnation
	rules [ruleSlots]atomic.Pointer[rules]

	// rows are placements of view, each once, up to known; they are only added to. Of
	// 2^16 partitions most share a few.
	rows  [maxRows]*sheepdog.Placement
	known atomic.Uint32
	mu    sync.Mutex // for adding
}

// maxRows is of how many placements of a view objects are remembered.
const maxRows = 16

// row is the number of a placement in rows; false if it is not there and there is no room.
func (all *rulings) row(pl *sheepdog.Placement) (uint32, bool) {
	n := all.known.Load()
	if i := slices.Index(all.rows[:n], pl); i >= 0 {
		return uint32(i), true
	}
	if n == maxRows {
		return 0, false
	}
	all.mu.Lock()
	defer all.mu.Unlock()
	n = all.known.Load()
	if i := slices.Index(all.rows[:n], pl); i >= 0 || n == maxRows {
		return uint32(i), i >= 0
	}
	all.rows[n] = pl
	all.known.Store(n + 1)
	return n, true
}

// rules is what writes of a layer are checked against in a view, besides what they say
// and who holds their partition. It is kept from one write to the next, for it only
// changes with the directory.
type rules struct {
	version uint64 // of the directory, in which the layer takes writes
	layer   sheepdog.LayerID
	family  sheepdog.FamilyID
	policy  sheepdog.Policy
	table   sheepdog.Table
	blocks  uint64         // of an object
	token   sheepdog.Token // committed
	of      *family
	// objects has the placements of some objects, each where its index leads: the index,
	// and above it the row and 1. That is less memory than the table, which has a page
	// for each object.
	objects [nearObjects]atomic.Uint64
}

// placement is that of an object, whose partition is p.
func (k *rules) placement(all *rulings, index sheepdog.Index, p sheepdog.Partition) *sheepdog.Placement {
	at := &k.objects[index%nearObjects]
	if w := at.Load(); w>>32 > 0 && sheepdog.Index(w) == index {
		return all.rows[w>>32-1]
	}
	pl := k.table[p]
	if row, ok := all.row(pl); ok {
		at.Store(uint64(index) | uint64(row+1)<<32)
	}
	return pl
}

// learn keeps the rules of a write that was admitted under v by a replica that acts.
// Version is the directory's from before the write was looked at.
func (s *Server) learn(v *sheepdog.View, version uint64, r *sheepdog.WriteRequest, f *family) {
	k := &rules{version: version, layer: r.Layer, family: r.Object.Family, policy: r.Policy, table: v.Tables[r.Policy],
		blocks: s.blocksPerObject(r.Object.Family), token: s.cfg.Layers.Token(r.Object.Family), of: f}
	if now, steady := s.cfg.Layers.Version(); !steady || now != version {
		return
	}
	all := s.rulings.Load()
	if all == nil || all.view.Revision < v.Revision {
		next := &rulings{view: v}
		if !s.rulings.CompareAndSwap(all, next) {
			return
		}
		all = next
	}
	if all.view == v {
		all.rules[r.Layer%ruleSlots].Store(k)
	}
}

// admitQuickly is admitWrite for a write like the one before: of the same layer, in the
// same view and state of the directory, with the token that is promised, at a clean
// replica that acts. Of all others it says false, and admitWrite decides.
func (s *Server) admitQuickly(v *sheepdog.View, r *sheepdog.WriteRequest, p sheepdog.Partition) (admitted, bool) {
	all := s.rulings.Load()
	if all == nil || all.view != v {
		return admitted{}, false
	}
	k := all.rules[r.Layer%ruleSlots].Load()
	if k == nil || k.layer != r.Layer || k.family != r.Object.Family || k.policy != r.Policy || !k.hold(s) {
		return admitted{}, false
	}
	pl := k.placement(all, r.Object.Index, p)
	if r.Revision > v.Revision || pl.Since > r.Revision || pl.State != sheepdog.Clean || !pl.IsActing(s.cfg.Self) {
		return admitted{}, false
	}
	if r.Repair || r.Stamp == (sheepdog.Stamp{}) || r.Count == 0 || uint64(r.Start)+uint64(r.Count) > k.blocks ||
		r.Data != nil && uint64(len(r.Data)) != uint64(r.Count)*sheepdog.BlockSize || r.Sums != nil && uint64(len(r.Sums)) != uint64(r.Count) {
		return admitted{}, false
	}
	if r.Token == 0 || r.Token < k.token || uint64(r.Token) != k.of.promised.Load() || k.of.forgotten.Load() {
		return admitted{}, false
	}
	return admitted{place: pl, partition: p, acts: true, family: k.of}, true
}

// hold reports whether the directory is as it was.
func (k *rules) hold(s *Server) bool {
	version, steady := s.cfg.Layers.Version()
	return steady && version == k.version
}
