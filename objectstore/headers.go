package objectstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"iter"
	"slices"
	"sync"
	"sync/atomic"

	"sheepdog"
)

// headers is a metadata store that has the headers of objects, and the small maps with
// them, itself: all of them in memory, and in a log of its own (headerLog) that makes them
// durable. All else is in the store below it. Of a large sparse disk a destage commits a
// header for nearly each block that it moves, and in a sorted tree each of them is written
// several times over. See ADR 15.
//
// A commit that has headers appends them to the log first. Then the store below takes
// its part of the commit together with where the log ends now (headerMark), and that
// decides: what the log has beyond it never was.
type headers struct {
	metadata  // what has all else
	shards    [headerShards]headerShard
	inventory *inventory
	live      atomic.Int64 // bytes that a log with each header once would have
	logged    atomic.Int64 // bytes of the log

	// mu orders commits, and guards what follows.
	mu     sync.Mutex
	log    headerLog
	broken error // why the log cannot be trusted any more
}

// headerShards is the number of parts of the table. Each has a range of partitions, so that
// in the order of partitions one comes after the other.
const headerShards = 256

// headerShard has of each pile the headers of its objects, ascending by layer; numbers
// are uvarints:
//
//	{ layer length header }...
type headerShard struct {
	mu      sync.RWMutex
	piles   packs
	sorted  []sheepdog.ObjectID // in the order of keys, never changed; nil: not known
	changed uint64              // how often a pile came or went
}

// shard is that of a partition.
func (h *headers) shard(p sheepdog.Partition) *headerShard {
	return &h.shards[int(p)*headerShards/sheepdog.Partitions]
}

// pile is the headers of a pile; nil if there are none. They never change.
func (h *headers) pile(id sheepdog.ObjectID) []byte {
	s := h.shard(id.Partition())
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.piles.get(id)
}

// farHeaders is how many bytes of headers do not stay in the processor's cache.
const farHeaders = 1 << 20

// near has the headers of the objects of ops fetched. They are looked for one after the
// other then, and of a large disk each is somewhere else in memory.
func (h *headers) near(ops []sheepdog.Op) {
	if len(ops) == 1 || h.live.Load() < farHeaders {
		return
	}
	for _, fetch := range []func(*packs, sheepdog.ObjectID){(*packs).nearSlot, (*packs).nearBytes} {
		for i := range ops {
			s := h.shard(ops[i].Object.Partition())
			s.mu.RLock()
			fetch(&s.piles, ops[i].Object)
			s.mu.RUnlock()
		}
	}
}

// eachHeader is headers as a shard has them, ascending by layer.
func eachHeader(b []byte) iter.Seq2[sheepdog.LayerID, []byte] {
	return func(yield func(layer sheepdog.LayerID, header []byte) bool) {
		d := varints{b: b}
		for len(d.b) > 0 {
			layer := sheepdog.LayerID(d.next())
			header := d.take(d.next())
			if d.bad {
				panic("objectstore: headers in memory are malformed")
			}
			if !yield(layer, header) {
				return
			}
		}
	}
}

// Get implements metadata.
func (h *headers) Get(key []byte) ([]byte, error) {
	if !isHeader(key) {
		return h.metadata.Get(key)
	}
	k, err := decodeObjectKey(key)
	if err != nil {
		return nil, err
	}
	for layer, header := range eachHeader(h.pile(k.Object)) {
		if layer == k.Layer {
			return bytes.Clone(header), nil
		}
	}
	return nil, nil
}

func isHeader(key []byte) bool { return len(key) > 0 && key[0] == keyObject }

// Scan implements metadata. Of a pile it visits headers of one moment. No lock is held while
// visit runs.
func (h *headers) Scan(s scan, visit func(key, value []byte) (bool, error)) error {
	if !isHeader(s.prefix) {
		return h.metadata.Scan(s, visit)
	}
	from := s.from
	if bytes.Compare(from, s.prefix) < 0 {
		from = s.prefix
	}
	var key []byte
	for i := firstShard(from); i < headerShards; i++ {
		for k, header := range h.shards[i].since(from) {
			key = k.append(key[:0], keyObject)
			if bytes.Compare(key, from) < 0 {
				continue
			}
			if !bytes.HasPrefix(key, s.prefix) {
				return nil
			}
			if s.keysOnly {
				header = nil
			}
			if more, err := visit(key, header); err != nil || !more {
				return err
			}
		}
	}
	return nil
}

// firstShard is the shard that the first key from another one on is in.
func firstShard(from []byte) int {
	p := make([]byte, 2)
	copy(p, from[1:])
	return int(binary.BigEndian.Uint16(p)) * headerShards / sheepdog.Partitions
}

// since is what a shard has from the pile of a key on, in the order of keys.
func (s *headerShard) since(from []byte) iter.Seq2[objectKey, []byte] {
	return func(yield func(k objectKey, header []byte) bool) {
		for _, id := range s.order(from) {
			s.mu.RLock()
			b := s.piles.get(id)
			s.mu.RUnlock()
			for layer, header := range eachHeader(b) {
				if !yield(objectKey{id, layer}, header) {
					return
				}
			}
		}
	}
}

// order is the piles of a shard whose keys may be from a key on, in the order of keys.
func (s *headerShard) order(from []byte) []sheepdog.ObjectID {
	s.mu.RLock()
	ids, known, made := s.sorted, s.sorted != nil, s.changed
	if !known {
		ids = make([]sheepdog.ObjectID, 0, s.piles.n)
		for id := range s.piles.each {
			ids = append(ids, id)
		}
	}
	s.mu.RUnlock()
	if !known { // beside commits and reads
		slices.SortFunc(ids, func(a, b sheepdog.ObjectID) int {
			return objectKey{Object: a}.compare(objectKey{Object: b})
		})
		s.keep(ids, made)
	}
	first, _ := slices.BinarySearchFunc(ids, from, func(id sheepdog.ObjectID, from []byte) int {
		key := pileKey(keyObject, id)
		return bytes.Compare(key, from[:min(len(key), len(from))])
	})
	return ids[first:]
}

// keep remembers an order, unless piles have come or gone since it was made.
func (s *headerShard) keep(ids []sheepdog.ObjectID, made uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == made {
		s.sorted = ids
	}
}

// set replaces a header, or removes it if it is nil.
func (h *headers) set(k objectKey, header []byte, scratch *[]byte) {
	s := h.shard(k.Object.Partition())
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.piles.get(k.Object)
	b, was := withHeader((*scratch)[:0], old, k.Layer, header)
	*scratch = b
	s.replace(k.Object, old != nil, b)
	h.count(was, header)
	switch {
	case was < 0 && header != nil:
		h.inventory.add(k)
	case was >= 0 && header == nil:
		h.inventory.drop(k)
	}
}

// withHeader appends the headers of a pile to b, with another one for a layer, or none if it
// is nil. It returns how long that of the layer was; -1: there was none.
func withHeader(b, pile []byte, layer sheepdog.LayerID, header []byte) (out []byte, was int) {
	d, from, was := varints{b: pile}, len(pile), -1
	rest := pile[from:] // what comes after it
	for len(d.b) > 0 {
		at := len(pile) - len(d.b)
		l, h := sheepdog.LayerID(d.next()), d.take(d.next())
		if l < layer {
			continue
		}
		if from, rest = at, pile[at:]; l == layer {
			was, rest = len(h), d.b
		}
		break
	}
	b = append(b, pile[:from]...)
	if header != nil {
		b = binary.AppendUvarint(b, uint64(layer))
		b = binary.AppendUvarint(b, uint64(len(header)))
		b = append(b, header...)
	}
	return append(b, rest...), was
}

// count keeps the sum of what headers take in the log; was is -1 if there was none.
func (h *headers) count(was int, header []byte) {
	n := int64(0)
	if was >= 0 {
		n -= int64(headerEntryLen + was)
	}
	if header != nil {
		n += int64(headerEntryLen + len(header))
	}
	h.live.Add(n)
}

// replace puts the headers of a pile in the place of those before; s is locked.
func (s *headerShard) replace(id sheepdog.ObjectID, known bool, b []byte) {
	if known {
		s.piles.dropAt(s.piles.find(id))
	}
	if known != (len(b) > 0) {
		s.sorted = nil
		s.changed++
	}
	if len(b) > 0 && !s.piles.put(id, b) {
		panic("objectstore: headers of 4 GiB in a part of the table")
	}
}

// Fits implements metadata. A commit has a mark as well.
func (h *headers) Fits(changes, bytes int) bool {
	return h.metadata.Fits(changes+1, bytes+headerMarkSize)
}

// Room implements metadata.
func (h *headers) Room(changes, bytes int) error {
	if err := h.metadata.Room(changes+1, bytes+headerMarkSize); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.log.room(int64(bytes) + int64(changes/8+2)*blockSize) // each commit begins with a block
}

// Size implements metadata.
func (h *headers) Size() uint64 { return h.metadata.Size() + uint64(h.logged.Load()) }

// Close implements metadata.
func (h *headers) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return errors.Join(h.log.close(), h.metadata.Close())
}

// Commit implements metadata.
func (h *headers) Commit(changes []change) error {
	if !slices.ContainsFunc(changes, func(c change) bool { return isHeader(c.key) }) {
		return h.metadata.Commit(changes)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.broken != nil {
		return h.broken
	}
	mine, rest, err := splitChanges(changes)
	if err == nil {
		err = h.commit(mine, rest)
	}
	h.broken = err
	return err
}

// splitChanges parts changes of headers from others.
func splitChanges(changes []change) (mine []headerChange, rest []change, err error) {
	mine = make([]headerChange, 0, len(changes))
	for _, c := range changes {
		if !isHeader(c.key) {
			rest = append(rest, c)
			continue
		}
		k, err := decodeObjectKey(c.key)
		if err != nil {
			return nil, nil, err
		}
		mine = append(mine, headerChange{k, c.value})
	}
	return mine, rest, nil
}

// commit appends headers to the log, has the store below decide, and makes them visible.
func (h *headers) commit(mine []headerChange, rest []change) error {
	mark, err := h.log.append(h, mine)
	if err != nil {
		return err
	}
	if err := h.metadata.Commit(append(rest, mark.change())); err != nil {
		return err
	}
	var scratch []byte
	for _, c := range mine {
		h.set(c.key, c.value, &scratch)
	}
	h.log.decided(mark)
	h.logged.Store(h.log.size())
	return nil
}
