package replica

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"sheepdog"
)

// maxListLimit is the largest page that may be asked for.
const maxListLimit = 65536

// List implements sheepdog.Replica. Objects are reported by logical layer: what
// a deleted layer holds counts for the layer that absorbs it, with a digest of
// the resolved records, so that replicas which merged at different times agree.
// Layers that the directory does not list are left out. By layer, entries have
// no digest; see listLayer for the partitions.
func (s *Server) List(ctx context.Context, r *sheepdog.ListRequest) (*sheepdog.ListReply, error) {
	if r.Limit < 1 || r.Limit > maxListLimit {
		return nil, fmt.Errorf("%w: page of %d entries, want 1 to %d", sheepdog.ErrInvalid, r.Limit, maxListLimit)
	}
	for i := 1; i < len(r.Partitions); i++ {
		if r.Partitions[i] <= r.Partitions[i-1] {
			return nil, fmt.Errorf("%w: partitions %d and %d are not ascending", sheepdog.ErrInvalid, r.Partitions[i-1], r.Partitions[i])
		}
	}
	var reply *sheepdog.ListReply
	err := s.await(ctx, func(v *sheepdog.View) (err error) {
		if len(r.Partitions) == 0 {
			reply, err = s.listLayer(v, r)
		} else {
			reply, err = s.listPartitions(ctx, v, r)
		}
		return err
	})
	return reply, err
}

// listPartitions looks at the view before and after: if no interval moved in
// between, no replica of these partitions was dropped in between.
func (s *Server) listPartitions(ctx context.Context, v *sheepdog.View, r *sheepdog.ListRequest) (*sheepdog.ListReply, error) {
	if err := s.fencePartitions(v, r); err != nil {
		return nil, err
	}
	for _, p := range r.Partitions {
		s.adopt(shardOf(p), v)
	}
	reply, err := s.page(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("node %s: list: %w", s.cfg.Self, err)
	}
	return reply, s.fencePartitions(s.view(), r)
}

func (s *Server) fencePartitions(v *sheepdog.View, r *sheepdog.ListRequest) error {
	for _, p := range r.Partitions {
		if _, err := s.fenceWriter(v, r.Revision, r.Policy, p); err != nil {
			return err
		}
	}
	return nil
}

// page collects physical entries, then resolves them: the engine is not asked
// anything else while it lists.
func (s *Server) page(ctx context.Context, r *sheepdog.ListRequest) (*sheepdog.ListReply, error) {
	want := partitionSet(r.Partitions)
	reply := new(sheepdog.ListReply)
	after := sheepdog.ListEntry{Object: r.After.Object}
	for {
		raw, more, err := s.rawEntries(ctx, after, want.has, r.Limit)
		if err != nil {
			return nil, err
		}
		for len(raw) > 0 {
			n := 1
			for n < len(raw) && raw[n].Object == raw[0].Object {
				n++
			}
			if err := s.resolve(reply, r, raw[:n]); err != nil {
				return nil, err
			}
			after, raw = raw[n-1], raw[n:]
			if len(reply.Entries) > r.Limit {
				break
			}
		}
		if len(reply.Entries) > r.Limit {
			reply.Entries, reply.More = reply.Entries[:r.Limit], true
			return reply, nil
		}
		if !more {
			return reply, nil
		}
	}
}

// rawEntries lists what the engine has, whole objects only; more says that
// there is something after them.
func (s *Server) rawEntries(ctx context.Context, after sheepdog.ListEntry, want func(sheepdog.Partition) bool, limit int) (raw []sheepdog.ListEntry, more bool, err error) {
	err = s.cfg.Engine.List(after, want, func(e sheepdog.ListEntry) bool {
		if len(raw) > limit && raw[len(raw)-1].Object != e.Object || ctx.Err() != nil {
			more = true
			return false
		}
		raw = append(raw, e)
		return true
	})
	if ctx.Err() != nil {
		return nil, false, context.Cause(ctx)
	}
	return raw, more, err
}

// resolve appends the logical entries of one object that come after r.After.
func (s *Server) resolve(reply *sheepdog.ListReply, r *sheepdog.ListRequest, raw []sheepdog.ListEntry) error {
	obj := raw[0].Object
	if policy, ok := s.cfg.Layers.Policy(obj.Family); !ok || policy != r.Policy {
		return nil
	}
	digests := make(map[sheepdog.LayerID]uint64, len(raw))
	for _, e := range raw {
		owner, listed := s.cfg.Layers.Owner(e.Layer)
		if !listed || obj == r.After.Object && owner <= r.After.Layer {
			continue
		}
		if _, done := digests[owner]; done {
			continue
		}
		digests[owner] = e.Digest
		if chain := s.cfg.Layers.Logical(owner); len(chain) > 1 {
			digest, err := s.digest(obj, chain)
			switch {
			case err == nil:
				digests[owner] = digest
			case !errors.Is(err, sheepdog.ErrIO): // else another digest than any other node's will do
				return err
			}
		}
	}
	first := len(reply.Entries)
	for owner, digest := range digests {
		reply.Entries = append(reply.Entries, sheepdog.ListEntry{Object: obj, Layer: owner, Digest: digest})
	}
	slices.SortFunc(reply.Entries[first:], func(a, b sheepdog.ListEntry) int {
		return replicaKey{a.Object, a.Layer}.compare(replicaKey{b.Object, b.Layer})
	})
	return nil
}

// digestChunk is how many records are held at once while digesting.
const digestChunk = 4096

// digest covers the records of one object as resolved through a chain. It is
// compared between nodes: a change needs a new protocol version.
func (s *Server) digest(obj sheepdog.ObjectID, chain []sheepdog.LayerID) (uint64, error) {
	perObject := s.blocksPerObject(obj.Family)
	var h uint64
	recs := make([]sheepdog.Record, min(perObject, digestChunk))
	for start := uint64(0); start < perObject; start += uint64(len(recs)) {
		n := min(uint64(len(recs)), perObject-start)
		if err := s.cfg.Engine.Records(obj, chain, sheepdog.BlockNo(start), uint32(n), recs[:n]); err != nil {
			return 0, err
		}
		for i, rec := range recs[:n] {
			if rec.State != sheepdog.Absent {
				h = mixRecord(h, start+uint64(i), rec)
			}
		}
	}
	return h, nil
}

func mixRecord(h, block uint64, rec sheepdog.Record) uint64 {
	for _, w := range [...]uint64{block<<8 | uint64(rec.State), uint64(rec.CRC), uint64(rec.Stamp.Token), rec.Stamp.Seq} {
		h = (h ^ w) * 0x9fb21c651e98df25
		h ^= h >> 29
	}
	return h
}

// listLayer answers with the indexes that a layer holds, for the object map: in all
// partitions in which this node acted in the request's revision, for the caller asks
// every node that did. Where it may have ceased to act since, it lists what it still
// holds, which may be too much; if it has dropped anything since, it refuses. Views
// come one after the other while nodes are filled, and most are of no matter here.
//
// A layer that was absorbed is listed with the one above, and by itself as empty.
// Caller and replica may not have heard of the same deletions; so the caller asks
// for all layers of a chain and for what they absorbed, from the oldest upwards:
// what a replica has not yet moved up it lists at its old place, and what it has,
// or moves meanwhile, at a later one.
func (s *Server) listLayer(v *sheepdog.View, r *sheepdog.ListRequest) (*sheepdog.ListReply, error) {
	if err := s.fenceNode(v, r.Revision); err != nil {
		return nil, err
	}
	table, ok := v.Tables[r.Policy]
	if !ok {
		return nil, fmt.Errorf("node %s: %w: no table for policy %s in revision %d", s.cfg.Self, sheepdog.ErrNotActing, r.Policy, v.Revision)
	}
	if s.absorbed(r.Layer) {
		return new(sheepdog.ListReply), nil
	}
	if err := s.knownLayer(r.Layer, sheepdog.ErrNotFound); err != nil {
		return nil, err
	}
	for i := range s.shards {
		s.adopt(i, v)
	}
	reply, err := s.layerPage(table, r)
	if err != nil {
		return nil, err
	}
	if dropped := s.dropped.Load(); dropped > uint64(r.Revision) {
		return nil, fmt.Errorf("node %s: %w: objects were dropped in revision %d, request is of %d", s.cfg.Self, sheepdog.ErrStale, dropped, r.Revision)
	}
	return reply, nil
}

func (s *Server) absorbed(layer sheepdog.LayerID) bool {
	owner, listed := s.cfg.Layers.Owner(layer)
	return listed && owner != layer && slices.Contains(s.cfg.Layers.Logical(owner), layer)
}

func (s *Server) layerPage(table sheepdog.Table, r *sheepdog.ListRequest) (*sheepdog.ListReply, error) {
	family, ok := s.cfg.Layers.Family(r.Layer)
	if !ok {
		return nil, &waiting{fmt.Sprintf("family of layer %d is not known here", r.Layer)}
	}
	reply := new(sheepdog.ListReply)
	from, more := sheepdog.Index(0), true
	if r.After != (sheepdog.ListEntry{}) {
		from, more = following(r.After.Object.Index)
	}
	for more {
		var indexes []sheepdog.Index
		var err error
		if indexes, from, more, err = s.heldFrom(r.Layer, from, r.Limit); err != nil {
			return nil, err
		}
		for i, index := range indexes {
			obj := sheepdog.ObjectID{Family: family, Index: index}
			if pl := table[obj.Partition()]; !pl.IsActing(s.cfg.Self) && pl.Since <= r.Revision {
				continue
			}
			reply.Entries = append(reply.Entries, sheepdog.ListEntry{Object: obj, Layer: r.Layer})
			if len(reply.Entries) == r.Limit {
				reply.More = more || i+1 < len(indexes) // the next page may be empty
				return reply, nil
			}
		}
	}
	return reply, nil
}

// heldFrom returns the next indexes that a layer and what it absorbed hold, ascending,
// and where to go on if there is more. It asks the engine for a page at a time: a
// large layer has many.
func (s *Server) heldFrom(layer sheepdog.LayerID, from sheepdog.Index, page int) (indexes []sheepdog.Index, next sheepdog.Index, more bool, err error) {
	last := sheepdog.Index(math.MaxUint32) // up to which all are listed
	// The oldest first: what is merged meanwhile moves to one that comes later.
	for _, l := range slices.Backward(s.cfg.Layers.Logical(layer)) {
		held, err := s.cfg.Engine.LayerObjects(l, from, page)
		if err != nil {
			return nil, 0, false, fmt.Errorf("node %s: list layer %d: %w", s.cfg.Self, l, err)
		}
		if len(held) == page {
			last = min(last, held[len(held)-1])
		}
		indexes = append(indexes, held...)
	}
	slices.Sort(indexes)
	n, found := slices.BinarySearch(indexes, last)
	if found {
		n++
	}
	next, more = following(last)
	return slices.Compact(indexes[:n]), next, more, nil
}

// following is the index after one, if there is any.
func following(i sheepdog.Index) (next sheepdog.Index, ok bool) { return i + 1, i != math.MaxUint32 }

// partitions is a bitmap over all partitions.
type partitions [sheepdog.Partitions / 64]uint64

func partitionSet(list []sheepdog.Partition) *partitions {
	set := new(partitions)
	for _, p := range list {
		set[p/64] |= 1 << (p % 64)
	}
	return set
}

func (m *partitions) has(p sheepdog.Partition) bool { return m[p/64]&(1<<(p%64)) != 0 }
