package objectstore

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"sheepdog"
)

// volumes is the disks of a store by id. Readers get a set that never changes;
// plug and unplug replace it.
type volumes struct {
	set    atomic.Pointer[volumeSet]
	noSync bool
	behind chan stretch // takes large data that were written, see push; may be nil
	syncMu sync.Mutex   // one sync at a time, see volume.sync
	setMu  sync.Mutex   // one change of the set at a time
}

// volumeSet is immutable once it is published.
type volumeSet struct {
	byID  map[diskID]*volume
	order []*volume // ascending by id
}

// all lists the volumes, ascending by id.
func (s *volumes) all() []*volume { return s.set.Load().volumes() }

func (s *volumeSet) volumes() []*volume {
	if s == nil {
		return nil
	}
	return s.order
}

// find is a volume of the store, nil if it is missing.
func (s *volumes) find(id diskID) *volume {
	if set := s.set.Load(); set != nil {
		return set.byID[id]
	}
	return nil
}

func (s *volumes) volume(id diskID) (*volume, error) {
	v := s.find(id)
	if v == nil {
		return nil, fmt.Errorf("disk %d is missing: %w", id, sheepdog.ErrIO)
	}
	return v, nil
}

// change publishes another set.
func (s *volumes) change(to func(order []*volume) []*volume) {
	s.setMu.Lock()
	defer s.setMu.Unlock()
	set := &volumeSet{byID: make(map[diskID]*volume), order: to(slices.Clone(s.all()))}
	slices.SortFunc(set.order, func(a, b *volume) int { return cmp.Compare(a.id, b.id) })
	for _, v := range set.order {
		set.byID[v.id] = v
	}
	s.set.Store(set)
}

// add takes a volume in; remove lets go of one.
func (s *volumes) add(v *volume) {
	s.change(func(order []*volume) []*volume { return append(order, v) })
}

func (s *volumes) remove(v *volume) {
	s.change(func(order []*volume) []*volume {
		return slices.DeleteFunc(order, func(o *volume) bool { return o == v })
	})
}

// healthy reports whether any volume takes new data.
func (s *volumes) healthy() bool {
	return slices.ContainsFunc(s.all(), (*volume).takes)
}

// ranked lists the healthy volumes for an object, the best first, by weighted
// rendezvous. Places name their disk, so this may change from version to version.
func (s *volumes) ranked(id sheepdog.ObjectID) []*volume { return ranked(s.all(), id) }

func ranked(order []*volume, id sheepdog.ObjectID) []*volume {
	if len(order) == 1 && order[0].takes() {
		return order
	}
	out := make([]*volume, 0, len(order))
	score := func(v *volume) float64 {
		h := mix64(uint64(id.Family)*0x9e3779b97f4a7c15 + uint64(id.Index) + uint64(v.id)<<40)
		return float64(v.weight) / -math.Log((float64(h>>11)+0.5)/(1<<53))
	}
	for _, v := range order {
		if !v.takes() {
			continue
		}
		i := len(out)
		out = append(out, v)
		for ; i > 0 && score(out[i-1]) < score(v); i-- {
			out[i] = out[i-1]
		}
		out[i] = v
	}
	return out
}

// errLeft is returned for a volume that takes nothing any more.
var errLeft = errors.New("disk is leaving")

// first calls use for volumes, the best first, until one returns nil. The error is
// that of the last that was in use. Disks may be swapped meanwhile, so that all of
// those that it knew have left: then it looks again.
func (s *volumes) first(rank func(order []*volume) []*volume, use func(*volume) error) error {
	for {
		set := s.set.Load()
		var err error
		for _, v := range rank(set.volumes()) {
			failed := use(v)
			if failed == nil {
				return nil
			}
			if failed != errLeft {
				err = failed
			}
		}
		if s.set.Load() != set {
			continue
		}
		if err == nil {
			err = fmt.Errorf("no disk works: %w", sheepdog.ErrIO)
		}
		return err
	}
}

// store allocates blocks for data and writes them, on the first volume that
// takes them.
func (s *volumes) store(id sheepdog.ObjectID, data []byte, by route, held uint64) (runs []run, err error) {
	rank := func(order []*volume) []*volume { return ranked(order, id) }
	err = s.first(rank, func(v *volume) (err error) {
		if err := v.admit(uint64(len(data)), held); err != nil {
			return err
		}
		if runs, err = v.put(data, LargeWrite/blockSize, by); err == nil {
			v.written.Add(1)
			if !by.direct {
				s.push(v, runs)
			}
		}
		return err
	})
	return runs, err
}

// put is place for a volume that may be leaving.
func (v *volume) put(data []byte, least uint64, by route) ([]run, error) {
	if !v.enter() {
		return nil, errLeft
	}
	defer v.leave()
	return v.place(data, least, by)
}

// place allocates blocks for data, for least see space.allocate, and writes them; the
// caller has entered.
func (v *volume) place(data []byte, least uint64, by route) ([]run, error) {
	runs, err := v.allocate(uint64(len(data)/blockSize), least)
	if err != nil {
		return nil, err
	}
	if err := writeRuns(v, runs, data, by); err != nil {
		v.free(runs)
		return nil, err
	}
	return runs, nil
}

func writeRuns(v *volume, runs []run, data []byte, by route) error {
	for _, r := range runs {
		n := int(r.n) * blockSize
		if err := v.write(r, data[:n], by); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// sync makes the large data that were written before it durable. It does not wait
// for a destage to sync what it moved, unless both have to.
func (s *volumes) sync() error {
	if !slices.ContainsFunc(s.all(), func(v *volume) bool { return !v.retired.Load() && v.needsSync() }) {
		return nil
	}
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	var errs []error
	for _, v := range s.all() {
		if !v.retired.Load() {
			errs = append(errs, v.sync(s.noSync))
		}
	}
	return errors.Join(errs...)
}

// lost is why a disk failed to keep data that flushes do not do without yet; nil: none did.
func (s *volumes) lost() error {
	for _, v := range s.all() {
		if lost := v.lost.Load(); lost != nil && !v.retired.Load() {
			return *lost
		}
	}
	return nil
}

// syncHealthy is sync for a destage: disks that had failed before it are left
// out, so that the others go on. Their blocks are errors of whoever reads them.
func (s *volumes) syncHealthy() error {
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	var errs []error
	healthy := 0
	var lost error
	for _, v := range s.all() {
		if e := v.lost.Load(); e != nil {
			lost = *e
			continue
		}
		if err := v.sync(s.noSync); err != nil {
			errs = append(errs, err)
		}
		healthy++
	}
	if healthy == 0 {
		return lost
	}
	return errors.Join(errs...)
}

// free gives runs back that no map and no reader can reach any more.
func (s *volumes) free(runs []run) {
	for _, r := range runs {
		if v := s.find(r.at.disk()); v != nil {
			v.space.free(r.at.block(), uint64(r.n))
		}
	}
}

func (s *volumes) usedBlocks() uint64 {
	var n uint64
	for _, v := range s.all() {
		n += v.space.usedBlocks()
	}
	return n
}

func (s *volumes) close() error {
	var errs []error
	for _, v := range s.all() {
		errs = append(errs, v.close())
	}
	return errors.Join(errs...)
}

// take is admit for data that need no look at a file system; false says nothing.
func (s *volumes) take(n uint64) bool {
	order := s.all()
	return len(order) == 1 && order[0].takes() && order[0].quota.take(n)
}

// admit asks for room for data that wait in the log.
func (s *volumes) admit(id sheepdog.ObjectID, n, held uint64) error {
	rank := func(order []*volume) []*volume { return ranked(order, id) }
	return s.first(rank, func(v *volume) error { return v.admit(n, held) })
}
