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
	loose     bool    // nobody knows of which era it is
	fate
}

// Snapshot begins a snapshot.
func (l *Ledger) Snapshot(name, tag string) *Snap {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count.Snapshots++
	r := l.disks[name]
	s := &Snap{Tag: tag, of: r, era: len(r.eras) - 1, call: l.tick(), ret: never}
	r.snaps = append(r.snaps, s)
	return s
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
	seen := make([]value, s.of.cells)
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

// RolledBack begins a new era of a VDI, which has become what a snapshot holds that
// somebody has looked at. No call may be under way. A call of unknown outcome
// must not take effect any more; of a snapshot of unknown outcome nobody knows
// whether it was taken before.
func (l *Ledger) RolledBack(name string, to *Snap) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count.Rollbacks++
	r := l.disks[name]
	e := newEra(r.cells)
	for i := range e.initial {
		e.initial[i] = []value{to.seen[i]}
	}
	r.eras = append(r.eras, e)
	for _, s := range r.snaps {
		s.loose = s.loose || !s.made && s.seen == nil
	}
}

// consistent checks that one moment explains all cells: not before any write
// that the snapshot has, and before the end of any that replaced what it has.
func (s *Snap) consistent() error {
	if s.seen == nil || s.loose {
		return nil
	}
	low, high := s.call, s.ret
	lowCell, highCell := -1, -1
	e := s.of.eras[s.era]
	for i, v := range s.seen {
		events := slices.DeleteFunc(slices.Clone(e.events[i]), func(ev event) bool { return ev.by == -1 })
		if slices.ContainsFunc(events, func(ev event) bool { return ev.write && ev.v == 0 }) {
			continue
		}
		all, err := lifetimes(events, e.initial[i])
		if err != nil {
			return err
		}
		mine := all[v]
		if mine == nil {
			mine = &lifetime{v: v, minRet: before, maxCall: before, call: before}
		}
		if mine.call > low {
			low, lowCell = mine.call, i
		}
		for _, o := range all {
			if o != mine && o.after(mine) && o.minRet < high {
				high, highCell = o.minRet, i
			}
		}
	}
	if low > high {
		return fmt.Errorf("it has a write to cell %d that began at %d, but lacks one to cell %d that was over at %d", lowCell, low, highCell, high)
	}
	return nil
}
