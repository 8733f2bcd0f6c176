package objectstore

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"sheepdog"
)

// volumes is the disks of a store by id. The set is fixed while it is open.
type volumes struct {
	byID   map[diskID]*volume
	order  []*volume // ascending by id
	noSync bool
	syncMu sync.Mutex // one sync at a time, see volume.sync
}

func (s *volumes) volume(id diskID) (*volume, error) {
	v := s.byID[id]
	if v == nil {
		return nil, fmt.Errorf("disk %d is missing: %w", id, sheepdog.ErrIO)
	}
	return v, nil
}

// ranked lists the healthy volumes for an object, the best first, by weighted
// rendezvous. Places name their disk, so this may change from version to version.
func (s *volumes) ranked(id sheepdog.ObjectID) []*volume {
	if len(s.order) == 1 && !s.order[0].failed.Load() {
		return s.order
	}
	out := make([]*volume, 0, len(s.order))
	score := func(v *volume) float64 {
		h := mix64(uint64(id.Family)*0x9e3779b97f4a7c15 + uint64(id.Index) + uint64(v.id)<<40)
		return float64(v.weight) / -math.Log((float64(h>>11)+0.5)/(1<<53))
	}
	for _, v := range s.order {
		if v.failed.Load() {
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

// store allocates blocks for data and writes them, on the first volume that
// takes them.
func (s *volumes) store(id sheepdog.ObjectID, data []byte, held uint64) ([]run, error) {
	err := fmt.Errorf("no disk works: %w", sheepdog.ErrIO)
	for _, v := range s.ranked(id) {
		if err = v.admit(uint64(len(data)), held); err != nil {
			continue
		}
		var runs []run
		if runs, err = v.allocate(uint64(len(data) / blockSize)); err != nil {
			continue
		}
		if err = writeRuns(v, runs, data); err == nil {
			return runs, nil
		}
		v.free(runs)
	}
	return nil, err
}

func writeRuns(v *volume, runs []run, data []byte) error {
	for _, r := range runs {
		n := int(r.n) * blockSize
		if err := v.write(r, data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// sync makes the extents that were written before it durable.
func (s *volumes) sync() error {
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	var errs []error
	for _, v := range s.order {
		errs = append(errs, v.sync(s.noSync))
	}
	return errors.Join(errs...)
}

// syncHealthy is sync for a destage: disks that had failed before it are left
// out, so that the others go on. Their blocks are errors of whoever reads them.
func (s *volumes) syncHealthy() error {
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	var errs []error
	healthy := 0
	for _, v := range s.order {
		if v.lost != nil {
			continue
		}
		if err := v.sync(s.noSync); err != nil {
			errs = append(errs, err)
		}
		healthy++
	}
	if healthy == 0 {
		return s.order[0].lost
	}
	return errors.Join(errs...)
}

// free gives runs back that no map and no reader can reach any more.
func (s *volumes) free(runs []run) {
	for _, r := range runs {
		if v := s.byID[r.at.disk()]; v != nil {
			v.space.free(r.at.block(), uint64(r.n))
		}
	}
}

func (s *volumes) usedBlocks() uint64 {
	var n uint64
	for _, v := range s.order {
		n += v.space.usedBlocks()
	}
	return n
}

func (s *volumes) close() error {
	var errs []error
	for _, v := range s.order {
		errs = append(errs, v.close())
	}
	return errors.Join(errs...)
}

// admit asks for room for data that wait in the log.
func (s *volumes) admit(id sheepdog.ObjectID, n, held uint64) error {
	err := fmt.Errorf("no disk works: %w", sheepdog.ErrIO)
	for _, v := range s.ranked(id) {
		if err = v.admit(n, held); err == nil {
			return nil
		}
	}
	return err
}

// add takes a volume in, in the order of ids.
func (s *volumes) add(v *volume) {
	s.byID[v.id] = v
	s.order = append(s.order, v)
	slices.SortFunc(s.order, func(a, b *volume) int { return cmp.Compare(a.id, b.id) })
}
