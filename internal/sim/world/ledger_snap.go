package world

import (
	"fmt"
	"slices"
)

// Snap is a snapshot of a VDI.
type Snap struct {
	Tag       string
	of        *record
	era       int
	call, ret moment
	seen      []value // what it holds, after the first look
	least     int     // cells that it has at least
	loose     bool    // nobody knows of which era it is
	group     *Snap   // another VDI's of the same moment; nil: none
	fate
}

// Snapshot begins a snapshot.
func (l *Ledger) Snapshot(name, tag string) *Snap {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count.Snapshots++
	r := l.disks[name]
	s := &Snap{Tag: tag, of: r, era: len(r.eras) - 1, call: l.tick(), ret: never, least: r.least, loose: r.rolling}
	r.snaps = append(r.snaps, s)
	return s
}

// Group begins a snapshot of two VDIs in one moment.
func (l *Ledger) Group(name, other, tag string) (s, o *Snap) {
	s, o = l.Snapshot(name, tag), l.Snapshot(other, tag)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count.Groups++
	s.group = o
	return s, o
}

// Taken says that the snapshot was taken: what was acknowledged before is
// durable.
func (l *Ledger) Taken(s *Snap) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.ret, s.made = l.tick(), true
	e := s.of.eras[s.era]
	e.flushed = max(e.flushed, s.call)
}

// SawSnap says what all of a snapshot reads as. The first look is a read of the
// VDI at the moment of the snapshot; later ones must see the same.
func (l *Ledger) SawSnap(s *Snap, p []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(p) / cellSize; n < s.least && !s.loose || n > s.of.cells || s.seen != nil && n != len(s.seen) {
		return l.fail("snapshot %s@%s has %d cells, and should have %d to %d", s.of.name, s.Tag, n, s.least, s.of.cells)
	}
	seen := make([]value, len(p)/cellSize)
	for i := range seen {
		v, err := readCell(p[i*cellSize:][:cellSize], i)
		if err != nil {
			return l.fail("snapshot %s@%s: %w", s.of.name, s.Tag, err)
		}
		seen[i] = v
	}
	if s.seen != nil {
		for i := range seen {
			if seen[i] != s.seen[i] {
				return l.fail("snapshot %s@%s changed: cell %d was %d and is %d", s.of.name, s.Tag, i, s.seen[i], seen[i])
			}
		}
		return nil
	}
	s.seen = seen
	if s.loose {
		return nil
	}
	ret := s.ret
	if ret == never {
		ret = l.tick()
	}
	if s.era < len(s.of.eras)-1 {
		ret = never - 1 // it was taken somewhere in an era that is over
	}
	s.ret = ret
	e := s.of.eras[s.era]
	for i, v := range seen {
		e.events[i] = append(e.events[i], event{v: v, call: s.call, ret: ret, by: -1})
	}
	return nil
}

// Rolling begins a rollback. Of snapshots that are under way or begin before its
// end nobody knows whether they were taken before it.
func (l *Ledger) Rolling(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.disks[name].rolling = true
	l.disks[name].loosen()
}

// RolledBack begins a new era of a VDI, which has become what a snapshot holds that
// somebody has looked at. No call may be under way, and none of unknown outcome
// may take effect any more.
func (l *Ledger) RolledBack(name string, to *Snap) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count.Rollbacks++
	r := l.disks[name]
	e := newEra(r.cells)
	for i := range e.initial {
		e.initial[i] = []value{0} // where the snapshot is smaller
		if i < len(to.seen) {
			e.initial[i][0] = to.seen[i]
		}
	}
	r.least = min(r.least, len(to.seen))
	r.eras = append(r.eras, e)
	r.loosen()
	r.rolling = false
}

func (r *record) loosen() {
	for _, s := range r.snaps {
		s.loose = s.loose || !s.made && s.seen == nil
	}
}

// consistent checks that one moment explains all cells, those of the other VDI of
// its group included.
func (s *Snap) consistent() error {
	w, err := s.window()
	if err != nil {
		return err
	}
	if o := s.group; o != nil && o.made && s.made {
		other, err := o.window()
		if err != nil {
			return err
		}
		w.join(other)
	}
	if w.low > w.high {
		return fmt.Errorf("it has a write to %s that began at %d, but lacks one to %s that was over at %d", w.has, w.low, w.lacks, w.high)
	}
	return nil
}

// window is the time in which a snapshot can have been taken.
type window struct {
	low, high  moment
	has, lacks string // the cells that say so
}

func (w *window) join(o window) {
	if o.low > w.low {
		w.low, w.has = o.low, o.has
	}
	if o.high < w.high {
		w.high, w.lacks = o.high, o.lacks
	}
}

// window is not before any write that the snapshot has, and before the end of any
// that replaced what it has.
func (s *Snap) window() (window, error) {
	w := window{low: s.call, high: s.ret}
	if s.seen == nil || s.loose {
		return window{low: before, high: never}, nil
	}
	e := s.of.eras[s.era]
	for i, v := range s.seen {
		events := slices.DeleteFunc(slices.Clone(e.events[i]), func(ev event) bool { return ev.by == -1 })
		if slices.ContainsFunc(events, func(ev event) bool { return ev.write && ev.v == 0 }) {
			continue
		}
		all, err := lifetimes(events, e.initial[i])
		if err != nil {
			return w, err
		}
		mine := all[v]
		if mine == nil {
			mine = &lifetime{v: v, minRet: before, maxCall: before, call: before}
		}
		cell := fmt.Sprintf("cell %d of %s", i, s.of.name)
		w.join(window{low: mine.call, high: never, has: cell})
		for _, o := range all {
			if o != mine && o.after(mine) {
				w.join(window{low: before, high: o.minRet, lacks: cell})
			}
		}
	}
	return w, nil
}
